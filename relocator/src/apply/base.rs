//! What a process gets back when a link is undone.

use std::ops::Range;

use elf_tools::Avma;

/// A mapping and what it holds.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// Its first byte.
    pub(super) at: Avma,
    /// All bytes.
    pub(super) bytes: Vec<u8>,
}

impl Base {
    /// All of it.
    pub(super) fn range(&self) -> Range<Avma> {
        self.at..self.at.offset(self.bytes.len() as i64)
    }
}
