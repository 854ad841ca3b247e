//! Memory that is seen in several places, and in several processes.

use std::fs::File;
use std::io::Result;
use std::num::NonZeroUsize;

use elf_tools::Avma;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use super::{PAGE, Region};

/// Memory without a place of its own: each [view](Self::view) shows all of it, with protections of
/// its own. A process that is forked has the same views.
#[derive(Debug)]
pub struct Shared {
    file: File,
    size: usize,
}

impl Shared {
    /// At least `size` bytes, rounded up to pages. They begin as zeros.
    pub fn new(size: usize) -> Result<Self> {
        let size = size.next_multiple_of(PAGE);
        let file = File::from(memfd_create("shared memory", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(size as u64)?;
        Ok(Self { file, size })
    }

    /// Shows it at `at`, which must be free and the start of a page, or where the kernel likes; it
    /// can be written there.
    pub fn view(&self, at: Option<Avma>) -> Result<Region> {
        Region::map(
            at,
            self.size,
            |wanted: Option<NonZeroUsize>, size, flags| {
                let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
                let flags = MapFlags::MAP_SHARED | flags;
                // SAFETY: the flags make the kernel refuse a range that is in use, so no other
                // memory is affected. The file is this value's own and never shrinks.
                unsafe { mmap(wanted, size, protection, flags, &self.file, 0) }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_shows_the_same_and_protects_on_its_own() {
        let shared = Shared::new(2 * PAGE).unwrap();
        let mut first = shared.view(None).unwrap();
        let mut second = shared.view(None).unwrap();
        drop(shared);
        first.execute(0..PAGE).unwrap();
        first.freeze(PAGE..2 * PAGE).unwrap();
        assert!(first.write(0, &[1]).is_err());
        assert!(first.write(PAGE, &[1]).is_err());
        assert!(first.execute(PAGE..2 * PAGE).is_err());
        second.write(PAGE - 1, &[7, 8]).unwrap();
        let mut seen = [0; 2];
        first.read(PAGE - 1, &mut seen).unwrap();
        assert_eq!(seen, [7, 8]);
        assert!(first.read(2 * PAGE - 1, &mut seen).is_err());
        assert!(second.write(2 * PAGE - 1, &seen).is_err());
        assert!(second.freeze(0..1).is_err());
    }
}
