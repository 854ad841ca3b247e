//! Code that replaces a function's entry.

use elf_tools::Avma;

/// `int3`, for bytes that no thread may execute.
pub(super) const TRAP: u8 = 0xcc;

/// `endbr64`, kept where a function begins with it: an indirect call may require it as its target.
pub(super) const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// The landing pad that `code` begins with, if any.
pub(super) fn landing_pad(code: &[u8]) -> &'static [u8] {
    if code.starts_with(&ENDBR64) {
        &ENDBR64
    } else {
        &[]
    }
}

/// The shortest jump that leads from `at` to `target`.
///
/// 2 bytes within 127, 5 within 2 GiB, else 13 through `r11`, which no calling convention passes
/// anything in.
pub(super) fn jump(at: Avma, target: Avma) -> Vec<u8> {
    let distance = |length: u64| i128::from(target.0) - i128::from(at.0) - i128::from(length);
    if let Ok(near) = i8::try_from(distance(2)) {
        return vec![0xeb, near as u8];
    }
    if let Ok(near) = i32::try_from(distance(5)) {
        return [&[0xe9], near.to_le_bytes().as_slice()].concat();
    }
    // movabs $target, %r11; jmp *%r11
    [
        &[0x49, 0xbb],
        target.0.to_le_bytes().as_slice(),
        &[0x41, 0xff, 0xe3],
    ]
    .concat()
}

/// Code for an entry that makes a system call, whose arguments are where functions have theirs.
pub(super) fn plain_system_call(number: u32) -> [u8; 8] {
    let [first, second, third, fourth] = number.to_le_bytes();
    // mov $number, %eax; syscall; ret
    [0xb8, first, second, third, fourth, 0x0f, 0x05, 0xc3]
}

/// The same, unless the fifth argument is -1.
pub(super) fn guarded_system_call(number: u32, error: i32) -> Vec<u8> {
    let plain = plain_system_call(number);
    // cmp $-1, %r8; je over the plain stub; ...; mov $-error, %rax; ret
    let guard = [0x49, 0x83, 0xf8, 0xff, 0x74, plain.len() as u8];
    [guard.as_slice(), &plain, &fail(error)].concat()
}

/// Code for an entry that returns an error.
pub(super) fn fail(error: i32) -> [u8; 8] {
    let [first, second, third, fourth] = (-error).to_le_bytes();
    // mov $-error, %rax; ret
    [0x48, 0xc7, 0xc0, first, second, third, fourth, 0xc3]
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    use super::super::super::jump_patch;
    use super::super::ARCH;
    use super::*;

    const BASE: Avma = Avma(0x7f00_0000_0000);

    /// Decodes a jump by an independent decoder and returns where it leads.
    fn destination(at: Avma, code: &[u8]) -> u64 {
        let mut decoder = Decoder::with_ip(64, code, at.0, DecoderOptions::NONE);
        let first = decoder.decode();
        match first.mnemonic() {
            Mnemonic::Jmp => first.near_branch_target(),
            Mnemonic::Mov => {
                let second = decoder.decode();
                assert_eq!(second.mnemonic(), Mnemonic::Jmp);
                assert_eq!(second.op0_register(), first.op0_register());
                first.immediate64()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_jump_arrives_with_the_shortest_encoding_in_reach() {
        let cases: [(i64, usize); 12] = [
            (2, 2),
            (0, 2),
            (129, 2),
            (130, 5),
            (-126, 2),
            (-127, 5),
            (0x7fff_ffff + 5, 5),
            (0x7fff_ffff + 6, 13),
            (-0x8000_0000 + 5, 5),
            (-0x8000_0000 + 4, 13),
            (-0x7eff_fffd_0000, 13),
            (0x10_0000, 5),
        ];
        for (distance, length) in cases {
            let target = BASE.offset(distance);
            let code = jump(BASE, target);
            assert_eq!(code.len(), length, "{distance:#x}");
            assert_eq!(destination(BASE, &code), target.0, "{distance:#x}");
        }
    }

    #[test]
    fn a_landing_pad_is_kept_and_counted() {
        let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x55];
        let target = BASE.offset(0x4000);
        let patch = jump_patch(&ARCH, BASE.offset(0x100), &code, target);
        assert_eq!(patch[..4], code[..4]);
        assert_eq!(
            destination(BASE.offset(0x104), &patch[4..]),
            BASE.0 + 0x4000
        );
    }
}
