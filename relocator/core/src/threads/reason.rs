//! Why a thread cannot be carried across, as values.

use elf_tools::reentry::{NoRecipe, Register};
use elf_tools::{Avma, Svma};

/// Why a thread, or a context that a signal interrupted, cannot be carried across.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StuckReason {
    /// It is between the instructions of the image.
    #[error("no instruction of the image begins there")]
    NoInstruction,
    /// Its return addresses are not those of any call that leads to its instruction.
    #[error("its return addresses are not those of any call that leads here")]
    UnknownCallers,
    /// Two functions reach its instruction, and their recipes differ.
    #[error("it may be in the function at {0} or in that at {1}")]
    Ambiguous(Svma, Svma),
    /// The re-entry table has no recipe for it.
    #[error("{0}")]
    NoRecipe(NoRecipe),
    /// A register of the entry is computed with constants that an earlier link has changed.
    #[error("{0} of the entry is part of an address, in code that was linked earlier")]
    LinkedEarlier(Register),
    /// A register of the entry cannot be computed.
    #[error("{register} of the entry: {fault}")]
    Register {
        /// The register.
        register: Register,
        /// Why.
        fault: RecipeFault,
    },
    /// What is known of it cannot be read, or contradicts the recipe.
    #[error("{0}")]
    Recipe(#[from] RecipeFault),
    /// Its instruction will be somewhere else before it could be moved.
    #[error("its instruction will be elsewhere")]
    MovedAfterwards,
    /// It is in code that another tool has left and that it leaves by itself.
    #[error("it returns from a system call of another tool")]
    ForeignSystemCall,
    /// It is in the new vDSO, and no old one has its function.
    #[error("it is in the new vDSO, which has to move, and no old vDSO has this function")]
    NoOldFunction,
    /// It is in memory that is about to change.
    #[error("it is in memory that is about to change")]
    InUse,
}

impl StuckReason {
    /// A word for programs, which stays the same from version to version.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoInstruction => "no-instruction",
            Self::UnknownCallers => "unknown-callers",
            Self::Ambiguous(..) => "ambiguous",
            Self::NoRecipe(reason) => reason.code(),
            Self::LinkedEarlier(_) => "linked-earlier",
            Self::Register { fault, .. } | Self::Recipe(fault) => fault.code(),
            Self::MovedAfterwards => "moved-afterwards",
            Self::ForeignSystemCall => "foreign-system-call",
            Self::NoOldFunction => "no-old-function",
            Self::InUse => "in-use",
        }
    }
}

/// Why a recipe cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeFault {
    /// The recipe names a register that the architecture does not have.
    #[error("{0} does not exist")]
    NoSuchRegister(Register),
    /// Memory that holds a value cannot be read.
    #[error("the stack cannot be read at {0}")]
    Unreadable(Avma),
    /// The recipe divides by 0.
    #[error("the recipe divides by 0")]
    NoScale,
    /// A value is between two that the code could have computed.
    #[error("{value:#x} is no multiple of {scale}")]
    NoMultiple {
        /// The value.
        value: i64,
        /// What it should be a multiple of.
        scale: i64,
    },
}

impl RecipeFault {
    /// A word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoSuchRegister(_) => "no-such-register",
            Self::Unreadable(_) => "stack-unreadable",
            Self::NoScale => "recipe-without-scale",
            Self::NoMultiple { .. } => "no-multiple",
        }
    }
}
