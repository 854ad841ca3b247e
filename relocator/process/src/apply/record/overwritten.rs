//! What CRIU's jumps had overwritten before a link.
//!
//! The tool that linked the text knew these bytes, from the user or from its cache. A machine that
//! the process comes to later may know neither, and finds them here.

use std::ops::Range;

use elf_tools::Avma;

use super::{Before, Record};

/// What a record says that was overwritten of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overwritten {
    /// Build-id of the image.
    pub build_id: Vec<u8>,
    /// The bytes as its kernel had prepared them. Where runs overlap, the first one counts.
    pub runs: Vec<Before>,
}

impl Overwritten {
    /// What a record keeps.
    pub fn of(record: &Record) -> Self {
        Self {
            build_id: record.old.clone(),
            runs: record.overwritten.clone(),
        }
    }

    /// What was in a range; `None` if not all of it is known.
    pub fn part(&self, range: Range<Avma>) -> Option<Vec<u8>> {
        let byte = |at: u64| {
            let bytes = self.runs.iter().filter_map(|run| {
                let index = at.checked_sub(run.at.0)?;
                run.bytes.get(usize::try_from(index).ok()?)
            });
            bytes.copied().next()
        };
        (range.start.0..range.end.0).map(byte).collect()
    }
}

impl Record {
    /// What a record has to keep of the bytes `original`, which begin at `base`: those in `places`,
    /// where they are overwritten. What of a place is elsewhere is passed over.
    pub fn runs_in(original: &[u8], base: Avma, places: &[Range<Avma>]) -> Vec<Before> {
        let mut other = original.to_vec();
        let addresses = places.iter().flat_map(|place| place.start.0..place.end.0);
        let indices = addresses.filter_map(|address| address.checked_sub(base.0));
        for index in indices.filter_map(|index| usize::try_from(index).ok()) {
            if let (Some(byte), Some(original)) = (other.get_mut(index), original.get(index)) {
                *byte = !original;
            }
        }
        Self::difference(original, &other, base)
    }
}

#[cfg(test)]
mod tests;
