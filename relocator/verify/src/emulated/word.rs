//! One field of a vvar in this process: read and written whole, as the kernel and vDSOs do.

#![allow(
    unsafe_code,
    reason = "vvar is shared with code that no compiler of ours sees, and only reached by its address"
)]

use std::ptr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use elf_tools::Avma;

use crate::memory::Region;

/// A field of one, two, four or eight bytes at its natural alignment. Signed fields are handled as
/// their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    address: usize,
    width: Width,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    One,
    Two,
    Four,
    Eight,
}

impl Word {
    /// The field of `size` bytes at `address`; `None` if the processor cannot access it as one.
    ///
    /// # Safety
    ///
    /// The field must stay mapped and readable as long as it is read. It may only be accessed
    /// atomically, or by code that is not compiled from Rust, as long as it is written.
    pub(super) unsafe fn at(address: Avma, size: u64) -> Option<Self> {
        let width = match size {
            1 => Width::One,
            2 => Width::Two,
            4 => Width::Four,
            8 => Width::Eight,
            _ => return None,
        };
        let usable = address.0 != 0 && address.0.is_multiple_of(size);
        let address = usize::try_from(address.0).ok().filter(|_| usable)?;
        Some(Self { address, width })
    }

    /// Reads it, in no order with anything else. Relaxed loads of these widths are what may be done
    /// to read-only memory.
    pub(super) fn load(self) -> u64 {
        match self.width {
            // SAFETY: `at` was promised a field that can be read atomically, and has checked its
            // alignment.
            Width::One => u64::from(unsafe { AtomicU8::from_ptr(self.pointer()) }.load(Relaxed)),
            // SAFETY: as above.
            Width::Two => u64::from(unsafe { AtomicU16::from_ptr(self.pointer()) }.load(Relaxed)),
            // SAFETY: as above.
            Width::Four => u64::from(unsafe { AtomicU32::from_ptr(self.pointer()) }.load(Relaxed)),
            // SAFETY: as above.
            Width::Eight => unsafe { AtomicU64::from_ptr(self.pointer()) }.load(Relaxed),
        }
    }

    fn pointer<T>(self) -> *mut T {
        ptr::with_exposed_provenance_mut(self.address)
    }
}

/// A field of an emulated vvar, which can be written as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnWord(Word);

impl OwnWord {
    /// The same as [`Word::at`] for a field that can be written.
    ///
    /// # Safety
    ///
    /// As there; and the field must stay writable as long as it is written.
    pub(super) unsafe fn at(address: Avma, size: u64) -> Option<Self> {
        // SAFETY: the caller promises the same.
        unsafe { Word::at(address, size) }.map(Self)
    }

    /// Reads it, in no order with anything else.
    pub(super) fn load(self) -> u64 {
        self.0.load()
    }

    /// Writes as much of `value` as it holds, in no order with anything else.
    pub(super) fn store(self, value: u64) {
        let word = self.0;
        match word.width {
            Width::One => {
                // SAFETY: `at` was promised a field that is accessed atomically and can be written,
                // and it is aligned.
                unsafe { AtomicU8::from_ptr(word.pointer()) }.store(value as u8, Relaxed);
            }
            Width::Two => {
                // SAFETY: as above.
                unsafe { AtomicU16::from_ptr(word.pointer()) }.store(value as u16, Relaxed);
            }
            Width::Four => {
                // SAFETY: as above.
                unsafe { AtomicU32::from_ptr(word.pointer()) }.store(value as u32, Relaxed);
            }
            Width::Eight => {
                // SAFETY: as above.
                unsafe { AtomicU64::from_ptr(word.pointer()) }.store(value, Relaxed);
            }
        }
    }
}

/// The field of `size` bytes at `offset` in a region; `None` if it cannot be accessed as one, or
/// not be written.
///
/// It must not be used once the region is gone.
pub(super) fn within(region: &Region, offset: u64, size: u64) -> Option<OwnWord> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    if !region.is_writable(start..end) {
        return None;
    }
    // SAFETY: the field was found to lie in memory that can be written, and the owner of the region
    // keeps it.
    unsafe { OwnWord::at(region.start().offset(offset as i64), size) }
}
