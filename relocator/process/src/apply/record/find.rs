//! The record in a mapping.

use std::ops::Range;

use elf_tools::Avma;

use super::header::NoteHeader;
use super::{Record, stored};
use crate::{Error, Result};

/// Where a note may begin: at a multiple of this.
pub(super) const ALIGNMENT: usize = 16;

/// A record, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRecord {
    /// What it says.
    pub record: Record,
    /// The bytes of its note in the process.
    pub at: Range<Avma>,
}

impl Record {
    /// The record in the bytes of a mapping that begins at `base`, if there is one of an image that
    /// is in this mapping.
    ///
    /// What earlier records a record keeps are part of it and not found. It is an error, with the
    /// place, if one is damaged or if there are two.
    pub fn find(text: &[u8], base: Avma) -> Result<Option<FoundRecord>> {
        let mut found: Option<FoundRecord> = None;
        // Notes begin at multiples of an address, which that of a mapping always is.
        let mut offset = 0;
        while offset < text.len() {
            let bytes = &text[offset..];
            if NoteHeader::read(bytes).is_none() {
                offset += ALIGNMENT;
                continue;
            }
            let at = base.offset(offset as i64);
            let place = format!("link record at {at}");
            let (record, size) = stored::decode(bytes).map_err(Error::input(&place))?;
            let is_here = (base..base.offset(text.len() as i64)).contains(&record.image);
            if is_here && let Some(other) = &found {
                let reason = format!("there is another one at {}", other.at.start);
                let source = elf_tools::Error::malformed("link record", 0, reason);
                return Err(Error::input(place)(source));
            }
            if is_here {
                let at = at..at.offset(size as i64);
                found = Some(FoundRecord { record, at });
            }
            offset = (offset + size).next_multiple_of(ALIGNMENT);
        }
        Ok(found)
    }

    /// The record in the bytes of a mapping at `base` if it is of an image that is not in this
    /// mapping: they are a copy for another place, or a recovery copy.
    pub fn copied(text: &[u8], base: Avma) -> Option<Self> {
        let here = base..base.offset(text.len() as i64);
        let notes = (0..text.len()).step_by(ALIGNMENT).map(|at| &text[at..]);
        let mut records = notes.filter_map(|note| stored::decode(note).ok());
        records.find_map(|(record, _)| (!here.contains(&record.image)).then_some(record))
    }
}
