//! The child's own address space: where the kernel's mappings are, and where there is room.

use std::fs::File;
use std::os::unix::fs::FileExt;

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::mapping_name;

use crate::{Error, Result};
use relocator::placement::PAGE;
use relocator_process::maps;
use relocator_process::targets::Mapping;

/// How far linked code may be from the kernel's mappings: operands reach 2 GiB, and the code itself
/// takes some of that.
const REACH: u64 = 1 << 30;

/// The name of the stack in `/proc/self/maps`.
const STACK: &str = "[stack]";

/// Room that is left below the stack, which grows.
const STACK_RESERVE: u64 = 16 << 20;

/// Lowest address that is tried; the kernel refuses the first pages.
const LOWEST: u64 = 1 << 20;

/// A snapshot of the mappings of this process.
#[derive(Debug)]
pub(crate) struct AddressSpace {
    maps: Vec<Mapping>,
}

impl AddressSpace {
    /// Reads `/proc/self/maps`.
    pub(crate) fn read() -> Result<Self> {
        let maps = maps::own().map_err(Error::io("/proc/self/maps"))?;
        Ok(Self { maps })
    }

    /// Where the running kernel's mappings are, by name.
    pub(crate) fn mappings(&self) -> Vec<(String, Avma)> {
        self.kernel_mappings()
            .map(|(name, map)| (name.to_owned(), map.range.start))
            .collect()
    }

    /// The running kernel's vDSO as it is in memory.
    pub(crate) fn live_vdso(&self) -> Result<Image> {
        let found = self
            .kernel_mappings()
            .find(|(name, _)| *name == mapping_name::VDSO);
        let vdso = found.ok_or_else(no_vdso)?.1;
        let memory = File::open("/proc/self/mem").map_err(Error::io("/proc/self/mem"))?;
        let mut bytes = vec![0; usize::try_from(vdso.size()).unwrap_or_default()];
        memory
            .read_exact_at(&mut bytes, vdso.range.start.0)
            .map_err(Error::io("the running vDSO"))?;
        Image::parse(&bytes).map_err(Error::input("the running vDSO"))
    }

    /// The start of the free range of `size` bytes that is nearest to the kernel's mappings and in
    /// reach of them.
    pub(crate) fn hole(&self, size: u64) -> Result<Avma> {
        let size = size.next_multiple_of(PAGE);
        let unit = || self.kernel_mappings().map(|(_, map)| &map.range);
        let start = unit().map(|range| range.start.0).min();
        let end = unit().map(|range| range.end.0).max();
        let (start, end) = start.zip(end).ok_or_else(no_vdso)?;
        let candidates = self
            .gaps()
            .into_iter()
            .flat_map(|gap| candidates(gap, size, (start, end)));
        let distance = |at: u64| {
            at.abs_diff(start)
                .max(at.saturating_add(size).abs_diff(end))
        };
        let nearest = candidates
            .min_by_key(|&at| distance(at))
            .filter(|&at| distance(at) <= REACH);
        nearest.map(Avma).ok_or_else(|| Error::Unlinkable {
            what: format!("an image of {size:#x} bytes"),
            reason: "no free range near the vDSO of this process".to_owned(),
        })
    }

    /// Fails if memory can be both written and executed: linked code must never have been writable
    /// while it could run.
    pub(crate) fn check_protection(&self) -> Result<()> {
        let both = |map: &&Mapping| map.protection.write && map.protection.execute;
        match self.maps.iter().find(both) {
            None => Ok(()),
            Some(map) => {
                let (start, end) = (map.range.start.0, map.range.end.0);
                let what =
                    format!("has memory that is writable and executable at {start:#x}-{end:#x}");
                Err(Error::Child { what })
            }
        }
    }

    fn kernel_mappings(&self) -> impl Iterator<Item = (&'static str, &Mapping)> {
        self.maps
            .iter()
            .filter_map(|map| maps::kernel_name(map).map(|name| (name, map)))
    }

    /// Ranges between mappings, without what stacks may grow into.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::with_capacity(self.maps.len());
        let mut free = LOWEST;
        for map in &self.maps {
            let reserve = if map.name == STACK { STACK_RESERVE } else { 0 };
            let end = map.range.start.0.saturating_sub(reserve);
            if end > free {
                gaps.push((free, end));
            }
            free = free.max(map.range.end.0);
        }
        gaps
    }
}

/// The lowest and the highest place in a gap, and the places next to `unit`, with a page to spare
/// on both sides.
fn candidates(gap: (u64, u64), size: u64, unit: (u64, u64)) -> Vec<u64> {
    let low = gap.0.saturating_add(PAGE);
    let high = gap.1.saturating_sub(PAGE).saturating_sub(size);
    let beside = [
        low,
        high,
        unit.0.saturating_sub(size).clamp(low, high.max(low)),
    ];
    beside
        .into_iter()
        .filter(|&at| at >= low && at <= high && high < gap.1)
        .collect()
}

fn no_vdso() -> Error {
    let reason = "this process has no vDSO; the kernel was started without one".to_owned();
    Error::Unlinkable {
        what: "an image".to_owned(),
        reason,
    }
}

#[cfg(test)]
#[path = "address_space_tests.rs"]
mod tests;
