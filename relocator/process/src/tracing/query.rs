//! Single mappings of a process, without the list of all of them (`PROCMAP_QUERY`, since Linux
//! 6.11; `linux/fs.h`).

#![allow(
    unsafe_code,
    reason = "an ioctl that has no safe interface; its buffers are borrowed for the call"
)]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use elf_tools::Avma;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::targets::{Mapping, Protection};

/// `struct procmap_query`
#[derive(Debug, Default)]
#[repr(C)]
struct Query {
    size: u64,
    flags: u64,
    at: u64,
    start: u64,
    end: u64,
    protection: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// `PROCMAP_QUERY_COVERING_OR_NEXT_VMA`
const COVERING_OR_NEXT: u64 = 0x10;

/// Bytes of a name, as long as a path can be.
const NAME: usize = 4096;

nix::ioctl_readwrite!(
    /// `PROCMAP_QUERY`
    procmap_query,
    b'f',
    17,
    Query
);

/// What can be asked about mappings of a process.
#[derive(Debug)]
pub(crate) struct MappingQuery(File);

impl MappingQuery {
    /// Of a process; `None` where the kernel does not answer.
    pub(crate) fn open(pid: Pid) -> Option<Self> {
        let query = Self(File::open(format!("/proc/{pid}/maps")).ok()?);
        query.next(Avma(0)).is_ok().then_some(query)
    }

    /// Whether the mappings in a range are those of `known`, all of which are lowest first.
    pub(crate) fn is_as_known(&self, range: &Range<Avma>, known: &[Mapping]) -> bool {
        let mut at = range.start;
        let first = known.partition_point(|mapping| mapping.range.end <= at);
        let mut known = known[first..].iter();
        while at < range.end {
            let now = self.next(at).ok().flatten();
            let now = now.filter(|now| now.range.start < range.end);
            let then = known.next().filter(|then| then.range.start < range.end);
            match (now, then) {
                (None, None) => return true,
                (Some(now), Some(then)) if now == *then => at = now.range.end,
                _ => return false,
            }
        }
        true
    }

    /// The mapping that an address is in, or else the next one.
    fn next(&self, at: Avma) -> nix::Result<Option<Mapping>> {
        let mut name = [0u8; NAME];
        let mut query = Query {
            size: size_of::<Query>() as u64,
            flags: COVERING_OR_NEXT,
            at: at.0,
            name_size: NAME as u32,
            name: name.as_mut_ptr().addr() as u64,
            ..Query::default()
        };
        // SAFETY: the kernel writes to the structure and to the buffer that it describes, both of
        // which are borrowed here.
        match unsafe { procmap_query(self.0.as_raw_fd(), &raw mut query) } {
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno),
            Ok(_) => {}
        }
        // Its size counts the zero at its end.
        let size = (query.name_size as usize).saturating_sub(1);
        let name = name.get(..size).unwrap_or_default();
        let has = |bit: u64| query.protection & bit != 0;
        Ok(Some(Mapping {
            range: Avma(query.start)..Avma(query.end),
            protection: Protection {
                read: has(1),
                write: has(2),
                execute: has(4),
                shared: has(8),
            },
            name: String::from_utf8_lossy(name).into_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps;

    #[test]
    fn it_says_what_the_list_says() {
        let Some(query) = MappingQuery::open(Pid::this()) else {
            // An older kernel.
            return;
        };
        // Other tests map and unmap memory meanwhile; what the kernel maps, and files, stay.
        let all = maps::own().unwrap();
        // That is a mapping of no process, but the list has it.
        let is_legacy = |mapping: &Mapping| mapping.name == "[vsyscall]";
        let stays = |mapping: &&Mapping| mapping.protection.execute && !is_legacy(mapping);
        let mut count = 0;
        for mapping in all.iter().filter(stays) {
            assert!(query.is_as_known(&mapping.range, &all), "{mapping:?}");
            let inside = Avma(mapping.range.start.0 + 1)..mapping.range.end;
            assert!(query.is_as_known(&inside, &all));
            let other = Mapping {
                protection: Protection::default(),
                ..mapping.clone()
            };
            assert!(!query.is_as_known(&mapping.range, &[other]));
            assert!(!query.is_as_known(&mapping.range, &[]));
            count += 1;
        }
        assert!(count > 2);
        assert!(query.is_as_known(&(Avma(0)..Avma(0x1000)), &[]));
    }
}
