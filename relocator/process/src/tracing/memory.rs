//! The memory of another process.

use std::io::IoSliceMut;
use std::ops::Range;

use elf_tools::Avma;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::pagemap::Pagemap;
use crate::targets::Mapping;
use relocator::threads::frames::merge;
use relocator::threads::{Memory, Populated};

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

/// The memory of a process as far as stacks are concerned: it also knows which pages hold nothing.
#[derive(Debug)]
pub(crate) struct StackMemory {
    memory: ProcessMemory,
    pagemap: Option<Pagemap>,
    /// Where a page that is neither present nor swapped out holds zeros, lowest first: private
    /// memory without a file, but for what a `userfaultfd` fills when it is touched.
    anonymous: Vec<Range<Avma>>,
}

impl StackMemory {
    /// Of a process with these mappings, of which `on_demand` are filled when they are touched.
    pub(crate) fn new(pid: Pid, mappings: &[Mapping], on_demand: &[Range<Avma>]) -> Self {
        let anonymous = mappings.iter().filter(|mapping| mapping.is_anonymous());
        let anonymous: Vec<_> = anonymous.map(|mapping| mapping.range.clone()).collect();
        let anonymous = crate::targets::subtract(merge(&anonymous), on_demand.iter().cloned());
        Self {
            memory: ProcessMemory::of(pid),
            pagemap: Pagemap::open(pid).ok(),
            anonymous,
        }
    }
}

impl Memory for StackMemory {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        self.memory.read(at, bytes)
    }

    fn read_ranges(&self, ranges: &[Range<Avma>], bytes: &mut [u8]) -> usize {
        self.memory.read_ranges(ranges, bytes)
    }

    fn populated(&self, range: Range<Avma>) -> Populated {
        let mut parts = Vec::new();
        let mut at = range.start;
        let first = self.anonymous.partition_point(|known| known.end <= at);
        for known in &self.anonymous[first..] {
            let known = known.start.max(at)..known.end.min(range.end);
            if known.is_empty() {
                break;
            }
            if at < known.start {
                parts.push(at..known.start);
            }
            at = known.end;
            let pagemap = self.pagemap.as_ref();
            match pagemap.and_then(|pagemap| pagemap.populated(known.clone()).ok()) {
                None => parts.push(known),
                Some(found) => {
                    parts.extend(found.parts);
                    if found.end < known.end {
                        let end = found.end;
                        return Populated { parts, end };
                    }
                }
            }
        }
        if at < range.end {
            parts.push(at..range.end);
        }
        Populated {
            parts,
            end: range.end,
        }
    }
}
