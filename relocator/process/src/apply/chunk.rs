//! A memory chunk: where it is in a process, and what it holds.

use std::ops::Range;

use elf_tools::Avma;

/// Some memory.
#[derive(Debug, Clone)]
pub(super) struct MemoryChunk {
    /// Its first byte.
    pub(super) at: Avma,
    /// All bytes.
    pub(super) bytes: Vec<u8>,
}

impl MemoryChunk {
    /// All of it.
    pub(super) fn range(&self) -> Range<Avma> {
        self.at..self.at.offset(self.bytes.len() as i64)
    }

    /// What a part of it holds; `None` if that is not all in it.
    pub(super) fn part(&self, range: &Range<Avma>) -> Option<&[u8]> {
        self.bytes.get(place(self.at, range)?)
    }

    /// The same to be changed.
    pub(super) fn part_mut(&mut self, range: &Range<Avma>) -> Option<&mut [u8]> {
        self.bytes.get_mut(place(self.at, range)?)
    }
}

/// Where a range is among bytes of which the first is at `start`.
pub(super) fn place(start: Avma, range: &Range<Avma>) -> Option<Range<usize>> {
    let index = |at: Avma| at.0.checked_sub(start.0).map(|index| index as usize);
    Some(index(range.start)?..index(range.end)?)
}
