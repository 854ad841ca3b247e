//! Why something could not be linked.

use elf_tools::{Avma, Class, Machine, Svma};

use crate::arch;
use crate::reason::Refusal;
use crate::source::NoSymtab;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what can be done about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes that could not be understood.
    #[error("{what}")]
    Input {
        /// What was being read: a path, a process, a fixture.
        what: String,
        /// What is wrong with it.
        source: elf_tools::Error,
    },
    /// A source without a vDSO.
    #[error("{name} has no vDSO image")]
    NoImage {
        /// The source.
        name: String,
    },
    /// A source without a symbol table.
    #[error("{name} has no symbol table ({reason})")]
    NoSymtab {
        /// The source.
        name: String,
        /// Why.
        reason: NoSymtab,
    },
    /// A relocation table where a kernel was expected.
    #[error(
        "{name} is a relocation table, which belongs to an image and is no source of its own; \
         see --old-tables"
    )]
    TableAsSource {
        /// The source.
        name: String,
    },
    /// An image for an architecture that the linker does not know.
    #[error(
        "cannot link a {class} {machine} image: only {} images are linked",
        arch::SUPPORTED
    )]
    Architecture {
        /// Of the image.
        machine: Machine,
        /// Of the image.
        class: Class,
    },
    /// A kernel whose programs are not those of the old image.
    #[error(
        "cannot link a {} {} image to a kernel for {} {} programs: neither runs the other's code",
        .old.1, .old.0, .new.1, .new.0
    )]
    OtherArchitecture {
        /// Of the old image.
        old: (Machine, Class),
        /// Of the new one.
        new: (Machine, Class),
    },
    /// A place for an image that leaves no room for a mapping below it.
    #[error("cannot link an image at {image}: {mapping} would lie {below:#x} bytes below it")]
    NoRoomBelow {
        /// The place.
        image: Avma,
        /// The name of the mapping.
        mapping: String,
        /// Its distance in bytes.
        below: u64,
    },
    /// An instruction that cannot be changed as its operands require.
    #[error("cannot link the instruction at {address}: {fault}")]
    Instruction {
        /// The instruction.
        address: Svma,
        /// What is wrong with it.
        fault: InstructionFault,
    },
    /// A function for which no strategy is left.
    #[error("function `{function}` at {entry} cannot go on: {reason}")]
    Refused {
        /// Its name.
        function: String,
        /// Its entry point.
        entry: Svma,
        /// Why each strategy failed.
        reason: Refusal,
    },
}

/// Why an instruction cannot be changed. Each is a fault of the linker or of a table that the
/// checks after encoding catch; nothing is written then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstructionFault {
    /// It has no constant where the table says so.
    #[error("it has no such constant")]
    NoConstant,
    /// With the new constant it would be another instruction.
    #[error("it would become another one")]
    Another,
    /// At its new place it would decode as more than one.
    #[error("it would become several")]
    Several,
    /// The jump to its new place does not arrive.
    #[error("it would not be reached at its new place")]
    Unreached,
    /// It has no form with a longer constant.
    #[error("it has no form with a longer constant")]
    NoLongForm,
    /// The encoder refuses it at its new place.
    #[error("it cannot be moved: {0}")]
    Immovable(String),
    /// Its new place is out of a jump's reach.
    #[error("{0} is too far away to move it to")]
    TooFar(Svma),
}

impl Error {
    /// Whether the inputs were understood and the answer is no.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Input { .. }
            | Self::NoImage { .. }
            | Self::NoSymtab { .. }
            | Self::TableAsSource { .. } => false,
            Self::Architecture { .. }
            | Self::OtherArchitecture { .. }
            | Self::NoRoomBelow { .. }
            | Self::Instruction { .. }
            | Self::Refused { .. } => true,
        }
    }

    /// Attaches the name of what was being read.
    pub fn input(what: impl Into<String>) -> impl FnOnce(elf_tools::Error) -> Self {
        let what = what.into();
        move |source| Self::Input { what, source }
    }
}

/// An error with everything that caused it, where only words can be kept or sent.
pub fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
