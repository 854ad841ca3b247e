//! Why something could not be linked.

use elf_tools::Svma;

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
    /// A source that names nothing.
    #[error("no such source `{text}`: {reason}")]
    Source {
        /// As it was given.
        text: String,
        /// What would be valid.
        reason: String,
    },
    /// The inputs are understood, but do not go together.
    #[error("cannot link {what}: {reason}")]
    Unlinkable {
        /// What was to be linked.
        what: String,
        /// Why that cannot be.
        reason: String,
    },
    /// A function for which no strategy is left.
    #[error("function `{function}` at {entry} cannot go on: {reason}")]
    Refused {
        /// Its name.
        function: String,
        /// Its entry point.
        entry: Svma,
        /// Why each strategy failed.
        reason: String,
    },
}

impl Error {
    /// Whether the inputs were understood and the answer is no.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Unlinkable { .. } | Self::Refused { .. })
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
