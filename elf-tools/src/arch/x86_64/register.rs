//! Registers: System V psABI for x86-64, figures 3.4 and 3.36.

use crate::arch::{Register, Registers};

/// Number of general registers.
pub(in crate::arch) const REGISTER_COUNT: usize = 16;

impl Register {
    /// `rax`
    pub const RAX: Self = Self(0);
    /// `rdx`
    pub const RDX: Self = Self(1);
    /// `rcx`
    pub const RCX: Self = Self(2);
    /// `rbx`
    pub const RBX: Self = Self(3);
    /// `rsi`
    pub const RSI: Self = Self(4);
    /// `rdi`
    pub const RDI: Self = Self(5);
    /// `rbp`
    pub const RBP: Self = Self(6);
    /// `rsp`
    pub const RSP: Self = Self(7);
}

/// What registers are for.
pub const REGISTERS: Registers = Registers {
    names: &[
        "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ],
    stack_pointer: Register::RSP,
    result: Register::RAX,
    arguments: &[
        Register::RDI,
        Register::RSI,
        Register::RDX,
        Register::RCX,
        Register(8),
        Register(9),
    ],
    callee_saved: &[
        Register::RBX,
        Register::RBP,
        Register(12),
        Register(13),
        Register(14),
        Register(15),
    ],
    // `syscall` puts the program counter and the flags there.
    system_call_clobbers: &[Register::RCX, Register(11)],
    return_address: 16,
};

/// From the processor's numbers to DWARF's.
const DWARF: [u8; REGISTER_COUNT] = [0, 2, 1, 3, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];

/// The register that the processor calls `number`.
pub(super) fn register(number: u8) -> Register {
    Register(DWARF.get(usize::from(number)).copied().unwrap_or(number))
}

/// The processor's number of a register.
pub(super) fn number(register: Register) -> u8 {
    let found = DWARF.iter().position(|&dwarf| dwarf == register.0);
    found.map_or(register.0, |number| number as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_registers_are_one_to_one() {
        for of in 0..REGISTER_COUNT as u8 {
            assert_eq!(number(register(of)), of);
        }
        assert_eq!(number(Register::RSP), 4);
        assert_eq!(number(Register::RDI), 7);
    }
}
