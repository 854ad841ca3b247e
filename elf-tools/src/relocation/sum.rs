//! Relocations of code that computes an address from several constants.
//!
//! `lea rax,[rip+D]; mov ecx,[rax+E]` reads a field at an address that is the sum of two constants of the code. Which of
//! the two changes when the field moves is for the linker to choose, and the choice depends on what else they take part
//! in: a [`Sum`] states the condition and no more. `docs/abi.md`, section 4.2.

use crate::Svma;

/// How a constant is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// Not at all: a memory operand without displacement. Its value is 0 as long as the instruction is not replaced.
    Absent,
    /// One byte, signed.
    Byte,
    /// Four bytes, signed.
    Word,
}

impl Width {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Byte => 1,
            Self::Word => 4,
        }
    }

    /// Whether `value` can be stored without changing its meaning.
    pub fn fits(self, value: i64) -> bool {
        match self {
            Self::Absent => value == 0,
            Self::Byte => i8::try_from(value).is_ok(),
            Self::Word => i32::try_from(value).is_ok(),
        }
    }
}

/// A constant in code that addresses are formed with: a displacement or an immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// Its first byte; of one that is [`Width::Absent`], the first byte of the instruction that could have it.
    pub place: Svma,
    /// How it is stored.
    pub width: Width,
}

/// One addend of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    /// Index into [`super::Relocations::slots`].
    pub slot: u32,
    /// What the slot's value is multiplied by.
    pub coefficient: i64,
}

/// What a sum is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Demand {
    /// S - B: the symbol's address, less the image's.
    Address,
    /// Z: the symbol's size, which for an element is the stride of its array.
    Size,
    /// Nothing: the symbol only has to exist, in the version and with the size that the need states. Such a sum has no
    /// terms.
    Presence,
}

/// A condition on constants of the code: the sum of the terms is the quantity demanded, plus `addend`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sum {
    /// The instruction that needs it. Every function that can reach it relies on the condition.
    pub site: Svma,
    /// What the terms add up to.
    pub demand: Demand,
    /// Index into [`super::Relocations::needs`].
    pub need: u32,
    /// A.
    pub addend: i64,
    /// By slot, no slot twice. Without any, the quantity must be `-addend`.
    pub terms: Vec<Term>,
}

/// An instruction that depends on vvar in a way that cannot be stated: no function that can reach it may run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Opaque {
    /// The instruction.
    pub site: Svma,
    /// Why, in words.
    pub reason: String,
}
