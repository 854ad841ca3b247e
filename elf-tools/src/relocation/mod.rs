//! Every place in an image that depends on a symbol of the kernel's vvar.
//!
//! [`read`] accepts what an ordinary link leaves and what a step after the link adds
//! ([`postlink()`]); [`object`] keeps the table of an image that has none in a file of its own.
//! `docs/abi.md`, sections 3 to 5, is the specification.

mod constraint;
mod encode;
mod need;
pub mod object;
mod opaque_reason;
mod place;
pub mod postlink;
mod read;
mod rela;
mod table;
mod table_fault;
mod uses;
pub mod write;

use std::fmt;

use crate::Svma;
use crate::arch::{Arch, RelocationType, SPECIFIED};
use crate::symtab::name::Reference;

pub use constraint::{Constraint, Opaque, OperandField, RightHandSide, Term, Width};
pub use opaque_reason::OpaqueReason;
pub use postlink::postlink;
pub use read::read;
pub use table_fault::TableFault;
pub use uses::{FunctionUses, Uses};

/// How a relocation is calculated and stored. Numbers and names are those
/// of the architecture's psABI: [`crate::arch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// S + A - P in 64 bits.
    Pc64,
    /// S + A - P in 32 bits, signed.
    Pc32,
    /// S + A in 64 bits.
    Abs64,
    /// S in 64 bits.
    GlobDat,
    /// S + A in 32 bits, unsigned.
    Abs32,
    /// S + A in 32 bits, signed.
    Abs32S,
    /// S + A in 16 bits, signed.
    Abs16,
    /// S + A in 8 bits, signed.
    Abs8,
    /// Z + A in 32 bits, signed.
    Size32,
    /// Z + A in 64 bits.
    Size64,
}

/// Which quantity a relocation is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// The distance from the place to the symbol.
    Distance,
    /// The symbol itself: an address, or an `offsetof`.
    Value,
    /// The symbol's size.
    Size,
}

impl Kind {
    /// The kind with that number in the architecture's psABI, if the ABI allows it.
    pub(crate) fn from_number(arch: &dyn Arch, number: u32) -> Option<Self> {
        let mut types = arch.relocation_types().iter();
        types.find(|of| of.number == number).map(|of| of.kind)
    }

    /// Its relocation type; `None` if the architecture has none.
    pub(crate) fn relocation_type(self, arch: &dyn Arch) -> Option<&'static RelocationType> {
        arch.relocation_types().iter().find(|of| of.kind == self)
    }

    /// Width of the place in bytes.
    pub fn width(self) -> u64 {
        match self {
            Self::Pc64 | Self::Abs64 | Self::GlobDat | Self::Size64 => 8,
            Self::Pc32 | Self::Abs32 | Self::Abs32S | Self::Size32 => 4,
            Self::Abs16 => 2,
            Self::Abs8 => 1,
        }
    }

    /// What it is made of.
    pub fn quantity(self) -> Quantity {
        match self {
            Self::Pc64 | Self::Pc32 => Quantity::Distance,
            Self::Size32 | Self::Size64 => Quantity::Size,
            _ => Quantity::Value,
        }
    }

    /// Whether `value` can be stored in the place without changing its meaning.
    pub fn fits(self, value: i128) -> bool {
        match self {
            Self::Pc64 | Self::Abs64 | Self::GlobDat | Self::Size64 => {
                i64::try_from(value).is_ok() || u64::try_from(value).is_ok()
            }
            Self::Pc32 | Self::Abs32S | Self::Size32 => i32::try_from(value).is_ok(),
            Self::Abs32 => u32::try_from(value).is_ok(),
            Self::Abs16 => i16::try_from(value).is_ok(),
            Self::Abs8 => i8::try_from(value).is_ok(),
        }
    }
}

/// The name in the psABI.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.relocation_type(SPECIFIED) {
            Some(of) => f.write_str(of.name),
            None => write!(f, "{self:?}"),
        }
    }
}

/// A symbol or distance that an image needs, stated once for all places that use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What is needed.
    pub reference: Reference,
    /// The size the image counts on; 0 where it states none. See `docs/abi.md`, section 3.
    pub size: u64,
    /// What to read where the new kernel has no such symbol.
    pub default: Option<Vec<u8>>,
}

/// One place that depends on a need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocation {
    /// The first byte that changes.
    pub place: Svma,
    /// How the value is calculated and stored.
    pub kind: Kind,
    /// Index into [`Relocations::needs`].
    pub need: u32,
    /// A.
    pub addend: i64,
}

/// The relocation table of one image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Relocations {
    /// What the image needs from a kernel.
    pub needs: Vec<Need>,
    /// Where it needs it, by place. No two share a byte.
    pub entries: Vec<Relocation>,
    /// Constants of the code that constraints are made of, by place. None shares a byte with an
    /// entry or another operand field.
    pub operand_fields: Vec<OperandField>,
    /// Conditions on the operand fields, by site.
    pub constraints: Vec<Constraint>,
    /// What the table cannot state, by site.
    pub opaque: Vec<Opaque>,
}

impl Relocations {
    /// The relocation whose place covers `address`.
    pub fn covering(&self, address: Svma) -> Option<usize> {
        let index = self
            .entries
            .partition_point(|entry| entry.place <= address)
            .checked_sub(1)?;
        let entry = &self.entries[index];
        (address.0 - entry.place.0 < entry.kind.width()).then_some(index)
    }
}
