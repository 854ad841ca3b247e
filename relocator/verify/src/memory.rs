//! Memory of this process at a place of one's choice, which is written or executed and never both.

#![allow(
    unsafe_code,
    reason = "mapping memory and protecting it has no safe interface"
)]

use std::ffi::c_void;
use std::io::{Error, ErrorKind, Result};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::{self, NonNull};

use elf_tools::Avma;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

mod shared;

pub use shared::Shared;

/// Bytes in a page.
pub const PAGE: usize = 0x1000;

/// Anonymous memory that belongs to this value and is unmapped with it. It begins as zeros that can
/// be written; parts of it become code.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    size: NonZeroUsize,
    /// Pages that cannot be written (any more).
    fixed: Vec<Range<usize>>,
}

// SAFETY: the memory belongs to no thread, and everything that changes what this value says about
// it takes `&mut self`.
unsafe impl Send for Region {}

// SAFETY: as above; through a shared reference nothing is accessed.
unsafe impl Sync for Region {}

impl Region {
    /// Maps at least `size` bytes, rounded up to pages: at `at`, which must be free and the start
    /// of a page, or where the kernel likes.
    pub fn reserve(at: Option<Avma>, size: usize) -> Result<Self> {
        Self::map(at, size, |wanted, size, flags| {
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: the flags make the kernel refuse a range that is in use, so no other memory
            // is affected.
            unsafe { mmap_anonymous(wanted, size, protection, MapFlags::MAP_PRIVATE | flags) }
        })
    }

    /// Has `map` map memory, with flags that make the kernel refuse a range that is in use.
    fn map(
        at: Option<Avma>,
        size: usize,
        map: impl FnOnce(Option<NonZeroUsize>, NonZeroUsize, MapFlags) -> nix::Result<NonNull<c_void>>,
    ) -> Result<Self> {
        let address = |at: Avma| usize::try_from(at.0).ok().and_then(NonZeroUsize::new);
        let wanted = at.map(|at| address(at).ok_or(ErrorKind::InvalidInput));
        let wanted = wanted.transpose()?;
        let size = size.checked_next_multiple_of(PAGE);
        let size = size
            .and_then(NonZeroUsize::new)
            .ok_or(ErrorKind::InvalidInput)?;
        let fixed = match wanted {
            Some(_) => MapFlags::MAP_FIXED_NOREPLACE,
            None => MapFlags::empty(),
        };
        let start = map(wanted, size, fixed)?;
        let region = Self {
            start: start.cast(),
            size,
            fixed: Vec::new(),
        };
        if wanted.is_some_and(|wanted| start.addr() != wanted) {
            // Kernels before 4.17 do not know the flag and take the address as a hint.
            return Err(ErrorKind::AddrInUse.into());
        }
        Ok(region)
    }

    /// Its first byte.
    pub fn start(&self) -> Avma {
        Avma(self.start.as_ptr().expose_provenance() as u64)
    }

    /// Its size in bytes, a multiple of [`PAGE`].
    pub fn size(&self) -> usize {
        self.size.get()
    }

    /// Whether all of a range, counted from the start, is inside and neither code nor frozen.
    pub fn is_writable(&self, range: Range<usize>) -> bool {
        let meets = |fixed: &Range<usize>| fixed.start < range.end && range.start < fixed.end;
        range.start <= range.end && range.end <= self.size() && !self.fixed.iter().any(meets)
    }

    /// Makes code of the pages from `offset` on: writes it, and then has them executed and no
    /// longer written.
    ///
    /// Refuses what is not at the start of a page, does not fit, or meets pages that are code
    /// already.
    pub fn fill(&mut self, offset: usize, code: &[u8]) -> Result<()> {
        let end = offset
            .checked_add(code.len())
            .and_then(|end| end.checked_next_multiple_of(PAGE));
        let fits = offset.is_multiple_of(PAGE) && end.is_some_and(|end| end <= self.size());
        let pages = match end {
            Some(end) if fits && end > offset => offset..end,
            _ => {
                let what = format!("{:#x} bytes at offset {offset:#x} of it", code.len());
                return Err(Error::new(ErrorKind::InvalidInput, what));
            }
        };
        if !self.is_writable(pages.clone()) {
            let what = format!("some of {pages:#x?} is code already");
            return Err(Error::new(ErrorKind::PermissionDenied, what));
        }
        self.write(offset, code)?;
        self.protect(pages, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC)
    }

    /// Has whole pages executed and no longer written through this view.
    pub fn execute(&mut self, pages: Range<usize>) -> Result<()> {
        self.protect(pages, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC)
    }

    /// Has whole pages read and no longer written through this view.
    pub fn freeze(&mut self, pages: Range<usize>) -> Result<()> {
        self.protect(pages, ProtFlags::PROT_READ)
    }

    fn protect(&mut self, pages: Range<usize>, protection: ProtFlags) -> Result<()> {
        let whole = pages.start.is_multiple_of(PAGE) && pages.end.is_multiple_of(PAGE);
        if !whole || pages.is_empty() || !self.is_writable(pages.clone()) {
            return Err(ErrorKind::InvalidInput.into());
        }
        // SAFETY: the range was checked to be inside the region.
        let start = unsafe { self.start.add(pages.start) };
        // SAFETY: the pages are this value's own, and no reference into them exists.
        unsafe { mprotect(start.cast(), pages.len(), protection) }?;
        self.fixed.push(pages);
        Ok(())
    }

    /// Writes bytes to memory that can be written. Code of others, which no compiler of ours sees,
    /// may read it meanwhile.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len());
        if !end.is_some_and(|end| self.is_writable(offset..end)) {
            return Err(ErrorKind::InvalidInput.into());
        }
        // SAFETY: the offset was checked to be inside the region.
        let target = unsafe { self.start.add(offset) };
        // SAFETY: as many bytes as were checked are inside the region, which is this value's own,
        // and writable there.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Reads bytes.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len());
        if end.is_none_or(|end| end > self.size()) {
            return Err(ErrorKind::InvalidInput.into());
        }
        // SAFETY: the offset was checked to be inside the region.
        let source = unsafe { self.start.add(offset) };
        // SAFETY: as many bytes as were checked are inside the region, all of which can be read.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Lets it live as long as the process.
    pub fn leak(self) {
        std::mem::forget(self);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the memory is this value's own; who keeps an address in it was told how long it
        // lives.
        let unmapped = unsafe { munmap(self.start.cast(), self.size()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The permissions of the mapping that holds an address.
    fn permissions(at: Avma) -> String {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| {
            let (start, rest) = line.split_once('-').unwrap();
            let (end, _) = rest.split_once(' ').unwrap();
            let number = |digits| u64::from_str_radix(digits, 16).unwrap();
            (number(start)..number(end)).contains(&at.0)
        });
        line.unwrap().split(' ').nth(1).unwrap().to_owned()
    }

    #[test]
    fn code_is_never_writable_and_executable() {
        let mut region = Region::reserve(None, 3 * PAGE - 1).unwrap();
        assert_eq!(region.size(), 3 * PAGE);
        assert_eq!(permissions(region.start()), "rw-p");
        region.fill(PAGE, &[0xc3; PAGE + 1]).unwrap();
        assert_eq!(permissions(region.start()), "rw-p");
        assert_eq!(permissions(region.start().offset(0x1000)), "r-xp");
        assert_eq!(permissions(region.start().offset(0x2000)), "r-xp");
    }

    #[test]
    fn code_is_written_once_and_inside() {
        let mut region = Region::reserve(None, 3 * PAGE).unwrap();
        region.fill(PAGE, &[0xc3; PAGE]).unwrap();
        for (offset, size) in [
            (0, PAGE + 1),
            (PAGE, 1),
            (2 * PAGE, PAGE + 1),
            (2 * PAGE + 8, 1),
            (3 * PAGE, 1),
            (usize::MAX, 1),
            (2 * PAGE, 0),
        ] {
            let refused = region.fill(offset, &vec![0; size]);
            assert!(refused.is_err(), "{size:#x} at {offset:#x}");
        }
        region.fill(0, &[0xc3]).unwrap();
    }

    #[test]
    fn memory_in_use_is_not_taken() {
        let first = Region::reserve(None, PAGE).unwrap();
        assert!(Region::reserve(Some(first.start()), PAGE).is_err());
        assert!(Region::reserve(Some(Avma(0)), PAGE).is_err());
        assert!(Region::reserve(None, 0).is_err());
        assert!(Region::reserve(None, usize::MAX).is_err());
    }
}
