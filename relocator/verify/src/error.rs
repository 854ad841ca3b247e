//! Why something could not be verified.

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
    /// What could not be read, written, or asked of the operating system.
    #[error("{what}")]
    Io {
        /// The path, or what was asked for.
        what: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A kernel and an image that do not go together.
    #[error("cannot link {what}: {reason}")]
    Unlinkable {
        /// What was to be linked.
        what: String,
        /// Why that cannot be.
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
    /// Whether the inputs were understood and the answer is no.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Link(error) => error.is_refusal(),
            Self::Process(error) => error.is_refusal(),
            Self::Unlinkable { .. } | Self::Child { .. } => true,
            Self::Io { .. } => false,
        }
    }

    /// Attaches the name of what was being read.
    pub fn input(what: impl Into<String>) -> impl FnOnce(elf_tools::Error) -> Self {
        let attach = relocator::Error::input(what);
        move |source| Self::Link(attach(source))
    }

    /// Attaches what an operating system error is about.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
