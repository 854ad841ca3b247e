//! x86-64.
//!
//! | module | has |
//! |---|---|
//! | `registers` | `user_regs_struct`, and the code segment of 64-bit programs |
//! | `call` | the instructions of an injected call |
//! | `cpu_features` | `cpuid` |

pub(crate) mod call;
pub mod cpu_features;
mod registers;

use elf_tools::image::Image;
use elf_tools::{Class, Machine};
use nix::libc;

pub use registers::UserRegisters;

/// The registers as `ptrace` hands them out.
pub(crate) use nix::libc::user_regs_struct as RawRegisters;

/// The requests for them. `PTRACE_GETREGSET` would hand out another structure while a thread
/// executes 32-bit code.
pub(crate) const GET_REGISTERS: libc::c_uint = libc::PTRACE_GETREGS;
/// See [`GET_REGISTERS`].
pub(crate) const SET_REGISTERS: libc::c_uint = libc::PTRACE_SETREGS;

/// The register set of the extended state: `NT_X86_XSTATE` of `linux/elf.h`.
pub(crate) const EXTENDED_STATE: usize = 0x202;

/// Room for the largest extended state that processors have today (AMX: 11 KiB), and then some.
pub(crate) const LARGEST_STATE: usize = 32 << 10;

/// How far the first and the last byte of code and data may be from each other: operands reach 2
/// GiB, less 64 KiB for what an instruction adds.
pub(crate) const OPERAND_REACH: u64 = (1 << 31) - (64 << 10);

/// Whether an image is for 64-bit programs of this machine.
pub(crate) fn is_native(image: &Image) -> bool {
    image.class() == Class::Elf64 && image.machine() == Machine::X86_64
}

/// Whether an ELF header, of which at least the first 20 bytes are given, is for 64-bit programs of
/// this machine.
pub(crate) fn is_native_header(header: &[u8]) -> bool {
    /// `ELFCLASS64`, at byte 4.
    const CLASS_64: u8 = 2;
    /// `EM_X86_64`, at byte 18.
    const MACHINE: [u8; 2] = [62, 0];
    header.get(4) == Some(&CLASS_64) && header.get(18..20) == Some(MACHINE.as_slice())
}
