//! Why what is at an address is no old vDSO.

use super::text::{EXPORT, MAX_TEXT};

/// What speaks against a vDSO at an address. A report states it where something says that one is
/// there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoImage {
    /// No mapping that can be read has the address.
    #[error("nothing that can be read is mapped there")]
    NotMapped,
    /// A vDSO that begins at a lower address includes it.
    #[error("what is there is inside another vDSO")]
    InsideAnother,
    /// The address is not the start of a page.
    #[error("that is not the start of a page")]
    NotPage,
    /// The header cannot be read.
    #[error("it cannot be read")]
    Unreadable,
    /// There is no ELF header.
    #[error("no ELF header is there")]
    NoHeader,
    /// The header is that of another kind of file.
    #[error("it is not a shared object for this machine")]
    NotNative,
    /// The mapping is larger than what is read.
    #[error("its mapping has {size:#x} bytes, and more than {MAX_TEXT:#x} are not read")]
    TooLarge { size: u64 },
    /// A part of the mapping cannot be read.
    #[error("its mapping cannot be read as a whole")]
    PartlyUnreadable,
    /// The image contradicts its format.
    #[error(transparent)]
    Malformed(#[from] elf_tools::Error),
    /// No function has a name that those of vDSOs have.
    #[error("it exports no {EXPORT} function")]
    NoExports,
}
