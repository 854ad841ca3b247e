//! The vvar placeholder: pages of zeros, which a restore leaves where the old vvar was.

use std::ops::Range;

use elf_tools::Avma;

use crate::targets::{Mapping, Protection};
use relocator::placement::PAGE;
use relocator::threads::Memory;

/// The most pages that a placeholder may have. Stock kernels have up to 6.
pub const MAX_PLACEHOLDER: u64 = 16;

/// How they can be used.
const ZEROS: Protection = Protection {
    read: true,
    write: false,
    execute: false,
    shared: false,
};

/// The pages of zeros that end at `below`, in mappings that have no name and can only be read.
///
/// Mappings of more than [`MAX_PLACEHOLDER`] pages are the program's own, whatever they hold, and
/// end the search.
pub fn vvar_placeholder(
    mappings: &[Mapping],
    memory: &dyn Memory,
    below: Avma,
) -> Option<Range<Avma>> {
    let mut start = below;
    let lowest = below.0.saturating_sub(MAX_PLACEHOLDER * PAGE);
    let first = mappings.partition_point(|mapping| mapping.range.end <= start);
    for mapping in mappings[..first].iter().rev() {
        let is_alike = mapping.range.end == start
            && is_zeros(mapping)
            && mapping.size() <= MAX_PLACEHOLDER * PAGE;
        if !is_alike {
            break;
        }
        let end = lowest.max(mapping.range.start.0);
        while start.0 > end && is_zero(memory, Avma(start.0 - PAGE)) {
            start = Avma(start.0 - PAGE);
        }
        if start != mapping.range.start {
            break;
        }
    }
    (start < below).then_some(start..below)
}

/// Whether a mapping can be a placeholder, whatever it holds.
pub(in crate::apply) fn is_zeros(mapping: &Mapping) -> bool {
    mapping.name.is_empty() && mapping.protection == ZEROS
}

fn is_zero(memory: &dyn Memory, page: Avma) -> bool {
    let mut bytes = [0xff; PAGE as usize];
    memory.read(page, &mut bytes) && bytes.iter().all(|byte| *byte == 0)
}
