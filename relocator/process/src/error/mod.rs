//! Why the tool could not do something with a process.
//!
//! | module | has |
//! |---|---|
//! | `refusal` | why the tool refuses a process |
//! | `obstacle` | what is in the way at the moment |
//! | `unlinkable` | why texts, records and mappings of a process do not go together |

mod obstacle;
mod refusal;
mod unlinkable;

use std::path::PathBuf;

pub use obstacle::Obstacle;
pub use refusal::{Refusal, StepFailure};
pub use unlinkable::Unlinkable;

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
    /// Texts, records and mappings are understood, but do not go together.
    #[error("cannot link {what}: {reason}")]
    Unlinkable {
        /// What was to be linked.
        what: String,
        /// Why that cannot be.
        reason: Unlinkable,
    },
    /// The number of no process.
    #[error("no such process: {pid}")]
    NoSuchProcess {
        /// The number.
        pid: i32,
    },
    /// The number of a thread, and not of its process.
    #[error("{thread} is not a process but a thread of process {process}")]
    NotAProcess {
        /// The number.
        thread: i32,
        /// Its process.
        process: i32,
    },
    /// The tool refuses a process, which is as it was.
    #[error("{}", reason.about(*pid))]
    Refused {
        /// Its number, or that of one of its threads.
        pid: i32,
        /// Why.
        reason: Refusal,
    },
    /// Something in a process is in the way at this moment, but perhaps not at the next one. The
    /// process is as it was.
    #[error("process {pid} {reason}")]
    Busy {
        /// Its number, or that of one of its threads.
        pid: i32,
        /// What is in the way.
        reason: Obstacle,
    },
}

impl Error {
    /// Whether the inputs were understood and the answer is no.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Link(error) => error.is_refusal(),
            Self::Unlinkable { .. } | Self::Refused { .. } | Self::Busy { .. } => true,
            Self::Io { .. }
            | Self::Source { .. }
            | Self::NoSuchProcess { .. }
            | Self::NotAProcess { .. } => false,
        }
    }

    /// A word for machines that says why, where there is one. It stays as it is.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Refused { reason, .. } => Some(reason.code()),
            Self::Busy { reason, .. } => Some(reason.code()),
            Self::Unlinkable { reason, .. } => Some(reason.code()),
            Self::NoSuchProcess { .. } => Some("no-such-process"),
            Self::NotAProcess { .. } => Some("not-a-process"),
            Self::Link(_) | Self::Io { .. } | Self::Source { .. } => None,
        }
    }

    /// Why the tool refuses a process, if it does.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            _ => None,
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

    /// The tool refuses a process, or one of its threads.
    pub(crate) fn refused(pid: impl Into<i32>, reason: Refusal) -> Self {
        let pid = pid.into();
        Self::Refused { pid, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_understood_is_refused() {
        let refused = Error::refused(1, Refusal::NotPermitted);
        assert!(refused.is_refusal());
        let words = "cannot trace process 1: permission denied (needs CAP_SYS_PTRACE)";
        assert_eq!(refused.to_string(), words);
        assert_eq!(refused.code(), Some("not-permitted"));
        let refused = Error::refused(7, Refusal::NotDumpable);
        assert!(refused.to_string().starts_with("process 7 is not dumpable"));
        assert!(!Error::NoSuchProcess { pid: 7 }.is_refusal());
    }
}
