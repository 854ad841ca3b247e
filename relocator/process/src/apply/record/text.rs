//! The text that a record is about: what differs, what it was, and what threads find there.

use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::{Before, Entry, FoundRecord, Record, find};
use crate::{Error, Result, Unlinkable};
use relocator::plan::Strategy;
use relocator::threads::CodeNow;

/// What the header of a run takes where the next one is near. Bytes that do not differ are kept if
/// they cost no more.
const HEADER: usize = 2;

/// Bytes of one value are a run of their own if there are so many: two more headers, and the value.
const UNIFORM: usize = 2 * HEADER + 2;

impl Record {
    /// What the bytes of a mapping at `base` were, where they are others afterwards. What is there
    /// only before is kept as a whole, what is there only afterwards has not been anything.
    pub fn difference(before: &[u8], after: &[u8], base: Avma) -> Vec<Before> {
        let differs = |index: &usize| after.get(*index) != Some(&before[*index]);
        let mut runs: Vec<Range<usize>> = Vec::new();
        for index in (0..before.len()).filter(differs) {
            match runs.last_mut() {
                Some(run) if index - run.end <= HEADER => run.end = index + 1,
                _ => runs.push(index..index + 1),
            }
        }
        let mut all = Vec::new();
        for run in runs {
            let mut at = base.offset(run.start as i64);
            for bytes in parts(&before[run]) {
                all.push(Before {
                    at,
                    bytes: bytes.to_vec(),
                });
                at = at.offset(bytes.len() as i64);
            }
        }
        all
    }

    /// Fills in `before`, and writes the record at an offset into the bytes `after` of a mapping at
    /// `base`. The bytes `before` were at the start of the record's text until now.
    ///
    /// What the record takes the place of is part of it, and so is what is to be `kept`, whether or
    /// not it differs.
    pub fn store(
        mut self,
        before: &[u8],
        after: &mut [u8],
        base: Avma,
        offset: usize,
        kept: &[Range<Avma>],
    ) -> Result<FoundRecord> {
        let refused = |image, reason| Error::Unlinkable {
            what: format!("the image at {image}"),
            reason,
        };
        let elsewhere = Unlinkable::RecordElsewhere { offset };
        if !offset.is_multiple_of(find::ALIGNMENT) {
            return Err(refused(self.image, elsewhere));
        }
        let text = self.text.start;
        let lead = text.0.checked_sub(base.0).map(|lead| lead as usize);
        let lead = lead.filter(|&lead| lead <= after.len());
        let lead = lead.ok_or_else(|| refused(self.image, elsewhere))?;
        let start = base.offset(offset as i64);
        let mut room = 0;
        loop {
            let mut other = after[lead..].to_vec();
            let place = start..start.offset(room as i64);
            let kept = kept.iter().chain([&place]);
            let kept = kept.flat_map(|range| range.start.0..range.end.0);
            let indices = kept.filter_map(|address| address.checked_sub(text.0));
            for index in indices.map(|index| index as usize) {
                if let (Some(byte), Some(before)) = (other.get_mut(index), before.get(index)) {
                    *byte = !before;
                }
            }
            self.before = Self::difference(before, &other, text);
            let note = self.encode()?;
            let span = offset..offset + room.max(note.len());
            let Some(place) = after.get_mut(span) else {
                return Err(refused(self.image, Unlinkable::NoRoomForRecord));
            };
            if note.len() <= room {
                place[..note.len()].copy_from_slice(&note);
                let at = start..start.offset(note.len() as i64);
                return Ok(FoundRecord { record: self, at });
            }
            // What it takes the place of makes it larger.
            room = note.len();
        }
    }

    /// Puts back what the bytes of a mapping at `base` were. Nothing is changed if not all of them
    /// are there.
    pub fn undo(&self, text: &mut [u8], base: Avma) -> Result<()> {
        let place = |run: &Before| self.span(text.len(), base, run.at, run.bytes.len());
        let places = self.before.iter().map(place);
        let places = places.collect::<Result<Vec<_>>>()?;
        for (run, place) in self.before.iter().zip(places) {
            text[place].copy_from_slice(&run.bytes);
        }
        Ok(())
    }

    /// Whether an undo puts zeros in the place of all `code` at an address.
    pub fn erases(&self, code: &[u8], at: Avma) -> bool {
        let undone = |address: u64| {
            let mut runs = self.before.iter();
            runs.find_map(|run| run.bytes.get(address.checked_sub(run.at.0)? as usize))
        };
        let mut bytes = (at.0..).zip(code).filter(|(_, byte)| **byte != 0);
        bytes.all(|(address, _)| undone(address) == Some(&0))
    }

    /// What the text's mapping held before, from the bytes of a mapping at `base` that it is in
    /// now.
    pub fn undone(&self, text: &[u8], base: Avma) -> Result<Vec<u8>> {
        let mut undone = text.to_vec();
        self.undo(&mut undone, base)?;
        let size = (self.text.end.0 - self.text.start.0) as usize;
        let part = self.span(text.len(), base, self.text.start, size)?;
        Ok(undone[part].to_vec())
    }

    /// The functions in the bytes of a mapping at `base` that do not begin as they are to in the
    /// end: while a link is incomplete, entries are overwritten with something else.
    pub fn incomplete(&self, text: &[u8], base: Avma) -> Result<Vec<&Entry>> {
        let mut incomplete = Vec::new();
        for entry in &self.entries {
            let place = self.entry(text.len(), base, entry, entry.bytes.len())?;
            if text[place] != entry.bytes {
                incomplete.push(entry);
            }
        }
        Ok(incomplete)
    }

    /// Whether there is no such function.
    pub fn is_complete(&self, text: &[u8], base: Avma) -> Result<bool> {
        self.incomplete(text, base)
            .map(|entries| entries.is_empty())
    }

    /// Makes each function in the bytes of a mapping at `base` begin as it should in the end.
    pub fn complete(&self, text: &mut [u8], base: Avma) -> Result<()> {
        let place = |entry| self.entry(text.len(), base, entry, entry.bytes.len());
        let places = self.entries.iter().map(place);
        let places = places.collect::<Result<Vec<_>>>()?;
        for (entry, place) in self.entries.iter().zip(places) {
            text[place].copy_from_slice(&entry.bytes);
        }
        Ok(())
    }

    /// What threads find in the bytes of a mapping at `base`.
    ///
    /// This is what is there now: of functions that do not [begin as they are
    /// to](Self::is_complete), what their entries are overwritten with meanwhile.
    pub fn linked(&self, text: &[u8], base: Avma) -> Result<CodeNow> {
        let image = self.span(text.len(), base, self.image, 0)?;
        let mut entries = self.entries.iter();
        let mut code = CodeNow {
            size: text.len() - image.start,
            is_relocated: entries.any(|entry| entry.strategy == Strategy::Relocate),
            patches: Vec::new(),
            moved: self.moved.clone(),
            jumps_back: self.jumps_back.clone(),
            reentry: None,
        };
        for entry in &self.entries {
            if let Some(patch) = self.patch(text, base, entry)? {
                code.patch(entry.at, patch.to_vec());
            }
        }
        Ok(code)
    }

    fn patch<'a>(&self, text: &'a [u8], base: Avma, entry: &Entry) -> Result<Option<&'a [u8]>> {
        let beginning = self.entry(text.len(), base, entry, entry.bytes.len())?;
        let replaced = match text[beginning] == entry.bytes {
            true => entry.replaced as usize,
            false => entry.bytes.len().max(entry.replaced as usize),
        };
        let patch = self.entry(text.len(), base, entry, replaced)?;
        Ok((replaced > 0).then(|| &text[patch]))
    }

    fn entry(&self, text: usize, base: Avma, entry: &Entry, size: usize) -> Result<Range<usize>> {
        self.span(text, base, entry.at.at(self.image), size)
    }

    /// Where bytes are among the `text` ones at `base`.
    fn span(&self, text: usize, base: Avma, at: Avma, size: usize) -> Result<Range<usize>> {
        let start = at.0.checked_sub(base.0).map(|offset| Svma(offset).index());
        let span = start.and_then(|start| Some(start..start.checked_add(size)?));
        span.filter(|span| span.end <= text).ok_or_else(|| {
            let what = format!("the image at {}", self.image);
            let reason = Unlinkable::OutsideText {
                size,
                at,
                text,
                base,
            };
            Error::Unlinkable { what, reason }
        })
    }
}

/// Cuts bytes where many of one value are next to each other, which take little room by themselves.
fn parts(bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = 0;
    let mut start = 0;
    for value in bytes.chunk_by(|one, next| one == next) {
        if value.len() >= UNIFORM {
            parts.push(&bytes[rest..start]);
            parts.push(value);
            rest = start + value.len();
        }
        start += value.len();
    }
    parts.push(&bytes[rest..]);
    parts.retain(|part| !part.is_empty());
    parts
}
