//! Why something could not be done with a process.

use std::path::PathBuf;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what can be done about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An image that could not be read or linked.
    #[error(transparent)]
    Link(#[from] relocator::Error),
    /// A file or process that could not be read or written.
    #[error("{what}")]
    Io {
        /// The path or process.
        what: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A source that does not have what is needed.
    #[error("{text}: {reason}")]
    Source {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is in a process is understood, but does not go together.
    #[error("cannot link {what}: {reason}")]
    Unlinkable {
        /// What was to be linked.
        what: String,
        /// Why that cannot be.
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
}

impl Error {
    /// Whether the inputs were understood and the answer is no.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Link(error) => error.is_refusal(),
            Self::Unlinkable { .. } | Self::Process { .. } | Self::Busy { .. } => true,
            Self::Io { .. } | Self::Source { .. } => false,
        }
    }

    /// Attaches the name of what was being read.
    pub fn input(what: impl Into<String>) -> impl FnOnce(elf_tools::Error) -> Self {
        let attach = relocator::Error::input(what);
        move |source| Self::Link(attach(source))
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
