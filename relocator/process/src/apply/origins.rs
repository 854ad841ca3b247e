//! Where the kernel's mappings were before any link: they go back there when a link is undone.
//!
//! Each record in the process says from where its tool has moved them, or was to move them, and to
//! where. A tool that was killed may have moved some of them, and its record may be in a copy that
//! the next tool takes for a leftover. So all records count. A restore puts the mappings elsewhere,
//! and jumps into the texts: while those are there, the mappings are where they belong.

use elf_tools::Avma;

use super::recognise::KernelUnit;
use super::record::Placed;
use super::recovery::RecoveryCopy;
use super::text::Text;

/// What all records in a process say, those of texts first.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<Placed>);

impl Origins {
    /// In a process with these texts, and copies of texts.
    pub(super) fn of(texts: &[Text], copies: &[RecoveryCopy]) -> Self {
        if texts.iter().any(Text::has_jumps) {
            return Self::default();
        }
        let records = texts.iter().filter_map(|text| text.record.as_ref());
        let records = records.flat_map(|found| &found.record.kernel);
        let interrupted = texts.iter().filter_map(|text| text.interrupted.as_ref());
        let interrupted = interrupted.flat_map(|one| &one.kernel);
        let copies = copies.iter().flat_map(RecoveryCopy::kernel);
        Self(records.chain(interrupted).chain(copies).cloned().collect())
    }

    /// Where a mapping that is at a place now was in the beginning, if records know the place.
    fn of_one(&self, name: &str, at: Avma) -> Option<Avma> {
        let mut known = self.0.iter().filter(|one| one.name == name);
        let mut is_origin = known.clone();
        let moved = known.find(|one| one.to == at).map(|one| one.from);
        moved.or_else(|| is_origin.any(|one| one.from == at).then_some(at))
    }

    /// The mappings, with where they were in the beginning.
    pub(super) fn complete(&self, placed: &[Placed]) -> Vec<Placed> {
        let origin = |placed: &Placed| {
            let from = self.of_one(&placed.name, placed.from);
            Placed {
                from: from.unwrap_or(placed.from),
                ..placed.clone()
            }
        };
        placed.iter().map(origin).collect()
    }

    /// How the mappings go back, if records know all of their places.
    pub(super) fn back(&self, unit: &KernelUnit) -> Option<Vec<Placed>> {
        let mappings = unit.mappings.iter().map(|mapping| {
            let at = mapping.range.start;
            Some(Placed {
                name: mapping.name.to_owned(),
                size: mapping.range.end.0 - at.0,
                from: at,
                to: self.of_one(mapping.name, at)?,
            })
        });
        mappings.collect()
    }
}
