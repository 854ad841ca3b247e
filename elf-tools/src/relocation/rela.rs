//! Entries of a relocation table as they are stored, and the numbers of their types.

use object::endian::{I64, U64};
use object::{LittleEndian, elf, pod};

use crate::Svma;
use crate::arch::Arch;
use crate::elf_writer::RELA;
use crate::relocation::{Kind, RightHandSide, Width};

/// An `Elf64_Rela`, taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rela {
    pub(super) place: Svma,
    /// The type, as the psABI numbers it.
    pub(super) number: u32,
    /// Index into the linked symbol table.
    pub(super) symbol: usize,
    pub(super) addend: i64,
}

impl Rela {
    /// The entry as it is stored.
    pub(super) fn stored(self) -> elf::Rela64<LittleEndian> {
        let info = ((self.symbol as u64) << 32) | u64::from(self.number);
        elf::Rela64 {
            r_offset: U64::new(LittleEndian, self.place.0),
            r_info: U64::new(LittleEndian, info),
            r_addend: I64::new(LittleEndian, self.addend),
        }
    }
}

/// The whole entries in a table's bytes.
pub(super) fn entries(table: &[u8]) -> impl Iterator<Item = Rela> {
    let count = table.len() / RELA as usize;
    let entries = pod::slice_from_bytes::<elf::Rela64<LittleEndian>>(table, count);
    let entries = entries.map_or(&[][..], |(entries, _)| entries);
    entries.iter().map(|entry| {
        let info = entry.r_info.get(LittleEndian);
        Rela {
            place: Svma(entry.r_offset.get(LittleEndian)),
            number: (info & 0xffff_ffff) as u32,
            symbol: (info >> 32) as usize,
            addend: entry.r_addend.get(LittleEndian),
        }
    })
}

/// What an entry is, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// Nothing: the architecture's relocation type of that meaning.
    Ignored,
    /// A relocation of the psABI.
    Kind(Kind),
    /// The beginning of a constraint.
    Constraint(RightHandSide),
    /// One addend of the constraint that was begun last.
    Term(Width),
    /// What cannot be stated.
    Opaque,
}

impl Type {
    /// The types of constraints: `docs/abi.md`, section 4.2. The psABI assigns no number from 0x100
    /// on.
    const PRIVATE: [(Self, u32); 7] = [
        (Self::Constraint(RightHandSide::Address), 0x1000),
        (Self::Constraint(RightHandSide::Size), 0x1001),
        (Self::Constraint(RightHandSide::Presence), 0x1002),
        (Self::Term(Width::None), 0x1010),
        (Self::Term(Width::I8), 0x1011),
        (Self::Term(Width::I32), 0x1012),
        (Self::Opaque, 0x1020),
    ];

    /// The type of that number, if the ABI allows it.
    pub(super) fn from_number(arch: &dyn Arch, number: u32) -> Option<Self> {
        if number == arch.ignored_relocation() {
            return Some(Self::Ignored);
        }
        let private = || {
            let found = Self::PRIVATE.iter().find(|entry| entry.1 == number);
            found.map(|entry| entry.0)
        };
        Kind::from_number(arch, number)
            .map(Self::Kind)
            .or_else(private)
    }

    /// Its number; `None` for a kind that the architecture does not have.
    pub(super) fn number(self, arch: &dyn Arch) -> Option<u32> {
        match self {
            Self::Ignored => Some(arch.ignored_relocation()),
            Self::Kind(kind) => kind.relocation_type(arch).map(|of| of.number),
            private => {
                let found = Self::PRIVATE.iter().find(|entry| entry.0 == private);
                found.map(|entry| entry.1)
            }
        }
    }
}
