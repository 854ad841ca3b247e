//! `.altinstructions`, and the features that vDSOs have alternatives for.
//!
//! The table has had three entry formats. The only one under which every entry makes sense tells
//! which of them it is in.

use std::ops::Range;

use scroll::ctx::{SizeWith as _, TryFromCtx};
use scroll::{Endian, LE, Pread, SizeWith, ctx};

use crate::image::Image;
use crate::image::alternatives::{Alternative, Feature};
use crate::{Error, Result, Svma};

/// Features that stock vDSOs have alternatives for; from `arch/x86/include/asm/cpufeatures.h`.
pub mod feature {
    use crate::image::alternatives::Feature;

    /// The `rdtscp` instruction.
    pub const RDTSCP: Feature = 32 + 27;
    /// `lfence` orders `rdtsc`.
    pub const LFENCE_RDTSC: Feature = 3 * 32 + 18;
    /// The `rdpid` instruction.
    pub const RDPID: Feature = 16 * 32 + 22;
}

/// What all formats begin with, from `struct alt_instr` of `arch/x86/include/asm/alternative.h`:
/// where the instructions are, each relative to its own field.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
struct Places {
    original: i32,
    replacement: i32,
}

/// The rest of an entry since 6.3: 32 bits of feature and flags.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
struct WithFlags {
    feature_and_flags: u32,
    original_length: u8,
    replacement_length: u8,
}

/// The rest of an entry until 6.2.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
struct Short {
    feature: u16,
    original_length: u8,
    replacement_length: u8,
}

/// The rest of an entry until 5.12.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
struct Padded {
    feature: u16,
    original_length: u8,
    replacement_length: u8,
    _padding_length: u8,
}

/// The rest of an entry in any format.
struct Rest {
    feature: u32,
    /// The flag that negates the feature.
    not: u32,
    original_length: u8,
    replacement_length: u8,
}

/// `ALT_FLAG_NOT`.
const FLAG_NOT: u32 = 1 << 16;
/// `ALTINSTR_FLAG_INV`, its predecessor.
const FLAG_INV: u32 = 1 << 15;

impl From<WithFlags> for Rest {
    fn from(entry: WithFlags) -> Self {
        Self {
            feature: entry.feature_and_flags,
            not: FLAG_NOT,
            original_length: entry.original_length,
            replacement_length: entry.replacement_length,
        }
    }
}

impl From<Short> for Rest {
    fn from(entry: Short) -> Self {
        Self {
            feature: entry.feature.into(),
            not: FLAG_INV,
            original_length: entry.original_length,
            replacement_length: entry.replacement_length,
        }
    }
}

impl From<Padded> for Rest {
    fn from(entry: Padded) -> Self {
        Self {
            feature: entry.feature.into(),
            not: FLAG_INV,
            original_length: entry.original_length,
            replacement_length: entry.replacement_length,
        }
    }
}

/// Reads the alternatives of an x86 image; empty where it has none.
pub(in crate::arch) fn alternatives(image: &Image) -> Result<Vec<Alternative>> {
    let view = image.view()?;
    let Some(section) = view.section(".altinstructions") else {
        return Ok(Vec::new());
    };
    let table = view.data(section)?;
    let base = section.address;
    decode::<WithFlags>(image, table, base)
        .or_else(|| decode::<Short>(image, table, base))
        .or_else(|| decode::<Padded>(image, table, base))
        .ok_or_else(|| {
            let reason = format!("{} bytes fit none of the known entry formats", table.len());
            Error::malformed("section .altinstructions", section.offset, reason)
        })
}

/// Decodes the table in one format; `None` if any entry does not lie where entries of that format
/// would.
fn decode<F>(image: &Image, table: &[u8], base: u64) -> Option<Vec<Alternative>>
where
    F: Into<Rest> + ctx::SizeWith<Endian>,
    F: for<'a> TryFromCtx<'a, Endian, Error = scroll::Error>,
{
    let size = Places::size_with(&LE) + F::size_with(&LE);
    if !table.len().is_multiple_of(size) {
        return None;
    }
    let mut alternatives = Vec::with_capacity(table.len() / size);
    let mut next = 0;
    while next < table.len() {
        let at = Svma(base.wrapping_add(next as u64));
        let places: Places = table.gread_with(&mut next, LE).ok()?;
        let rest: F = table.gread_with(&mut next, LE).ok()?;
        alternatives.push(alternative(image, at, places, rest.into())?);
    }
    Some(alternatives)
}

/// The entry at `at`, if it makes sense.
fn alternative(image: &Image, at: Svma, places: Places, rest: Rest) -> Option<Alternative> {
    let range = |start: Svma, length: u8| {
        let end = start.0.checked_add(u64::from(length))?;
        (end <= image.loaded_size()).then_some(start.0..end)
    };
    let original: Range<u64> = range(at.offset(places.original.into()), rest.original_length)?;
    let replacement = range(
        at.offset(4 + i64::from(places.replacement)),
        rest.replacement_length,
    )?;
    let is_possible = image.is_text(Svma(original.start))
        && replacement.end - replacement.start <= original.end - original.start;
    Some(Alternative {
        original,
        replacement,
        feature: Feature::try_from(rest.feature & 0x7fff).ok()?,
        negated: rest.feature & rest.not != 0,
    })
    .filter(|_| is_possible)
}

/// Fills with the multi-byte no-operations that processors recommend, longest first.
pub(in crate::arch) fn fill_with_no_operations(mut gap: &mut [u8]) {
    const NOPS: [&[u8]; 8] = [
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
        &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    ];
    while !gap.is_empty() {
        let nop = NOPS[gap.len().min(NOPS.len()) - 1];
        let (now, rest) = gap.split_at_mut(nop.len());
        now.copy_from_slice(nop);
        gap = rest;
    }
}
