//! What CRIU does to an old vDSO, for comparison: it overwrites the entries of the functions that it knows.

use elf_tools::image::Image;
use elf_tools::{Avma, Svma};

/// The functions that CRIU knows on x86-64: `arch/x86/include/asm/vdso.h` of CRIU.
pub(crate) const SYMBOLS: [&str; 4] = [
    "__vdso_clock_gettime",
    "__vdso_getcpu",
    "__vdso_gettimeofday",
    "__vdso_time",
];

/// Bytes that CRIU overwrites at an entry.
pub(crate) const JUMP: usize = 16;

/// `movabs $target, %rax; jmp *%rax`, and four traps.
pub(crate) fn jump(target: Avma) -> [u8; JUMP] {
    let mut code = [0xcc; JUMP];
    code[..2].copy_from_slice(&[0x48, 0xb8]);
    code[2..10].copy_from_slice(&target.0.to_le_bytes());
    code[10..12].copy_from_slice(&[0xff, 0xe0]);
    code
}

/// An old image with the jumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patched {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// The entries that were overwritten.
    pub(crate) entries: Vec<Svma>,
}

/// Overwrites the entries of `old` with jumps to `new`, which is at `base`.
///
/// CRIU jumps to just before the new vDSO where that lacks a symbol; here that is an error in words.
pub(crate) fn patch(old: &Image, new: &Image, base: Avma) -> Result<Patched, String> {
    let mut patched = Patched {
        bytes: old.bytes().to_vec(),
        entries: Vec::new(),
    };
    for symbol in SYMBOLS {
        let Some(entry) = old.export(symbol).map(|export| export.address) else {
            continue;
        };
        let target = new.export(symbol).ok_or_else(|| {
            format!("the new vDSO has no {symbol}, and the jump would lead to where it is not")
        })?;
        let span = entry.index()..entry.index() + JUMP;
        let Some(code) = patched.bytes.get_mut(span) else {
            return Err(format!("{symbol} ends with the image"));
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
    }
}
