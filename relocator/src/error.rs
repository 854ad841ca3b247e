//! Why something could not be linked, applied or verified.

use std::path::PathBuf;

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
    /// A file or process that could not be read or written.
    #[error("{what}")]
    Io {
        /// The path or process.
        what: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A kernel that could not be fetched.
    #[error(transparent)]
    Fetch(#[from] kernel_fixtures::distribution::FetchError),
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
    /// A process that nothing can be done with.
    #[error("process {pid} {reason}")]
    Process {
        /// Its number.
        pid: i32,
        /// Why: `is …`, `has …`.
        reason: String,
    },
    /// A process that nothing can be done with at this moment, but perhaps at the next one.
    #[error("process {pid} {reason}")]
    Busy {
        /// Its number.
        pid: i32,
        /// What is in the way.
        reason: String,
    },
    /// The child process that runs a linked image failed.
    #[error("the verifying process {what}")]
    Child {
        /// What became of it.
        what: String,
    },
}

impl Error {
    /// Attaches the name of what was being read.
    pub fn input(what: impl Into<String>) -> impl FnOnce(elf_tools::Error) -> Self {
        let what = what.into();
        move |source| Self::Input { what, source }
    }

    /// Attaches the path or process that an operating system error is about.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Attaches a path.
    pub fn path(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        Self::io(path.into().display().to_string())
    }
}

/// An error with everything that caused it, where only words can be kept or sent.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
