//! Relocations of code that computes an address from several constants.
//!
//! `lea rax,[rip+D]; mov ecx,[rax+E]` reads a field at an address that is the sum of two constants of the code. Which of
//! the two changes when the field moves is for the linker to choose, and the choice depends on what else they take part
//! in: a [`Constraint`] states the condition and no more. `docs/abi.md`, section 4.2.

use crate::Svma;

/// How a constant is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// Not at all: a memory operand without displacement. Its value is 0 as long as the instruction is not replaced.
    None,
    /// One byte, signed.
    I8,
    /// Four bytes, signed.
    I32,
}

impl Width {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::None => 0,
            Self::I8 => 1,
            Self::I32 => 4,
        }
    }

    /// Whether `value` can be stored without changing its meaning.
    pub fn fits(self, value: i64) -> bool {
        match self {
            Self::None => value == 0,
            Self::I8 => i8::try_from(value).is_ok(),
            Self::I32 => i32::try_from(value).is_ok(),
        }
    }
}

/// A constant in code that addresses are formed with: a displacement or an immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperandField {
    /// Its first byte; of one that is [`Width::None`], the first byte of the instruction that could have it.
    pub place: Svma,
    /// How it is stored.
    pub width: Width,
}

/// One addend of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    /// Index into [`super::Relocations::operand_fields`].
    pub operand_field: u32,
    /// What the operand field's value is multiplied by.
    pub coefficient: i64,
}

/// What a constraint is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RightHandSide {
    /// S - B: the symbol's address, less the image's.
    Address,
    /// Z: the symbol's size, which for an element is the stride of its array.
    Size,
    /// Nothing: the symbol only has to exist, in the version and with the size that the need states. Such a constraint has no
    /// terms.
    Presence,
}

/// A condition on constants of the code: the sum of the terms is the quantity demanded, plus `addend`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constraint {
    /// The instruction that needs it. Every function that can reach it relies on the condition.
    pub site: Svma,
    /// What the terms add up to.
    pub right_hand_side: RightHandSide,
    /// Index into [`super::Relocations::needs`].
    pub need: u32,
    /// A.
    pub addend: i64,
    /// By operand field, no operand field twice. Without any, the quantity must be `-addend`.
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
