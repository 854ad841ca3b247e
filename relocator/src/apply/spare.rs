//! Copies of linked texts that tools have left in a process that were killed.
//!
//! Before a text is changed there is a copy of the linked one, with its record: of the one that is to be put in place, or of the one that
//! is to be taken away. So whoever finds a text whose entries make system calls learns from the record in the copy what they were.

use std::ops::Range;

use elf_tools::Avma;

use super::base::Base;
use super::recognise::OldText;
use super::record::{Entry, Record};
use crate::criu;
use crate::placement::PAGE;
use crate::target::Mapping;
use crate::target::live::trampoline;
use crate::threads::Memory;
use crate::{Error, Result};

/// A copy.
#[derive(Debug)]
pub(super) struct Spare {
    /// What it says of the text that it is a copy of.
    record: Record,
    /// Where that would be.
    text: Range<Avma>,
    bytes: Vec<u8>,
    /// What the process is to have without a link.
    base: Base,
}

/// A text that was being replaced when a tool was killed.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    /// What the process is to have without a link.
    pub(super) base: Base,
    /// Pages of zeros that have made room.
    pub(super) zeros: Vec<Range<Avma>>,
}

impl Spare {
    /// What a mapping is a copy of; `None` if it is none, or if something else has become part of it.
    pub(super) fn of(copy: &OldText) -> Result<Option<Self>> {
        const ELF: [u8; 4] = *b"\x7fELF";
        let pages = copy.bytes.chunks(PAGE as usize);
        let images = pages.filter(|page| page.starts_with(&ELF)).count();
        let record = Record::copied(&copy.bytes, copy.mapping.start);
        let Some(record) = record.filter(|_| images == 1) else {
            return Ok(None);
        };
        let before = copy.image.0 - copy.mapping.start.0;
        let outside = || Error::Unlinkable {
            what: format!("the copy of a vDSO at {}", copy.image),
            reason: format!("its link record speaks of {:?}", record.text),
        };
        let start = record.image.0.checked_sub(before).map(Avma);
        let start = start.ok_or_else(outside)?;
        let text = start..start.offset(copy.bytes.len() as i64);
        let mut undone = copy.bytes.clone();
        record.undo(&mut undone, start)?;
        let base = part(&undone, start, &record.text).ok_or_else(outside)?;
        Ok(Some(Self {
            base: Base {
                at: record.text.start,
                bytes: base.to_vec(),
            },
            bytes: copy.bytes.clone(),
            record,
            text,
        }))
    }

    /// What there was to be instead of a text, if it is one that was being replaced: it consists of what was there before,
    /// what is in the copy, and entries. `range` and `undone` are what it was before any link that it has a record of.
    pub(super) fn begun(
        &self,
        found: &OldText,
        own: Option<&Record>,
        range: &Range<Avma>,
        undone: &[u8],
    ) -> Option<Begun> {
        let record = &self.record;
        if record.image != found.image || own == Some(record) && self.is_of(found) {
            return None;
        }
        let covers = range.start <= record.text.start && record.text.end <= range.end;
        let entries: Vec<Range<Avma>> = record
            .entries
            .iter()
            .map(|entry| {
                let at = entry.at.at(found.image);
                at..at.offset(criu::JUMP as i64)
            })
            .collect();
        let is_explained = |(address, byte): (u64, u8)| {
            let at = Avma(address);
            byte_at(&self.base.bytes, self.base.at, at) == Some(byte)
                || byte_at(&self.bytes, self.text.start, at) == Some(byte)
                || entries.iter().any(|entry| entry.contains(&at))
        };
        let mut bytes = (range.start.0..).zip(undone.iter().copied());
        if !covers || !bytes.all(is_explained) {
            return None;
        }
        let mut base = self.base.clone();
        for entry in &entries {
            jump_again(&mut base, found, entry);
        }
        Some(Begun {
            base,
            zeros: record.zeros.clone(),
        })
    }

    /// Whether a text with the same record is the one that this is a copy of, and no restore has put jumps there since, of which the first
    /// bytes may have been overwritten again.
    fn is_of(&self, found: &OldText) -> bool {
        let rest = |entry: &Entry| {
            let at = entry.at.at(found.image);
            at.offset(entry.bytes.len() as i64)..at.offset(criu::JUMP as i64)
        };
        let mut rests = self.record.entries.iter().map(rest);
        rests.all(|rest| {
            let own = part(&found.bytes, found.mapping.start, &rest);
            own == part(&self.bytes, self.text.start, &rest)
        })
    }

    /// Has pages be part of a text that was being replaced which the link had added next to it.
    pub(super) fn extend(&self, found: &mut OldText, mappings: &[Mapping], memory: &dyn Memory) {
        let own = &self.record.text;
        let before = self.added(self.text.start..own.start, mappings, memory);
        if let Some((side, bytes)) = before
            && side.end == found.mapping.start
        {
            found.bytes.splice(0..0, bytes);
            found.mapping.start = side.start;
        }
        let behind = self.added(own.end..self.text.end, mappings, memory);
        if let Some((side, bytes)) = behind
            && side.start == found.mapping.end
        {
            found.bytes.extend(bytes);
            found.mapping.end = side.end;
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
            let protection = mapping.protection;
            let is_code = protection.execute && !protection.write && mapping.name.is_empty();
            is_code && mapping.range.start <= range.start && range.end <= mapping.range.end
        };
        mappings.iter().find(holds).filter(|_| !range.is_empty())?;
        let known = part(&self.bytes, self.text.start, &range)?;
        let mut bytes = vec![0; known.len()];
        let was_read = memory.read(range.start, &mut bytes);
        trampoline::erase(&mut bytes);
        (was_read && bytes == known).then_some((range, bytes))
    }
}

/// If a restore has put a jump there since, the process is to have that.
fn jump_again(base: &mut Base, found: &OldText, entry: &Range<Avma>) {
    let Some(now) = part(&found.bytes, found.mapping.start, entry) else {
        return;
    };
    let start = (entry.start.0 - base.at.0) as usize;
    if let (Some(_), Some(place)) = (
        criu::target(now),
        base.bytes.get_mut(start..start + now.len()),
    ) {
        place.copy_from_slice(now);
    }
}

fn byte_at(bytes: &[u8], start: Avma, at: Avma) -> Option<u8> {
    let offset = at.0.checked_sub(start.0)?;
    bytes.get(offset as usize).copied()
}

/// Those of the bytes at `start` that are in a range.
fn part<'a>(bytes: &'a [u8], start: Avma, range: &Range<Avma>) -> Option<&'a [u8]> {
    let from = range.start.0.checked_sub(start.0)? as usize;
    let to = range.end.0.checked_sub(start.0)? as usize;
    bytes.get(from..to)
}

#[cfg(test)]
mod tests;
