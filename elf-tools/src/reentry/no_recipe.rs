//! Why a thread cannot be put back to the entry of its function.

use std::fmt;

use crate::Svma;
use crate::reason::{self, Pattern, same_by_text};
use crate::reentry::Register;

/// Why a [`Context`](super::Context) has no recipe. Two reasons are equal if they say the same.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NoRecipe {
    /// The code does not tell where control goes from that instruction.
    Indirect(Svma),
    /// The analysis does not follow the code, or the way it uses the stack.
    NotFollowed,
    /// Where a return address is depends on something that is not known.
    ReturnAddressLost,
    /// Nothing has what the stack pointer was at the entry.
    StackPointerLost,
    /// Nothing has what that register held at the entry.
    RegisterLost(Register),
    /// The function has changed memory that it reads as well.
    MemoryChanged,
    /// Call frame information uses an expression for the frame.
    FrameExpression,
    /// Call frame information puts the frame at that distance from a register's value, and the code
    /// does not.
    FrameElsewhere(Register, i64),
    /// Call frame information and the code disagree on where that register is.
    RegisterElsewhere(Register),
    /// The table refers to a recipe that it does not have.
    RecipeMissing,
    /// What a stored table says.
    Stored(String),
}

const PATTERNS: [Pattern; 10] = [
    Pattern::around("indirect", "where control goes from ", " cannot be told"),
    Pattern::whole(
        "not-followed",
        "the code cannot be followed, or uses the stack in a way that is not",
    ),
    Pattern::whole(
        "return-address-lost",
        "where a return address is cannot be told",
    ),
    // Before the pattern of registers, which would fit as well.
    Pattern::whole(
        "stack-pointer-lost",
        "the stack pointer of the entry is lost",
    ),
    Pattern::around("register-lost", "", " of the entry is lost"),
    Pattern::whole(
        "memory-changed",
        "memory has been changed that the function reads as well",
    ),
    Pattern::whole(
        "frame-expression",
        "call frame information uses an expression for the frame",
    ),
    Pattern::around(
        "frame-elsewhere",
        "call frame information puts the frame at ",
        ", and the code does not",
    ),
    Pattern::around(
        "register-elsewhere",
        "call frame information and the code disagree on where ",
        " is",
    ),
    Pattern::whole("recipe-missing", "the table does not have its recipe"),
];

impl NoRecipe {
    /// What it says is made of: the pattern, and what is between its ends.
    fn parts(&self) -> Result<(&'static Pattern, String), &str> {
        let (index, between) = match self {
            Self::Indirect(at) => (0, at.to_string()),
            Self::NotFollowed => (1, String::new()),
            Self::ReturnAddressLost => (2, String::new()),
            Self::StackPointerLost => (3, String::new()),
            Self::RegisterLost(register) => (4, register.to_string()),
            Self::MemoryChanged => (5, String::new()),
            Self::FrameExpression => (6, String::new()),
            Self::FrameElsewhere(base, offset) => (7, format!("{base}{offset:+}")),
            Self::RegisterElsewhere(register) => (8, register.to_string()),
            Self::RecipeMissing => (9, String::new()),
            Self::Stored(text) => return Err(text),
        };
        Ok((&PATTERNS[index], between))
    }

    /// A word for programs, which does not change. It is `stored` for a text that is none of ours.
    pub fn code(&self) -> &'static str {
        match self.parts() {
            Ok((pattern, _)) => pattern.code,
            Err(text) => reason::code(&PATTERNS, text),
        }
    }
}

impl fmt::Display for NoRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Ok((pattern, between)) => f.write_str(&pattern.text(&between)),
            Err(text) => f.write_str(text),
        }
    }
}

same_by_text!(NoRecipe);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_reason_is_the_reason() {
        let all = [
            NoRecipe::Indirect(Svma(0x1234)),
            NoRecipe::NotFollowed,
            NoRecipe::ReturnAddressLost,
            NoRecipe::StackPointerLost,
            NoRecipe::RegisterLost(Register(3)),
            NoRecipe::MemoryChanged,
            NoRecipe::FrameExpression,
            NoRecipe::FrameElsewhere(Register(6), 16),
            NoRecipe::RegisterElsewhere(Register(3)),
            NoRecipe::RecipeMissing,
        ];
        let mut codes = std::collections::BTreeSet::new();
        for reason in &all {
            let stored = NoRecipe::Stored(reason.to_string());
            assert_eq!(&stored, reason);
            assert_eq!(stored.code(), reason.code());
            codes.insert(reason.code());
        }
        assert_eq!(codes.len(), all.len());
        assert_eq!(NoRecipe::from("somebody else's").code(), "stored");
    }
}
