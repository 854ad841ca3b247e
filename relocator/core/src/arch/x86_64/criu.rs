//! The code with which CRIU overwrites entries: `arch/x86` of CRIU.

use std::array;

use elf_tools::Avma;
use elf_tools::reentry::Register;

use super::Registers;
use super::patch::TRAP;

/// The functions that CRIU knows: its `arch/x86/include/asm/vdso.h`.
pub const SYMBOLS: [&str; 4] = [
    "__vdso_clock_gettime",
    "__vdso_getcpu",
    "__vdso_gettimeofday",
    "__vdso_time",
];

/// Bytes that CRIU overwrites at an entry.
pub const JUMP: usize = 16;

/// Bytes of the first instruction of a jump, which loads a register with the target.
pub const LOAD: usize = 10;

/// The register: `rax`.
const LOADED: Register = Register(0);

/// `movabs $target, %rax; jmp *%rax`, and four traps.
pub fn jump(target: Avma) -> [u8; JUMP] {
    let mut code = [TRAP; JUMP];
    code[..2].copy_from_slice(&[0x48, 0xb8]);
    code[2..LOAD].copy_from_slice(&target.0.to_le_bytes());
    code[LOAD..12].copy_from_slice(&[0xff, 0xe0]);
    code
}

/// Where code leads if it begins with such a jump.
pub fn target(code: &[u8]) -> Option<Avma> {
    let code = code.get(..JUMP)?;
    let target = Avma(u64::from_le_bytes(array::from_fn(|index| code[index + 2])));
    (code == jump(target)).then_some(target)
}

/// Whether a thread at an offset in a jump to `target` executes that jump, and not what was there
/// before it.
pub(crate) fn is_executed(target: Avma, offset: usize, registers: &Registers) -> bool {
    offset == 0 || offset == LOAD && registers.general[LOADED.index()] == target.0
}

#[cfg(test)]
mod tests {
    use elf_tools::image::Image;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};
    use kernel_fixtures::fixture;

    use super::*;
    use crate::criu::patch;

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
}
