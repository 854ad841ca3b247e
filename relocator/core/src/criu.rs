//! What CRIU does to vDSOs when it restores a process on another kernel: it overwrites the entries of the old one's functions
//! that it knows, and leaves a mark in the new one by which it finds both again.

use std::array;

use elf_tools::image::Image;
use elf_tools::{Avma, Svma};

/// The functions that CRIU knows on x86-64: `arch/x86/include/asm/vdso.h` of CRIU.
pub const SYMBOLS: [&str; 4] = [
    "__vdso_clock_gettime",
    "__vdso_getcpu",
    "__vdso_gettimeofday",
    "__vdso_time",
];

/// Bytes that CRIU overwrites at an entry.
pub const JUMP: usize = 16;

/// Bytes of the first instruction of a jump, which loads `rax` with the target.
pub const LOAD: usize = 10;

/// `movabs $target, %rax; jmp *%rax`, and four traps.
pub fn jump(target: Avma) -> [u8; JUMP] {
    let mut code = [0xcc; JUMP];
    code[..2].copy_from_slice(&[0x48, 0xb8]);
    code[2..10].copy_from_slice(&target.0.to_le_bytes());
    code[10..12].copy_from_slice(&[0xff, 0xe0]);
    code
}

/// Where code leads if it begins with such a jump.
pub fn target(code: &[u8]) -> Option<Avma> {
    let code = code.get(..JUMP)?;
    let target = Avma(u64::from_le_bytes(array::from_fn(|index| code[index + 2])));
    (code == jump(target)).then_some(target)
}

/// What CRIU writes over the first bytes of the new vDSO: `struct vdso_mark` in its `include/util-vdso.h`.
///
/// A dump that finds it does not dump that vDSO and its vvar, and takes the mapping at `old_vdso` for the one to be dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where the old vDSO is.
    pub old_vdso: Avma,
    /// Where the old vvar was.
    pub old_vvar: Avma,
    /// Where the new vvar is.
    pub new_vvar: Avma,
}

impl Mark {
    /// Bytes that it takes.
    pub const SIZE: usize = 40;

    const SIGNATURE: u64 = 0x4f53_4476_5549_5243;
    const VERSION: u64 = 3;

    /// The mark that an image begins with, if it does.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        let word = |index: usize| u64::from_le_bytes(array::from_fn(|at| bytes[index * 8 + at]));
        let is_known = word(0) == Self::SIGNATURE && word(2) == Self::VERSION;
        is_known.then(|| Self {
            old_vdso: Avma(word(1)),
            old_vvar: Avma(word(3)),
            new_vvar: Avma(word(4)),
        })
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; Self::SIZE] {
        let words = [
            Self::SIGNATURE,
            self.old_vdso.0,
            Self::VERSION,
            self.old_vvar.0,
            self.new_vvar.0,
        ];
        array::from_fn(|at| words[at / 8].to_le_bytes()[at % 8])
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
    #[error("the new vDSO has no {0}, and the jump would lead to where it is not")]
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
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};
    use kernel_fixtures::fixture;

    use super::*;

    #[test]
    fn jumps_lead_to_the_new_functions() {
        let image = |name| Image::parse(fixture::find(name).unwrap().image).unwrap();
        let (old, new, base) = (image("bare"), image("reordered"), Avma(0x7f12_3456_7000));
        let patched = patch(&old, &new, base).unwrap();
        assert_eq!(patched.entries.len(), SYMBOLS.len());
        for symbol in SYMBOLS {
            let entry = old.export(symbol).unwrap().address;
            let code = &patched.bytes[entry.index()..][..JUMP];
            let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
            let (load, jump) = (decoder.decode(), decoder.decode());
            assert_eq!(
                (load.mnemonic(), jump.mnemonic()),
                (Mnemonic::Mov, Mnemonic::Jmp)
            );
            assert_eq!(load.op0_register(), jump.op0_register());
            let target = new.export(symbol).unwrap().address.at(base);
            assert_eq!(load.immediate64(), target.0);
            assert!((0..4).all(|_| decoder.decode().mnemonic() == Mnemonic::Int3));
        }
        let changed = old.bytes().iter().zip(&patched.bytes);
        let changed = changed.filter(|(old, new)| old != new).count();
        assert!(changed <= SYMBOLS.len() * JUMP);
        for symbol in SYMBOLS {
            let entry = old.export(symbol).unwrap().address.index();
            let leads_to = new.export(symbol).unwrap().address.at(base);
            assert_eq!(target(&patched.bytes[entry..]), Some(leads_to));
            assert_eq!(target(&old.bytes()[entry..]), None);
        }
    }

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
