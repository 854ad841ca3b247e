//! Signal handlers as the kernel takes them.

use elf_tools::Avma;
use nix::libc;

/// The `sigaction` of the kernel, which libc's wraps with a restorer of its own.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct SignalAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// `SA_RESTORER` of `asm/signal.h`: the handler returns to the restorer.
const RESTORER: u64 = 0x0400_0000;

impl SignalAction {
    /// A handler that gets three arguments and returns to `restorer`, with more `flags`.
    pub(crate) fn new(handler: Avma, restorer: Avma, flags: u64) -> Self {
        Self {
            handler: handler.0,
            flags: flags | RESTORER | libc::SA_SIGINFO as u64,
            restorer: restorer.0,
            mask: 0,
        }
    }
}
