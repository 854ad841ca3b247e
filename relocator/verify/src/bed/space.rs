//! The address space of a program that has not begun yet.

use std::io;
use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name;
use procfs::process::{MMapPath, MemoryMap, Process};
use relocator::source::LiveMapping;
use relocator_process::running::kernel_mapping;

use super::{Error, Result};

/// How far below the stack the old text is put. The kernel keeps at least 128 MiB free there for the stack to grow, and
/// nothing is mapped there unless asked for by address.
const BELOW_STACK: u64 = 64 << 20;

/// A snapshot of its mappings.
pub(super) struct Space {
    maps: Vec<MemoryMap>,
}

impl Space {
    pub(super) fn of(pid: i32) -> Result<Self> {
        let maps = Process::new(pid).and_then(|process| process.maps());
        let failed =
            |error| Error::system(format!("mappings of process {pid}"))(io::Error::other(error));
        let maps = maps.map_err(failed)?;
        Ok(Self {
            maps: maps.into_iter().collect(),
        })
    }

    /// The kernel's mappings, ascending.
    pub(super) fn unit(&self) -> Result<Vec<LiveMapping>> {
        let mappings = self.maps.iter().filter_map(|map| {
            Some(LiveMapping {
                name: kernel_mapping(&map.pathname)?.to_owned(),
                start: Avma(map.address.0),
                size: map.address.1 - map.address.0,
            })
        });
        let mappings: Vec<_> = mappings.collect();
        let has = |name| mappings.iter().any(|mapping| mapping.name == name);
        match has(mapping_name::VDSO) && has(mapping_name::VVAR) {
            true => Ok(mappings),
            false => Err(Error::missing("a vDSO of the running kernel")),
        }
    }

    /// Where nothing will be in the way of something of that size.
    pub(super) fn place(&self, size: u64) -> Result<Avma> {
        let stack = self.maps.iter().find(|map| map.pathname == MMapPath::Stack);
        let stack = stack.ok_or_else(|| Error::missing("a stack"))?.address.0;
        let start = stack.checked_sub(BELOW_STACK.saturating_add(size));
        start
            .map(Avma)
            .ok_or_else(|| Error::missing("room below the stack"))
    }

    /// Fails where something is mapped.
    pub(super) fn check_free(&self, what: &'static str, range: &Range<Avma>) -> Result<()> {
        let taken = self
            .maps
            .iter()
            .find(|map| map.address.0 < range.end.0 && range.start.0 < map.address.1);
        match taken {
            None => Ok(()),
            Some(map) => Err(Error::Place {
                what,
                at: range.start,
                reason: format!("there is {:?}", map.pathname),
            }),
        }
    }
}
