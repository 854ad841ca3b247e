//! What verifying knows of an architecture: how code of our own stops a thread, how calls and
//! system calls begin and end in registers, and what the kernel is told of signal handlers.
//!
//! Another architecture is another folder with the same functions; see `x86_64` for what each has
//! to say.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
