//! Recovery copies: copies of linked texts that a killed tool has left in a process.
//!
//! Before the tool changes a text, the process holds a copy of the linked one, with its record: of
//! the one that comes, or of the one that goes. So if the next tool finds a text with interim
//! entries, the record in the copy says what the entries were.

use std::ops::Range;

use elf_tools::Avma;

use super::chunk::MemoryChunk;
use super::recognise::{OldText, record_in};
use super::record::{Before, Overwritten, Placed, Record};
use crate::targets::live::injected_call;
use crate::targets::{Mapping, WORD};
use crate::{Error, Result, Unlinkable};
use relocator::criu;
use relocator::placement::PAGE;
use relocator::threads::Memory;

/// A copy.
#[derive(Debug)]
pub(super) struct RecoveryCopy {
    /// What it says of the text that it is a copy of.
    record: Record,
    /// The copy, as if it was there.
    linked: MemoryChunk,
    /// What the process is to have without a link.
    base: MemoryChunk,
}

/// An apply that was interrupted: its tool was killed while it replaced a text.
#[derive(Debug, Clone)]
pub(super) struct InterruptedApply {
    /// What the process is to have without a link.
    pub(super) base: MemoryChunk,
    /// Where placeholders are, or were.
    pub(super) placeholders: Vec<Range<Avma>>,
    /// The kernel's mappings, where they were and where they are, or were to be.
    pub(super) kernel: Vec<Placed>,
    /// What jumps have overwritten in it.
    pub(super) overwritten: Overwritten,
    /// Whether the process is ready for a dump: it holds what the copy holds.
    pub(super) is_prepared: bool,
}

impl RecoveryCopy {
    /// What a mapping is a copy of; `None` if it is none, or if something else has become part of
    /// it.
    pub(super) fn of(copy: &OldText) -> Result<Option<Self>> {
        let record = Record::copied(&copy.bytes, copy.mapping.start);
        let Some(record) = record.filter(|_| images(&copy.bytes) == 1) else {
            return Ok(None);
        };
        let before = copy.image.0 - copy.mapping.start.0;
        let start = record.image.0.checked_sub(before).map(Avma);
        let at = start.ok_or_else(|| Error::Unlinkable {
            what: format!("the copy of a vDSO at {}", copy.image),
            reason: Unlinkable::CopyOfNothing {
                image: record.image,
            },
        })?;
        Self::new(record, at, &copy.bytes).map(Some)
    }

    /// Of a text that would begin at `at`.
    fn new(record: Record, at: Avma, bytes: &[u8]) -> Result<Self> {
        let linked = MemoryChunk {
            at,
            bytes: bytes.to_vec(),
        };
        let base = MemoryChunk {
            at: record.text.start,
            bytes: record.undone(bytes, at)?,
        };
        Ok(Self {
            record,
            linked,
            base,
        })
    }

    /// What the record in a linked text says, as if the text was a copy of itself. A tool that fails
    /// takes its copies away before the process is as it was.
    pub(super) fn of_linked(text: &OldText) -> Result<Option<Self>> {
        let at = text.mapping.start;
        let found = Record::find(&text.bytes, at)?;
        let copy = found.map(|found| Self::new(found.record, at, &text.bytes));
        copy.transpose()
    }

    /// Whether a text is a replacement of the one that this is a copy of, which a tool has prepared
    /// and not put in its place: what was there before any link, but with interim entries, or with
    /// jumps to stubs. It has no record.
    pub(super) fn is_of_replacement(&self, found: &OldText) -> bool {
        let record = &self.record;
        let there = MemoryChunk {
            at: record.text.start,
            bytes: found.bytes.clone(),
        };
        let offset = |image: Avma, start: Avma| image.0.checked_sub(start.0);
        let is_alike = there.range() == record.text
            && offset(found.image, found.mapping.start) == offset(record.image, record.text.start);
        if !is_alike || found.image == record.image {
            return false;
        }
        // Nobody but a tool puts anything but CRIU's jumps there.
        let is_overwritten = |entry: &Range<Avma>| {
            let now = there.part(entry);
            now != self.base.part(entry) && now.is_some_and(|now| criu::target(now).is_none())
        };
        self.jumps(0).any(|entry| is_overwritten(&entry)) && self.explains(&there)
    }

    /// Whether bytes of the text are from what was there before, from the copy, or in entries.
    fn explains(&self, text: &MemoryChunk) -> bool {
        let entries: Vec<Range<Avma>> = self.jumps(0).collect();
        let mut bytes = (text.at.0..).zip(text.bytes.iter().copied());
        bytes.all(|(address, byte)| {
            let at = Avma(address);
            let is_in = |content: &MemoryChunk| content.part(&(at..at.offset(1))) == Some(&[byte]);
            is_in(&self.base)
                || is_in(&self.linked)
                || entries.iter().any(|entry| entry.contains(&at))
        })
    }

    /// Where the text is that this is a copy of.
    pub(super) fn image(&self) -> Avma {
        self.record.image
    }

    /// The kernel's mappings, where they were and where they are, or were to be.
    pub(super) fn kernel(&self) -> &[Placed] {
        &self.record.kernel
    }

    /// What there was to be instead of a text, if it is one that was being replaced: it consists of
    /// what was there before, what is in the copy, and entries. `range` and `undone` are what it
    /// was before any link that it has a record of.
    pub(super) fn interrupted(
        &self,
        found: &OldText,
        own: Option<&Record>,
        range: &Range<Avma>,
        undone: &[u8],
    ) -> Option<InterruptedApply> {
        let record = &self.record;
        if record.image != found.image || own == Some(record) && self.is_of(found) {
            return None;
        }
        let covers = range.start <= record.text.start && record.text.end <= range.end;
        let text = MemoryChunk {
            at: range.start,
            bytes: undone.to_vec(),
        };
        if !covers || !self.explains(&text) {
            return None;
        }
        let mut base = self.base.clone();
        let mut overwritten = Overwritten::of(record);
        // If a restore has put a jump there since, the process is to have that. What it has
        // overwritten is known.
        for entry in self.jumps(0) {
            if let (Some(now), Some(place)) = (found.part(&entry), base.part_mut(&entry))
                && criu::target(now).is_some()
            {
                if criu::target(place).is_none() {
                    overwritten.runs.push(Before {
                        at: entry.start,
                        bytes: place.to_vec(),
                    });
                }
                place.copy_from_slice(now);
            }
        }
        Some(InterruptedApply {
            base,
            placeholders: record.placeholders.clone(),
            kernel: record.kernel.clone(),
            overwritten,
            is_prepared: own.is_none()
                && found.mapping == record.text
                && self.linked.part(&record.text) == Some(&found.bytes),
        })
    }

    /// Whether a text with the same record is the one that this is a copy of, and no restore has
    /// put jumps there since, of which the first bytes may have been overwritten again.
    fn is_of(&self, found: &OldText) -> bool {
        let mut rests = self.jumps(WORD);
        rests.all(|rest| found.part(&rest) == self.linked.part(&rest))
    }

    /// Where CRIU's jumps would be in the text, from a byte of each on.
    fn jumps(&self, from: usize) -> impl Iterator<Item = Range<Avma>> {
        self.record.entries.iter().map(move |entry| {
            let at = entry.at.at(self.record.image);
            at.offset(from as i64)..at.offset(criu::JUMP as i64)
        })
    }

    /// Adds pages to the text of an interrupted apply that a link had put next to it: those of this
    /// copy, or others with a record of the text.
    pub(super) fn extend(&self, found: &mut OldText, mappings: &[Mapping], memory: &dyn Memory) {
        let (own, linked) = (&self.record.text, self.linked.range());
        for side in [linked.start..own.start, own.end..linked.end] {
            if let Some((side, bytes)) = self.added(side, mappings, memory) {
                append(found, &side, bytes);
            }
        }
        for mapping in mappings {
            if is_beside(&mapping.range, &found.mapping)
                && let Some(bytes) = cut_off(mapping, found.image, memory)
            {
                append(found, &mapping.range, bytes);
            }
        }
    }

    /// What is in a range, if that is what is in the copy.
    fn added(
        &self,
        range: Range<Avma>,
        mappings: &[Mapping],
        memory: &dyn Memory,
    ) -> Option<(Range<Avma>, Vec<u8>)> {
        let holds = |mapping: &&Mapping| {
            let is_code = mapping.is_private_code() && mapping.name.is_empty();
            is_code && mapping.range.start <= range.start && range.end <= mapping.range.end
        };
        mappings.iter().find(holds).filter(|_| !range.is_empty())?;
        let known = self.linked.part(&range)?;
        let mut bytes = vec![0; known.len()];
        let was_read = memory.read(range.start, &mut bytes);
        injected_call::erase(&mut bytes);
        (was_read && bytes == known).then_some((range, bytes))
    }
}

/// What a mapping holds that an earlier link had added to the text of an image: private code with a
/// record of the text, without an image.
pub(super) fn cut_off(mapping: &Mapping, image: Avma, memory: &dyn Memory) -> Option<Vec<u8>> {
    let (record, bytes) = record_in(mapping, memory)?;
    let is_of_it = record.image == image && images(&bytes) == 0;
    is_of_it.then_some(bytes)
}

/// Whether one range ends where the other begins.
pub(super) fn is_beside(range: &Range<Avma>, other: &Range<Avma>) -> bool {
    range.end == other.start || range.start == other.end
}

/// Adds what is on a side of a text to it, if that is next to it.
fn append(found: &mut OldText, side: &Range<Avma>, bytes: Vec<u8>) {
    if side.end == found.mapping.start {
        found.bytes.splice(0..0, bytes);
        found.mapping.start = side.start;
    } else if side.start == found.mapping.end {
        found.bytes.extend(bytes);
        found.mapping.end = side.end;
    }
}

/// How many pages begin as an image does.
fn images(bytes: &[u8]) -> usize {
    const ELF: [u8; 4] = *b"\x7fELF";
    let pages = bytes.chunks(PAGE as usize);
    pages.filter(|page| page.starts_with(&ELF)).count()
}

#[cfg(test)]
mod tests;
