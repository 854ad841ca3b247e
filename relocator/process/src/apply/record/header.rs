//! The parts of a record that always have the same size: an ELF note's header, and what its
//! descriptor begins with.

use std::ops::Range;

use scroll::ctx::SizeWith as _;
use scroll::{LE, Pread, Pwrite, SizeWith};

/// What a note begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(super) struct NoteHeader {
    /// `n_namesz`: bytes of the owner, with its zero.
    owner_size: u32,
    /// `n_descsz`: bytes of the descriptor.
    pub(super) size: u32,
    /// `n_type`
    kind: u32,
    /// The owner, padded with zeros.
    owner: [u8; 8],
}

/// What the descriptor begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(super) struct DescriptorHeader {
    pub(super) version: u32,
    pub(super) flags: u32,
    /// CRC-32 of the whole note but for this.
    pub(super) check: u32,
}

/// Bytes before the descriptor.
pub(super) const NOTE: usize = 20;

/// Bytes that the descriptor begins with.
pub(super) const DESCRIPTOR: usize = 12;

/// Where the check is.
pub(super) const CHECK: Range<usize> = NOTE + 8..NOTE + DESCRIPTOR;

impl NoteHeader {
    const OWNER: [u8; 8] = *b"vDSO\0\0\0\0";
    const OWNER_SIZE: u32 = 5;
    const KIND: u32 = 6;

    /// That of a record whose descriptor has so many bytes.
    pub(super) fn of(size: u32) -> Self {
        Self {
            owner_size: Self::OWNER_SIZE,
            size,
            kind: Self::KIND,
            owner: Self::OWNER,
        }
    }

    /// That which bytes begin with, if it is a record's.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        debug_assert_eq!(Self::size_with(&LE), NOTE);
        let header: Self = bytes.pread_with(0, LE).ok()?;
        (header == Self::of(header.size)).then_some(header)
    }

    /// Writes it to where a note begins, which has room for it.
    pub(super) fn write(self, note: &mut [u8]) {
        let written = note.pwrite_with(self, 0, LE);
        debug_assert_eq!(written.ok(), Some(NOTE));
    }
}

impl DescriptorHeader {
    /// That of a note, if all of it is there.
    pub(super) fn read(note: &[u8]) -> Option<Self> {
        note.pread_with(NOTE, LE).ok()
    }

    /// Writes it into a note, which has room for it.
    pub(super) fn write(self, note: &mut [u8]) {
        let written = note.pwrite_with(self, NOTE, LE);
        debug_assert_eq!(written.ok(), Some(DESCRIPTOR));
    }
}
