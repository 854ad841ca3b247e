//! Relocations of code that computes an address from several constants.
//!
//! One instruction forms an address with a constant, and another one reads at a distance from it:
//! the address of the field is the sum of two constants of the code. Which of the two changes when
//! the field moves is for the linker to choose, and the choice depends on what else they take part
//! in. So a [`Constraint`] states the condition and no more. `docs/abi.md`, section 4.2.

use crate::Svma;
use crate::relocation::OpaqueReason;

pub use crate::arch::Width;

/// A constant in code that addresses are formed with: a displacement or an immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperandField {
    /// Its first byte; of one that is [`Width::None`], the first byte of the instruction that could
    /// have it.
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
    /// Nothing: the symbol only has to exist, in the version and with the size that the need
    /// states. Such a constraint has no terms.
    Presence,
}

/// A condition on constants of the code: the sum of the terms is the quantity demanded, plus
/// `addend`.
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

/// An instruction that depends on vvar in a way that cannot be stated: no function that can reach
/// it may run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Opaque {
    /// The instruction.
    pub site: Svma,
    /// Why.
    pub reason: OpaqueReason,
}
