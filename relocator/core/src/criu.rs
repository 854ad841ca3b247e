//! What CRIU does to vDSOs when it restores a process on another kernel: it overwrites the entries
//! of the functions that it knows in the old one, and writes a mark into the new one by which it
//! finds both again.

use elf_tools::image::Image;
use elf_tools::{Avma, Svma};
use scroll::{LE, Pread, Pwrite};

pub use crate::arch::native::criu::{JUMP, LOAD, SYMBOLS, jump, target};

/// What CRIU writes over the first bytes of the new vDSO: `struct vdso_mark` in its
/// `include/util-vdso.h`.
///
/// A dump that finds it does not dump that vDSO and its vvar, and takes the mapping at `old_vdso`
/// for the one to be dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where the old vDSO is.
    pub old_vdso: Avma,
    /// Where the old vvar was.
    pub old_vvar: Avma,
    /// Where the new vvar is.
    pub new_vvar: Avma,
}

/// The mark as it is stored.
#[derive(Debug, Clone, Copy, Pread, Pwrite)]
#[repr(C)]
struct StoredMark {
    signature: u64,
    old_vdso: u64,
    version: u64,
    old_vvar: u64,
    new_vvar: u64,
}

impl Mark {
    /// Bytes that it takes.
    pub const SIZE: usize = size_of::<StoredMark>();

    /// What the mark says where there is no such mapping: CRIU's `VVAR_BAD_ADDR`.
    pub const NOWHERE: Avma = Avma(u64::MAX);

    /// Where the fields of the two vvars are in it.
    pub const OLD_VVAR: u64 = 24;
    /// See [`Mark::OLD_VVAR`].
    pub const NEW_VVAR: u64 = 32;

    const SIGNATURE: u64 = 0x4f53_4476_5549_5243;
    const VERSION: u64 = 3;

    /// The mark that an image begins with, if it does.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let stored: StoredMark = bytes.pread_with(0, LE).ok()?;
        let is_known = stored.signature == Self::SIGNATURE && stored.version == Self::VERSION;
        is_known.then_some(Self {
            old_vdso: Avma(stored.old_vdso),
            old_vvar: Avma(stored.old_vvar),
            new_vvar: Avma(stored.new_vvar),
        })
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; Self::SIZE] {
        let stored = StoredMark {
            signature: Self::SIGNATURE,
            old_vdso: self.old_vdso.0,
            version: Self::VERSION,
            old_vvar: self.old_vvar.0,
            new_vvar: self.new_vvar.0,
        };
        let mut bytes = [0; Self::SIZE];
        // The buffer is as long as the fields.
        let _ = bytes.pwrite_with(stored, 0, LE);
        bytes
    }
}

/// An old image with the jumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patched {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The entries that were overwritten.
    pub entries: Vec<Svma>,
}

/// Why CRIU cannot change an old image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unpatched {
    /// A function of the old vDSO is not in the new one.
    #[error("the new vDSO has no {0} for the jump to lead to")]
    NoTarget(&'static str),
    /// A function is shorter than a jump, and nothing is behind it.
    #[error("{0} ends with the image")]
    NoRoom(&'static str),
}

/// Overwrites the entries of `old` with jumps to `new`, which is at `base`.
///
/// CRIU jumps to just before the new vDSO where that lacks a symbol; here that is an error.
pub fn patch(old: &Image, new: &Image, base: Avma) -> Result<Patched, Unpatched> {
    let mut patched = Patched {
        bytes: old.bytes().to_vec(),
        entries: Vec::new(),
    };
    for symbol in SYMBOLS {
        let Some(entry) = old.export(symbol).map(|export| export.address) else {
            continue;
        };
        let target = new.export(symbol).ok_or(Unpatched::NoTarget(symbol))?;
        let span = entry.index()..entry.index() + JUMP;
        let Some(code) = patched.bytes.get_mut(span) else {
            return Err(Unpatched::NoRoom(symbol));
        };
        code.copy_from_slice(&jump(target.address.at(base)));
        patched.entries.push(entry);
    }
    Ok(patched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark {
            old_vdso: Avma(0x7fff_f000),
            old_vvar: Avma(0x7fff_b000),
            new_vvar: Avma(0x3_0000),
        };
        let mut bytes = mark.bytes().to_vec();
        assert!(bytes.starts_with(b"CRIU"));
        assert_eq!(Mark::read(&bytes), Some(mark));
        assert_eq!(Mark::read(&bytes[..39]), None);
        bytes[16] += 1;
        assert_eq!(Mark::read(&bytes), None);
    }
}
