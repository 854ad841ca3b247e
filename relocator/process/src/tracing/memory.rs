//! The memory of another process.

use std::io::IoSliceMut;

use elf_tools::Avma;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use relocator::threads::Memory;

/// What a process has in its memory. It is read without being stopped for it.
#[derive(Debug, Clone, Copy)]
pub struct ProcessMemory {
    pid: Pid,
}

impl ProcessMemory {
    /// Of the process that this thread belongs to.
    pub fn of(pid: Pid) -> Self {
        Self { pid }
    }
}

impl Memory for ProcessMemory {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let len = bytes.len();
        let Ok(base) = usize::try_from(at.0) else {
            return false;
        };
        let remote = [RemoteIoVec { base, len }];
        process_vm_readv(self.pid, &mut [IoSliceMut::new(bytes)], &remote) == Ok(len)
    }
}
