//! What is about one architecture: the emulator's program, its machine, and where libraries are.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;
