//! The address space of a program that has not begun yet.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name;
use relocator::source::LiveMapping;
use relocator_process::maps;
use relocator_process::targets::Mapping;

use super::{Error, Result};

/// How far below the stack the old text is put. The kernel keeps at least 128 MiB free there for
/// the stack to grow, and nothing is mapped there unless asked for by address.
const BELOW_STACK: u64 = 64 << 20;

/// A snapshot of its mappings.
pub(super) struct Space {
    maps: Vec<Mapping>,
}

impl Space {
    pub(super) fn of(pid: i32) -> Result<Self> {
        let maps = maps::of(pid);
        let maps = maps.map_err(Error::system(format!("mappings of process {pid}")))?;
        Ok(Self { maps })
    }

    /// The kernel's mappings, ascending.
    pub(super) fn unit(&self) -> Result<Vec<LiveMapping>> {
        let mappings = self.maps.iter().filter_map(|map| {
            Some(LiveMapping {
                name: maps::kernel_name(map)?.to_owned(),
                start: map.range.start,
                size: map.size(),
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
        let stack = self.maps.iter().find(|map| map.name == "[stack]");
        let stack = stack
            .ok_or_else(|| Error::missing("a stack"))?
            .range
            .start
            .0;
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
            .find(|map| map.range.start < range.end && range.start < map.range.end);
        match taken {
            None => Ok(()),
            Some(map) => Err(Error::Place {
                what,
                at: range.start,
                reason: format!("there is `{}`", map.name),
            }),
        }
    }
}
