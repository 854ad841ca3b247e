//! Abstract values: what a register may hold, as far as the code says.
//!
//! A value is affine, `base * IMAGE + constant + sum(coefficient * unknown)`, and remembers which
//! constants of the code went into `constant`, and how often: its provenance. A register holds one
//! of a small set of values.

use super::pool::Pool;

/// Most unknowns, and most constants of the code, in one value. Stock code has 2 and 4.
const MAX_TERMS: usize = 8;

/// A number that the analysis knows nothing about, except where it comes from. Equal unknowns are
/// equal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unknown {
    /// What a register held when the function was entered.
    Initial(u8),
    /// The stack pointer at the function's entry.
    Stack,
    /// The stack pointer after that instruction has aligned it.
    AlignedStack(u32),
    /// What that instruction loaded from memory.
    Loaded(u32),
    /// What that instruction left in a register.
    Computed(u32, u8),
    /// What is left in a register of which that instruction has written a part. The rest may be that
    /// of an address.
    Part(u32, u8),
    /// A register whose lowest byte that instruction has set to 0 or 1. The rest does not matter to
    /// compilers.
    Bit(u32, u8),
    /// One of several values that meet at a node of the control flow, by node and location.
    Merged(u32, u64),
    /// The lower half of an unknown, extended by zeros.
    Low(UnknownId),
    /// The lower half of an unknown, extended by its sign.
    Signed(UnknownId),
}

/// Index of an unknown in [`Pool`].
pub(crate) type UnknownId = u32;
/// Index of a set of values in [`Pool`].
pub(crate) type SetId = u32;
/// A constant of the code: index of the instruction times two, plus one for the immediate.
pub(crate) type ConstantId = u32;

/// An unknown with what it is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Scaled {
    pub(crate) unknown: UnknownId,
    pub(crate) coefficient: i64,
    /// The constant of the code that is the coefficient, if there is one.
    pub(crate) scale: Option<ConstantId>,
}

/// One abstract value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Value {
    /// How often the image's address is in it.
    pub(crate) base: i64,
    pub(crate) constant: i64,
    /// By unknown.
    pub(crate) terms: Vec<Scaled>,
    /// Constants of the code that add up to `constant`, with coefficients; by constant.
    pub(crate) provenance: Vec<(ConstantId, i64)>,
}

impl Value {
    pub(crate) fn constant(constant: i64) -> Self {
        Self {
            constant,
            ..Self::default()
        }
    }

    pub(crate) fn unknown(unknown: UnknownId) -> Self {
        Self {
            terms: vec![Scaled {
                unknown,
                coefficient: 1,
                scale: None,
            }],
            ..Self::default()
        }
    }

    /// Whether it is a number that no address is part of.
    pub(crate) fn is_number(&self, pool: &Pool) -> bool {
        self.base == 0 && self.stack(pool).is_none()
    }

    /// The stack pointer that is part of it.
    pub(crate) fn stack(&self, pool: &Pool) -> Option<&Scaled> {
        self.terms.iter().find(|term| pool.is_stack(term.unknown))
    }

    /// The unknown that it is, if it is nothing else.
    pub(crate) fn as_unknown(&self) -> Option<UnknownId> {
        match (self.base, self.constant, &self.terms[..]) {
            (0, 0, [term]) if term.coefficient == 1 => Some(term.unknown),
            _ => None,
        }
    }

    /// The constants of the code that it depends on.
    pub(crate) fn constants(&self) -> impl Iterator<Item = ConstantId> {
        let scales = self.terms.iter().filter_map(|term| term.scale);
        self.provenance.iter().map(|entry| entry.0).chain(scales)
    }

    /// `self + factor * other`; `None` where coefficients overflow.
    pub(crate) fn plus(&self, other: &Self, factor: i64, pool: &Pool) -> Option<Self> {
        let mut sum = Self {
            base: self.base.checked_add(other.base.checked_mul(factor)?)?,
            constant: self
                .constant
                .wrapping_add(other.constant.wrapping_mul(factor)),
            terms: self.terms.clone(),
            provenance: self.provenance.clone(),
        };
        for term in &other.terms {
            let coefficient = term.coefficient.checked_mul(factor)?;
            if factor != 1 && term.scale.is_some() {
                return None;
            }
            match sum.terms.binary_search_by_key(&term.unknown, |t| t.unknown) {
                Ok(at) => {
                    let found = &mut sum.terms[at];
                    if found.scale.is_some() || term.scale.is_some() {
                        return None;
                    }
                    found.coefficient = found.coefficient.checked_add(coefficient)?;
                    if found.coefficient == 0 {
                        // What an instruction computed on two visits are two numbers, whose
                        // difference is not 0.
                        if !pool.is_the_same_always(term.unknown) {
                            return None;
                        }
                        sum.terms.remove(at);
                    }
                }
                Err(at) => sum.terms.insert(
                    at,
                    Scaled {
                        unknown: term.unknown,
                        coefficient,
                        scale: term.scale,
                    },
                ),
            }
        }
        if sum.terms.len() > MAX_TERMS || sum.provenance.len() + other.provenance.len() > MAX_TERMS
        {
            return None;
        }
        // Nothing on the stack moves with the vvar.
        if sum.stack(pool).is_some() {
            sum.provenance.clear();
            return Some(sum);
        }
        for &(constant, coefficient) in &other.provenance {
            let coefficient = coefficient.checked_mul(factor)?;
            match sum
                .provenance
                .binary_search_by_key(&constant, |entry| entry.0)
            {
                Ok(at) => {
                    let found = &mut sum.provenance[at].1;
                    *found = found.checked_add(coefficient)?;
                    if *found == 0 {
                        sum.provenance.remove(at);
                    }
                }
                Err(at) => sum.provenance.insert(at, (constant, coefficient)),
            }
        }
        Some(sum)
    }
}
