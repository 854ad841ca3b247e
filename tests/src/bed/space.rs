//! The address space of a program that has not begun yet.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name;
use relocator::source::LiveMapping;
use relocator_process::maps;
use relocator_process::targets::Mapping;

/// How far below the stack the old text is put. The kernel keeps at least 128 MiB free there for
/// the stack to grow, and nothing is mapped there unless asked for by address.
const BELOW_STACK: u64 = 64 << 20;

/// A snapshot of its mappings.
pub(super) struct Space {
    maps: Vec<Mapping>,
}

impl Space {
    pub(super) fn of(pid: i32) -> Result<Self, String> {
        let maps = maps::of(pid);
        let maps = maps.map_err(|error| format!("mappings of process {pid}: {error}"))?;
        Ok(Self { maps })
    }

    /// The kernel's mappings, ascending.
    pub(super) fn unit(&self) -> Result<Vec<LiveMapping>, String> {
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
            false => Err("the kernel maps no vDSO".to_owned()),
        }
    }

    /// Where nothing will be in the way of something of that size.
    pub(super) fn place(&self, size: u64) -> Result<Avma, String> {
        let stack = self.maps.iter().find(|map| map.name == "[stack]");
        let stack = stack.ok_or("it has no stack")?.range.start.0;
        let start = stack.checked_sub(BELOW_STACK.saturating_add(size));
        start
            .map(Avma)
            .ok_or_else(|| "its stack is too low".to_owned())
    }

    /// Fails where something is mapped.
    pub(super) fn check_free(&self, what: &str, range: &Range<Avma>) -> Result<(), String> {
        let taken = self
            .maps
            .iter()
            .find(|map| map.range.start < range.end && range.start < map.range.end);
        match taken {
            None => Ok(()),
            Some(map) => Err(format!(
                "{what} does not fit at {}: there is `{}`",
                range.start, map.name
            )),
        }
    }
}
