//! What can be wrong with the bytes we are given.

use crate::Svma;
use crate::relocation::TableFault;

/// The result of reading something at rest.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes could not be understood, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A structure contradicts its own format.
    #[error("malformed {what} at offset {offset:#x}: {reason}")]
    Malformed {
        /// The structure, in the words of its format: "ELF header", "BTF type 12".
        what: String,
        /// Offset into the bytes that were handed in.
        offset: u64,
        /// What contradicts what.
        reason: String,
    },
    /// An entry of a table names a symbol that cannot be right.
    #[error("symbol `{symbol}`: {reason}")]
    Symbol {
        /// The symbol as the table spells it.
        symbol: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A relocation that cannot be right.
    #[error("relocation {index} at {place}: {reason}")]
    Relocation {
        /// Position in the relocation table.
        index: usize,
        /// The place it would change.
        place: Svma,
        /// What is wrong with it.
        reason: TableFault,
    },
    /// The bytes are well formed, but what was looked for is not in them.
    #[error("no {what}: {reason}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// Where it was looked for, and what was there instead.
        reason: String,
    },
    /// The bytes are well formed and of a kind this crate does not handle.
    #[error("unsupported {what}: {reason}")]
    Unsupported {
        /// The kind of thing.
        what: String,
        /// What was met, and what is understood instead.
        reason: String,
    },
}

impl Error {
    /// A [`Error::Malformed`].
    pub fn malformed(what: impl Into<String>, offset: u64, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what: what.into(),
            offset,
            reason: reason.into(),
        }
    }

    /// A [`Error::Symbol`].
    pub fn symbol(symbol: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Symbol {
            symbol: symbol.into(),
            reason: reason.into(),
        }
    }

    /// A [`Error::NotFound`].
    pub fn not_found(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::NotFound {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// A [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            reason: reason.into(),
        }
    }
}
