//! The instructions that replace a function's entry: a jump to the new vDSO, or a system call.
//!
//! Entry points are reached by calls through libc's cached pointers, so at an entry the arguments and the callee-saved
//! registers are the caller's, and every other register may be overwritten.

use elf_tools::{Avma, Svma};

/// `endbr64`, kept where a function begins with it: an indirect call may require it as its target.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// The landing pad that `code` begins with, if any.
pub fn landing_pad(code: &[u8]) -> &'static [u8] {
    if code.starts_with(&ENDBR64) {
        &ENDBR64
    } else {
        &[]
    }
}

/// The shortest jump that leads from `at` to `target`.
///
/// 2 bytes within 127, 5 within 2 GiB, else 13 through `r11`, which no calling convention passes anything in.
pub fn jump(at: Avma, target: Avma) -> Vec<u8> {
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

/// What a function can be replaced by if the new kernel has no such function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemCall {
    /// Its name.
    pub name: &'static str,
    /// Its number on x86-64.
    pub number: u32,
}

/// The system call that does the same as the exported function `name`; from the kernel's `syscall_64.tbl`.
pub fn system_call(name: &str) -> Option<SystemCall> {
    const CALLS: [SystemCall; 6] = [
        SystemCall {
            name: "gettimeofday",
            number: 96,
        },
        SystemCall {
            name: "time",
            number: 201,
        },
        SystemCall {
            name: "clock_gettime",
            number: 228,
        },
        SystemCall {
            name: "clock_getres",
            number: 229,
        },
        SystemCall {
            name: "getcpu",
            number: 309,
        },
        SystemCall {
            name: "getrandom",
            number: 318,
        },
    ];
    let plain = name.strip_prefix("__vdso_").unwrap_or(name);
    CALLS.into_iter().find(|call| call.name == plain)
}

/// Code for an entry that makes a system call, whose arguments are where functions have theirs.
pub fn plain_system_call(call: SystemCall) -> [u8; 8] {
    let [first, second, third, fourth] = call.number.to_le_bytes();
    // mov $number, %eax; syscall; ret
    [0xb8, first, second, third, fourth, 0x0f, 0x05, 0xc3]
}

/// A function that makes the system call with the caller's arguments and returns what it returns.
///
/// `getrandom` has two more arguments than its system call. With an `opaque_len` of -1 it is asked for the size of its
/// state, which no system call answers: the stub then fails with `ENOSYS`, as the vDSO does where the kernel does not
/// support it.
pub fn system_call_stub(call: SystemCall) -> Vec<u8> {
    const ENOSYS: i32 = 38;
    let plain = plain_system_call(call);
    if call.name != "getrandom" {
        return plain.to_vec();
    }
    // cmp $-1, %r8; je over the plain stub; ...; mov $-ENOSYS, %rax; ret
    let guard = [0x49, 0x83, 0xf8, 0xff, 0x74, plain.len() as u8];
    let refusal = [
        &[0x48, 0xc7, 0xc0],
        (-ENOSYS).to_le_bytes().as_slice(),
        &[0xc3],
    ]
    .concat();
    [guard.as_slice(), &plain, &refusal].concat()
}

/// The bytes that overwrite the function at `entry`, which begins with `code`, by a jump to `target`.
pub fn proxy_patch(image: Avma, entry: Svma, code: &[u8], target: Avma) -> Vec<u8> {
    let pad = landing_pad(code);
    let jump = jump(entry.at(image).offset(pad.len() as i64), target);
    [pad, &jump].concat()
}

/// The bytes that overwrite a function which begins with `code` by a system call.
pub fn system_call_patch(code: &[u8], call: SystemCall) -> Vec<u8> {
    [landing_pad(code), &system_call_stub(call)].concat()
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

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
        let patch = proxy_patch(BASE, Svma(0x100), &code, BASE.offset(0x4000));
        assert_eq!(patch[..4], code[..4]);
        assert_eq!(
            destination(BASE.offset(0x104), &patch[4..]),
            BASE.0 + 0x4000
        );
    }

    #[test]
    fn system_call_numbers_are_those_of_the_c_library() {
        let expected = [
            (
                "__vdso_gettimeofday",
                libc_number(nix::libc::SYS_gettimeofday),
            ),
            ("time", libc_number(nix::libc::SYS_time)),
            (
                "__vdso_clock_gettime",
                libc_number(nix::libc::SYS_clock_gettime),
            ),
            ("clock_getres", libc_number(nix::libc::SYS_clock_getres)),
            ("__vdso_getcpu", libc_number(nix::libc::SYS_getcpu)),
            ("getrandom", libc_number(nix::libc::SYS_getrandom)),
        ];
        for (name, number) in expected {
            assert_eq!(
                system_call(name).map(|call| call.number),
                Some(number),
                "{name}"
            );
        }
        assert_eq!(system_call("__vdso_sgx_enter_enclave"), None);
    }

    fn libc_number(number: nix::libc::c_long) -> u32 {
        u32::try_from(number).unwrap()
    }
}
