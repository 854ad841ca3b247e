//! What threads find where an old image is: the code that is there at some moment.
//!
//! A linked image is one such code; an old image whose entries another tool has overwritten is one
//! too, and so is an image that a killed link has left half written. Threads need to know no more
//! than this of any of them.

use elf_tools::Svma;
use elf_tools::reentry::ReentryTable;

use super::reentry;
use crate::input::Old;

/// An instruction that is elsewhere now: what a thread that was stopped at `from` would have
/// executed next is at `to`.
///
/// At the first boundary of a detour there is a jump to the new place, so a thread can also go on
/// from there. At the others nothing is left: a thread that was stopped there must be carried
/// along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moved {
    /// The boundary in the old image.
    pub from: Svma,
    /// The place of the same instruction in the linked image.
    pub to: Svma,
}

/// Code that was written over the entry of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The entry.
    pub entry: Svma,
    /// The bytes that are there now.
    pub code: Vec<u8>,
}

/// The code that threads find where an old image is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CodeNow {
    /// Size in bytes, from the first byte of the image on. A thread beyond is not inside.
    pub size: usize,
    /// Whether constants in it differ from those of the old image.
    pub is_relocated: bool,
    /// The entries that were overwritten, each once.
    pub patches: Vec<Patch>,
    /// Instructions that are elsewhere.
    pub moved: Vec<Moved>,
    /// The jumps at the ends of detours: a thread at `to` is about to go on at `from`.
    pub jumps_back: Vec<Moved>,
    /// How threads get out of this code, if it was [analysed](Self::analyse).
    pub reentry: Option<ReentryTable>,
}

impl CodeNow {
    /// An image of `size` bytes as its own kernel has prepared it.
    pub fn unchanged(size: usize) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    /// An image of `size` bytes of which nothing can be executed any more.
    pub fn gone(size: usize) -> Self {
        let mut gone = Self::unchanged(size);
        gone.patch(Svma(0), vec![0; size]);
        gone
    }

    /// Analyses how threads get out of this code, whose bytes these are, from the first one of the
    /// image on.
    ///
    /// That is only needed where the code [is relocated](Self::is_relocated): a recipe may compute
    /// with constants that the linker has changed. What an entry was overwritten with is not known
    /// to be relocated or not; recipes that would depend on it are left out.
    pub fn analyse(&mut self, old: &Old, bytes: &[u8]) {
        self.reentry = reentry::of(self, old, bytes);
    }

    /// Notes that the function at `entry` begins with this code now.
    pub fn patch(&mut self, entry: Svma, code: Vec<u8>) {
        match self.patches.iter_mut().find(|patch| patch.entry == entry) {
            Some(patch) => patch.code = code,
            None => self.patches.push(Patch { entry, code }),
        }
    }

    /// Notes that at least the first `size` bytes of the function at `entry` are not its own.
    pub fn overwrite(&mut self, entry: Svma, size: usize) {
        let mut code = self.patched(entry).unwrap_or_default().to_vec();
        code.resize(code.len().max(size), 0);
        self.patch(entry, code);
    }

    /// What the function at `entry` was overwritten with, if it was.
    pub fn patched(&self, entry: Svma) -> Option<&[u8]> {
        let patch = self.patches.iter().find(|patch| patch.entry == entry)?;
        Some(&patch.code)
    }

    /// Where an instruction of the old image is now, if it was moved.
    pub(crate) fn moved_to(&self, boundary: Svma) -> Option<Svma> {
        let found = self.moved.iter().find(|moved| moved.from == boundary);
        found.map(|moved| moved.to)
    }

    /// The instruction of the old image that was moved to a place, or that a jump there leads back
    /// to.
    pub fn moved_from(&self, place: Svma) -> Option<Svma> {
        let mut all = self.moved.iter().chain(&self.jumps_back);
        let found = all.find(|moved| moved.to == place);
        found.map(|moved| moved.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_patched_once_and_overwritten_bytes_only_grow() {
        let mut code = CodeNow::unchanged(0x1000);
        let (entry, other) = (Svma(0x100), Svma(0x200));
        code.patch(entry, vec![1, 2, 3, 4]);
        code.overwrite(entry, 2);
        assert_eq!(code.patched(entry), Some(&[1, 2, 3, 4][..]));
        code.overwrite(entry, 5);
        assert_eq!(code.patched(entry), Some(&[1, 2, 3, 4, 0][..]));
        code.overwrite(other, 8);
        code.patch(entry, vec![9]);
        assert_eq!(code.patched(entry), Some(&[9][..]));
        assert_eq!(code.patched(other), Some(&[0; 8][..]));
        assert_eq!(code.patches.len(), 2);
    }

    #[test]
    fn moved_instructions_are_found_both_ways() {
        let moved = Moved {
            from: Svma(0x10),
            to: Svma(0x1000),
        };
        let back = Moved {
            from: Svma(0x18),
            to: Svma(0x1008),
        };
        let code = CodeNow {
            moved: vec![moved],
            jumps_back: vec![back],
            ..CodeNow::unchanged(0x2000)
        };
        assert_eq!(code.moved_to(moved.from), Some(moved.to));
        assert_eq!(code.moved_to(back.from), None);
        assert_eq!(code.moved_from(moved.to), Some(moved.from));
        assert_eq!(code.moved_from(back.to), Some(back.from));
        assert_eq!(code.moved_from(moved.from), None);
    }
}
