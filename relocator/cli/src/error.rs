//! Why a command could not do what was asked for.

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
    /// A process that could not be looked at or worked on.
    #[error(transparent)]
    Process(#[from] relocator_process::Error),
    /// What could not be verified.
    #[error(transparent)]
    Verify(#[from] relocator_verify::Error),
    /// A kernel that could not be fetched.
    #[error(transparent)]
    Fetch(#[from] kernel_source::FetchError),
    /// A file that could not be read or written.
    #[error("{what}")]
    Io {
        /// Its path.
        what: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A report that could not be written.
    #[error("cannot write the report")]
    Report {
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The report of work that is done could not be written.
    #[error("{done}, but the report could not be written")]
    Done {
        /// What was done, as a sentence.
        done: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Where nothing can be written to.
    #[error("cannot write to `{text}`: {reason}")]
    Output {
        /// As it was given.
        text: String,
        /// What would be valid.
        reason: String,
    },
    /// A source that names nothing.
    #[error("no such source `{text}`: {reason}")]
    Source {
        /// As it was given.
        text: String,
        /// What would be valid.
        reason: String,
    },
}

impl Error {
    /// Attaches the name of what was being read.
    pub fn input(what: impl Into<String>) -> impl FnOnce(elf_tools::Error) -> Self {
        let attach = relocator::Error::input(what);
        move |source| Self::Link(attach(source))
    }

    /// Attaches a path.
    pub fn path(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let what = path.into().display().to_string();
        move |source| Self::Io { what, source }
    }

    /// Whether the inputs were understood and the answer is no.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Link(error) => error.is_refusal(),
            Self::Process(error) => error.is_refusal(),
            Self::Verify(error) => error.is_refusal(),
            Self::Fetch(_)
            | Self::Io { .. }
            | Self::Report { .. }
            | Self::Done { .. }
            | Self::Output { .. }
            | Self::Source { .. } => false,
        }
    }
}
