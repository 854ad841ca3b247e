//! The `.eh_frame` and the sorted table that leads to it (`.eh_frame_hdr`).
//!
//! The form is that of the Linux Standard Base, section 10.6.

use std::ops::Range;

use elf_tools::Svma;

use super::encode;
use super::read::{Description, ENTRY, HEADER};
use super::rules::Convention;

/// Version of the `.eh_frame_hdr`.
const VERSION: u8 = 1;

/// A number of four bytes, without sign.
const COUNT: u8 = 0x03;

/// Four bytes, signed, relative to the start of the header.
const SORTED: u8 = 0x3b;

/// There is none.
const OMITTED: u8 = 0xff;

/// An entry of the table: the first address that is described, and the description.
pub(super) type Entry = (u64, u64);

/// All frame descriptions of an image.
pub(super) struct Section {
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// What the table has to say of it, by address.
    pub(super) entries: Vec<Entry>,
}

/// Frame descriptions that are to be at `start`, with what they have in common, by what they
/// describe. `None` if they cannot be written there.
pub(super) fn section(
    convention: &Convention,
    descriptions: &[Description],
    start: u64,
) -> Option<Section> {
    let mut section = Section {
        bytes: Vec::new(),
        entries: Vec::new(),
    };
    for is_signal in [false, true] {
        let of_kind = descriptions.iter().filter(|one| one.is_signal == is_signal);
        let mut common = None;
        for description in of_kind {
            let common = match common {
                Some(at) => at,
                None => {
                    let at = start + section.bytes.len() as u64;
                    section.bytes.extend(encode::common(convention, is_signal)?);
                    *common.insert(at)
                }
            };
            let at = start + section.bytes.len() as u64;
            let entry = encode::description(convention, &description.rows, at, common)?;
            section.bytes.extend(entry);
            section.entries.push((description.range.start, at));
        }
    }
    // Addresses below the image wrap.
    section
        .entries
        .sort_unstable_by_key(|entry| entry.0.cast_signed());
    // An entry of no length ends it.
    section.bytes.extend([0; 4]);
    Some(section)
}

/// The header at `at` of frame descriptions at `frames`. Its table is sorted, unless `room` is too
/// small: then unwinders go through all descriptions.
pub(super) fn header(at: Svma, frames: u64, entries: &[Entry], room: &Range<u64>) -> Vec<u8> {
    let relative = |address: u64, to: u64| {
        let distance = address.cast_signed() - to.cast_signed();
        (distance as i32).to_le_bytes()
    };
    let size = HEADER + entries.len() as u64 * ENTRY;
    let fits = at.0 + size <= room.end;
    let encodings = match fits {
        true => [VERSION, encode::RELATIVE, COUNT, SORTED],
        false => [VERSION, encode::RELATIVE, OMITTED, OMITTED],
    };
    let mut header = encodings.to_vec();
    header.extend(relative(frames, at.0 + 4));
    if fits {
        header.extend((entries.len() as u32).to_le_bytes());
        for (address, description) in entries {
            header.extend(relative(*address, at.0));
            header.extend(relative(*description, at.0));
        }
    }
    header
}
