//! The memory of another process.

use std::io::IoSliceMut;
use std::ops::Range;

use elf_tools::Avma;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use relocator::threads::Memory;

/// What a process has in its memory. It is read without being stopped for it.
///
/// A page that is not there may have to be brought by somebody, who may be the process itself, and
/// reading it waits for that without an end. `Reader` gives up in time, and
/// `StandingMemory` does not wait.
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

    /// By one system call, if there are no more ranges than it takes. The kernel copies page by
    /// page, up to the first one that it cannot read.
    fn read_ranges(&self, ranges: &[Range<Avma>], bytes: &mut [u8]) -> usize {
        /// `UIO_MAXIOV`
        const AT_ONCE: usize = 1024;
        let mut done = 0;
        for ranges in ranges.chunks(AT_ONCE) {
            let remote = ranges.iter().map(|range| RemoteIoVec {
                base: range.start.0 as usize,
                len: (range.end.0 - range.start.0) as usize,
            });
            let remote: Vec<RemoteIoVec> = remote.collect();
            let size: usize = remote.iter().map(|range| range.len).sum();
            let Some(place) = bytes.get_mut(done..done + size) else {
                break;
            };
            let read = process_vm_readv(self.pid, &mut [IoSliceMut::new(place)], &remote);
            let read = read.unwrap_or_default();
            done += read;
            if read < size {
                break;
            }
        }
        done
    }
}
