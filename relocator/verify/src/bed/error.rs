//! Why a program could not be started as a restore leaves it.

use elf_tools::Avma;
use relocator_process::tracing::Stop;

/// The result of starting a program.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a program could not be started as a restore leaves it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An old vDSO that could not be understood or put where it is to be.
    #[error(transparent)]
    Link(#[from] relocator::Error),
    /// An image that could not be read.
    #[error("the vDSO")]
    Image(#[from] elf_tools::Error),
    /// A vDSO whose kernel's mappings could not be laid out.
    #[error("the old kernel's mappings")]
    Layout(#[from] crate::emulated::Error),
    /// CRIU's jumps could not be made.
    #[error("CRIU's jumps")]
    Jumps(#[from] relocator::criu::Unpatched),
    /// The process could not be traced.
    #[error(transparent)]
    Process(#[from] relocator_process::Error),
    /// The operating system refused something.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// What it says.
        source: std::io::Error,
    },
    /// What is to be mapped does not fit where it is to be.
    #[error("{what} does not fit at {at}: {reason}")]
    Place {
        /// What is to be mapped.
        what: &'static str,
        /// Where.
        at: Avma,
        /// What is in the way.
        reason: String,
    },
    /// The program stopped in another way than it should.
    #[error("expected {expected}, but the program met {stop}")]
    Stopped {
        /// What should have happened.
        expected: &'static str,
        /// What happened.
        stop: Stop,
    },
    /// The program did nothing for too long.
    #[error("the program does not {what} in time")]
    Slow {
        /// What it should do.
        what: &'static str,
    },
    /// What a program that has not begun must have is not there.
    #[error("{what} is missing")]
    Missing {
        /// What.
        what: String,
    },
}

impl Error {
    /// Attaches what the operating system was asked for.
    pub(super) fn system<E: Into<std::io::Error>>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::System {
            what,
            source: source.into(),
        }
    }

    /// Something is not there.
    pub(super) fn missing(what: impl Into<String>) -> Self {
        Self::Missing { what: what.into() }
    }
}

/// The error with its causes, in one line.
impl From<Error> for String {
    fn from(error: Error) -> Self {
        relocator::in_words(&error)
    }
}
