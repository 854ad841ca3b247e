//! What is executed in an approach.

use relocator::plan::Policy;

use crate::Approach;

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
