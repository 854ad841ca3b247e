//! Boot-time alternatives: what a kernel patches into its vDSO for the processor it runs on.
//!
//! An image that was dumped from a process has them applied; one that was cut from a kernel file has not, and running it
//! would be wrong (a time-stamp counter read without ordering) rather than merely slow. `.altinstructions` has had three
//! entry formats; the format is told by the only one under which every entry makes sense.

use std::ops::Range;

use crate::image::Image;
use crate::{Error, Machine, Result, Svma};

/// A feature bit as the kernel numbers them: 32 times the capability word, plus the bit.
pub type Feature = u16;

/// Features that stock x86-64 vDSOs have alternatives for; from `arch/x86/include/asm/cpufeatures.h`.
pub mod feature {
    use super::Feature;

    /// The `rdtscp` instruction.
    pub const RDTSCP: Feature = 32 + 27;
    /// `lfence` orders `rdtsc`.
    pub const LFENCE_RDTSC: Feature = 3 * 32 + 18;
    /// The `rdpid` instruction.
    pub const RDPID: Feature = 16 * 32 + 22;
}

/// One entry of `.altinstructions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternative {
    /// The instructions as linked.
    pub original: Range<u64>,
    /// What to put there instead; shorter or as long.
    pub replacement: Range<u64>,
    /// The feature that asks for it.
    pub feature: Feature,
    /// Whether the *absence* of the feature asks for it.
    pub negated: bool,
}

/// Entry formats: size, and where the two length bytes are.
/// 13 bytes with a third, the padding's, until 5.12; 12 bytes until 6.2; 14 bytes with 32 bits of feature and flags since.
const FORMATS: [(usize, usize); 3] = [(14, 12), (12, 10), (13, 10)];

/// Until 6.2 a negated feature has bit 15 set, since then bit 16 (`ALT_FLAG_NOT`).
const NOT: [(usize, u32); 3] = [(14, 1 << 16), (12, 1 << 15), (13, 1 << 15)];

/// Reads the alternatives of an x86 image; empty where it has none.
pub fn read(image: &Image) -> Result<Vec<Alternative>> {
    let view = image.view()?;
    if !matches!(image.machine(), Machine::X86 | Machine::X86_64) {
        return Ok(Vec::new());
    }
    let Some(section) = view.section(".altinstructions") else {
        return Ok(Vec::new());
    };
    let table = view.data(section)?;
    let candidates = FORMATS
        .iter()
        .filter_map(|&(size, lengths)| decode(image, table, section.address, size, lengths));
    candidates.into_iter().next().ok_or_else(|| {
        let reason = format!("{} bytes fit none of the known entry formats", table.len());
        Error::malformed("section .altinstructions", section.offset, reason)
    })
}

/// Decodes the table in one format; `None` if any entry does not lie where entries of that format would.
fn decode(
    image: &Image,
    table: &[u8],
    base: u64,
    size: usize,
    lengths: usize,
) -> Option<Vec<Alternative>> {
    if !table.len().is_multiple_of(size) {
        return None;
    }
    let not = NOT.iter().find(|entry| entry.0 == size)?.1;
    let mut entries = Vec::with_capacity(table.len() / size);
    for (index, entry) in table.chunks_exact(size).enumerate() {
        let at = Svma(base + (index * size) as u64);
        let word = |at: usize| Some(i32::from_le_bytes(entry.get(at..at + 4)?.try_into().ok()?));
        let flags = match size {
            14 => word(8)? as u32,
            _ => u32::from(u16::from_le_bytes(entry.get(8..10)?.try_into().ok()?)),
        };
        let original = range(image, at.offset(i64::from(word(0)?)), *entry.get(lengths)?)?;
        let replacement = range(
            image,
            at.offset(4 + i64::from(word(4)?)),
            *entry.get(lengths + 1)?,
        )?;
        if !image.is_text(Svma(original.start))
            || replacement.end - replacement.start > original.end - original.start
        {
            return None;
        }
        let feature = Feature::try_from(flags & 0x7fff).ok()?;
        entries.push(Alternative {
            original,
            replacement,
            feature,
            negated: flags & not != 0,
        });
    }
    Some(entries)
}

fn range(image: &Image, start: Svma, length: u8) -> Option<Range<u64>> {
    let end = start.0.checked_add(u64::from(length))?;
    (end <= image.loaded_size()).then_some(start.0..end)
}

/// The image's bytes with alternatives applied as a kernel would on a processor with these features.
///
/// The last entry that applies to a place wins, as in the kernel; what is left of the original is filled with `nop`.
pub fn apply(
    image: &Image,
    alternatives: &[Alternative],
    has: impl Fn(Feature) -> bool,
) -> Vec<u8> {
    let original = image.bytes();
    let mut bytes = original.to_vec();
    for alternative in alternatives.iter().filter(|a| has(a.feature) != a.negated) {
        let source =
            &original[alternative.replacement.start as usize..alternative.replacement.end as usize];
        let target =
            &mut bytes[alternative.original.start as usize..alternative.original.end as usize];
        target[..source.len()].copy_from_slice(source);
        fill_with_nops(&mut target[source.len()..]);
    }
    bytes
}

/// Fills with the multi-byte no-operations that processors recommend, longest first.
fn fill_with_nops(mut gap: &mut [u8]) {
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
