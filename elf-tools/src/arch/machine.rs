//! Instruction sets by their ELF numbers.

use std::fmt;

use object::elf;

/// Instruction set an ELF file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Machine {
    /// 32-bit x86.
    X86,
    /// x86-64, including x32 (which is x86-64 in [`Class::Elf32`](crate::Class::Elf32)).
    X86_64,
    /// 32-bit Arm.
    Arm,
    /// 64-bit Arm.
    Aarch64,
    /// Any other `e_machine`.
    Other(u16),
}

impl Machine {
    /// The instruction set of that `e_machine`.
    pub fn from_number(number: u16) -> Self {
        match elf::Machine(number) {
            elf::EM_386 => Self::X86,
            elf::EM_X86_64 => Self::X86_64,
            elf::EM_ARM => Self::Arm,
            elf::EM_AARCH64 => Self::Aarch64,
            _ => Self::Other(number),
        }
    }

    /// Its `e_machine`.
    pub fn number(self) -> u16 {
        match self {
            Self::X86 => elf::EM_386.0,
            Self::X86_64 => elf::EM_X86_64.0,
            Self::Arm => elf::EM_ARM.0,
            Self::Aarch64 => elf::EM_AARCH64.0,
            Self::Other(number) => number,
        }
    }

    /// Whether programs of the instruction set's own word size have 32 bits.
    pub(crate) fn is_32_bit(self) -> bool {
        matches!(self, Self::X86 | Self::Arm)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X86 => f.write_str("x86"),
            Self::X86_64 => f.write_str("x86-64"),
            Self::Arm => f.write_str("arm"),
            Self::Aarch64 => f.write_str("arm64"),
            Self::Other(number) => write!(f, "ELF machine {number}"),
        }
    }
}
