//! What is executed in an approach.

use elf_tools::symtab::Symtab;
use relocator::plan::Policy;

use super::unlinked::Unlinked;
use crate::entry::Entry;
use crate::linked::Prepared;
use crate::{Approach, Result};

/// What is executed in an approach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// The old image, linked.
    Linked(Policy),
    /// The old image on zeros, with the jumps that CRIU writes or without.
    Unlinked { jumps: bool },
    /// The running kernel's.
    Native,
}

impl From<Approach> for Code {
    fn from(approach: Approach) -> Self {
        match (approach.policy(), approach) {
            (Some(policy), _) => Self::Linked(policy),
            (None, Approach::Native) => Self::Native,
            (None, approach) => Self::Unlinked {
                jumps: approach == Approach::Criu,
            },
        }
    }
}

impl Code {
    /// Maps it in this process, which is to end with it, and returns the functions that can go on
    /// so. `home` has the symbols of the kernel that the image is of, as far as they are known.
    pub(super) fn entries(
        self,
        prepared: &Prepared<'_>,
        home: Option<&Symtab>,
        approach: Approach,
    ) -> Result<Vec<Entry>> {
        match self {
            Self::Linked(policy) => {
                let mapped = prepared.map(policy, prepared.try_link(policy)?)?;
                let plans = mapped.functions.iter();
                let covered = plans.filter(|plan| approach.covers(plan.strategy));
                Ok(covered.filter_map(|plan| mapped.entry(plan)).collect())
            }
            Self::Unlinked { jumps } => {
                let functions = Unlinked::new(prepared, home, jumps).map()?;
                Ok(functions
                    .into_iter()
                    .map(|function| function.entry)
                    .collect())
            }
            Self::Native => {
                let native = prepared.native()?;
                let names = prepared.callable();
                Ok(names
                    .iter()
                    .filter_map(|names| native.entry(names))
                    .collect())
            }
        }
    }
}
