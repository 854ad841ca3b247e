//! Entries of a relocation table as they are stored.

use crate::Svma;
use crate::assemble::RELA;

/// An `Elf64_Rela`, taken apart.
pub(super) struct Rela {
    pub(super) place: Svma,
    /// The type, as the psABI numbers it.
    pub(super) number: u32,
    /// Index into the linked symbol table.
    pub(super) symbol: usize,
    pub(super) addend: i64,
}

/// The whole entries in a table's bytes.
pub(super) fn entries(table: &[u8]) -> impl Iterator<Item = Rela> {
    table.chunks_exact(RELA as usize).map(|entry| {
        let word = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| entry[at + i]));
        let info = word(8);
        Rela {
            place: Svma(word(0)),
            number: (info & 0xffff_ffff) as u32,
            symbol: (info >> 32) as usize,
            addend: word(16) as i64,
        }
    })
}
