//! Relocation types, with the numbers and names of the psABI.

use object::elf;

use crate::arch::RelocationType;
use crate::relocation::Kind;

const fn named(kind: Kind, number: elf::RelocationType, name: &'static str) -> RelocationType {
    RelocationType {
        kind,
        number: number.0,
        name,
    }
}

/// Every type that relocation tables may use.
pub(super) const TYPES: &[RelocationType] = &[
    named(Kind::Abs64, elf::R_X86_64_64, "R_X86_64_64"),
    named(Kind::Pc32, elf::R_X86_64_PC32, "R_X86_64_PC32"),
    named(Kind::GlobDat, elf::R_X86_64_GLOB_DAT, "R_X86_64_GLOB_DAT"),
    named(Kind::Abs32, elf::R_X86_64_32, "R_X86_64_32"),
    named(Kind::Abs32S, elf::R_X86_64_32S, "R_X86_64_32S"),
    named(Kind::Abs16, elf::R_X86_64_16, "R_X86_64_16"),
    named(Kind::Abs8, elf::R_X86_64_8, "R_X86_64_8"),
    named(Kind::Pc64, elf::R_X86_64_PC64, "R_X86_64_PC64"),
    named(Kind::Size32, elf::R_X86_64_SIZE32, "R_X86_64_SIZE32"),
    named(Kind::Size64, elf::R_X86_64_SIZE64, "R_X86_64_SIZE64"),
];

/// The type that does nothing.
pub(super) const NONE: u32 = elf::R_X86_64_NONE.0;
