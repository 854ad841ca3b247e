//! Damage to ELF files: blind, and aimed at the fields that readers believe.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One thing that happens to a file.
#[derive(Debug, Clone)]
pub enum Damage {
    /// One bit is the other way round.
    Flip(Index, u8),
    /// The end is missing.
    Truncate(Index),
    /// Bytes from one place are repeated at another.
    Splice(Index, Index, u8),
    /// A field of a structure has another value.
    Field {
        /// Which of the file's structures, and which of the 4-byte words in it.
        place: (Index, Index),
        /// 1, 2, 4 or 8 bytes.
        width: usize,
        /// What happens to it.
        change: Change,
    },
}

/// What happens to a field.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// It has this value.
    Set(u64),
    /// This is added to it.
    Add(i64),
}

/// Any damage. Half of it is aimed.
pub fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    let edges = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0xfff0,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 40,
        (1 << 47) - 1,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 0xfff,
        u64::MAX - 7,
        u64::MAX,
    ];
    let steps = vec![-0x1000, -24, -8, -4, -1, 1, 4, 8, 16, 24, 0x100, 0x1000];
    let change = prop_oneof![
        select(edges.to_vec()).prop_map(Change::Set),
        (0..0x4000_u64).prop_map(Change::Set),
        select(steps).prop_map(Change::Add),
        any::<u64>().prop_map(Change::Set),
    ];
    let field = (index(), index(), select(vec![1, 2, 4, 8]), change);
    let field = field.prop_map(|(structure, word, width, change)| Damage::Field {
        place: (structure, word),
        width,
        change,
    });
    prop_oneof![
        2 => (index(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => index().prop_map(Damage::Truncate),
        2 => (index(), index(), any::<u8>()).prop_map(|(a, b, size)| Damage::Splice(a, b, size)),
        5 => field,
    ]
}

/// One to four things that happen one after the other.
pub fn damages() -> impl Strategy<Value = Vec<Damage>> {
    proptest::collection::vec(damage(), 1..5)
}

/// A file to which all of this has happened.
pub fn damaged(whole: &[u8], damages: &[Damage]) -> Vec<u8> {
    let structures = structures(whole);
    let mut bytes = whole.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        apply(&mut bytes, damage, &structures);
    }
    bytes
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage, structures: &[(usize, usize)]) {
    match damage {
        Damage::Flip(at, bit) => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Truncate(length) => bytes.truncate(length.index(bytes.len())),
        Damage::Splice(from, to, size) => {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let size = usize::from(*size).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + size, to);
        }
        Damage::Field {
            place: (structure, word),
            width,
            change,
        } => {
            let (start, size) = structures[structure.index(structures.len())];
            let at = start + 4 * word.index((size / 4).max(1));
            let Some(field) = bytes.get_mut(at..at + width) else {
                return;
            };
            let mut value = [0; 8];
            value[..*width].copy_from_slice(field);
            let value = match *change {
                Change::Set(value) => value,
                Change::Add(step) => u64::from_le_bytes(value).wrapping_add_signed(step),
            };
            field.copy_from_slice(&value.to_le_bytes()[..*width]);
        }
    }
}

/// Offset and size of what readers believe: headers, and the sections that have tables in them. The file is a good one,
/// and an ELF of 64 bits.
fn structures(whole: &[u8]) -> Vec<(usize, usize)> {
    let word = |at: usize, width: usize| {
        let mut value = [0; 8];
        value[..width].copy_from_slice(&whole[at..at + width]);
        u64::from_le_bytes(value) as usize
    };
    let (segments, sections) = (word(32, 8), word(40, 8));
    let (segment_count, section_count) = (word(56, 2), word(60, 2));
    let mut structures = vec![(0, 64)];
    structures.extend((0..segment_count).map(|index| (segments + index * 56, 56)));
    for index in 0..section_count {
        let header = sections + index * 64;
        structures.push((header, 64));
        let (kind, flags) = (word(header + 4, 4), word(header + 8, 8));
        let (offset, size) = (word(header + 24, 8), word(header + 32, 8));
        // Neither code, nor what takes no space in the file. Large tables are hit as often as they are large.
        let (is_code, is_empty) = (flags & 4 != 0, kind == 8 || size < 8);
        if !is_code && !is_empty {
            let entries = (size / 96).clamp(1, 8);
            structures.extend(std::iter::repeat_n((offset, size), entries));
        }
    }
    structures
}

/// A table object as if its writer had left it like that: with the digest of what it is. Others are
/// as they were.
pub fn sealed(object: &[u8]) -> Vec<u8> {
    let mut sealed = object.to_vec();
    match elf_tools::digest::seal(&mut sealed) {
        Ok(()) => sealed,
        Err(_) => object.to_vec(),
    }
}
