//! What is about one architecture: which files a vDSO consists of, and how they are compiled.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;
