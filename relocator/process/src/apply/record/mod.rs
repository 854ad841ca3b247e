//! The link record, which a linked process carries next to its text and in the same mapping.
//!
//! The next `apply`, on this kernel or on another one, reads it, and so does `rollback`.
//!
//! | module | does |
//! |---|---|
//! | `stored` | the record as an ELF note, there and back: `docs/abi.md`, section 7 |
//! | `header` | its parts of a fixed size |
//! | `number` | the numbers in it |
//! | `check` | what every record must fulfil |
//! | `find` | a record in the bytes of a mapping |
//! | `text` | the text that a record is about: what differs, what it was, and what threads find there |
//! | `overwritten` | what CRIU's jumps had overwritten before the link |

mod check;
mod find;
mod header;
mod number;
mod overwritten;
mod stored;
mod text;

#[cfg(test)]
mod tests;

use std::ops::Range;

use elf_tools::{Avma, Svma};

use relocator::link::Moved;
use relocator::plan::Strategy;

pub use check::RecordFault;
pub use find::FoundRecord;
pub use overwritten::Overwritten;

/// What was done to an old image in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Build-id of the old image.
    pub old: Vec<u8>,
    /// Build-id of the vDSO of the kernel that it was linked to.
    pub new: Vec<u8>,
    /// Where the first byte of the image is. A record that is found elsewhere is a copy.
    pub image: Avma,
    /// The mapping that the text was in before.
    pub text: Range<Avma>,
    /// Bytes of the text's mapping that were others before, and what they were: by address, and
    /// none twice. They include those in whose place this record is.
    pub before: Vec<Before>,
    /// The new kernel's mappings.
    pub kernel: Vec<Placed>,
    /// Where the placeholders are of the old vvars, also of what made room.
    pub placeholders: Vec<Range<Avma>>,
    /// How functions begin: what an entry is overwritten with while a link is incomplete is
    /// replaced by this.
    pub entries: Vec<Entry>,
    /// Instructions that are elsewhere now.
    pub moved: Vec<Moved>,
    /// The jumps behind them.
    pub jumps_back: Vec<Moved>,
    /// What CRIU's jumps had overwritten of the old image before it was linked: the bytes as the
    /// image's own kernel had prepared them, by address, and none twice. The process itself has
    /// them nowhere else: [`Record::before`] has the jumps.
    pub overwritten: Vec<Before>,
}

/// Bytes as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Where.
    pub at: Avma,
    /// What they were.
    pub bytes: Vec<u8>,
}

/// A mapping of the kernel's that may have been moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// As in `/proc/PID/maps`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Where it was.
    pub from: Avma,
    /// Where it is.
    pub to: Avma,
}

impl Placed {
    /// Where it is.
    pub(super) fn range(&self) -> Range<Avma> {
        self.to..self.to.offset(self.size as i64)
    }
}

/// A function of a linked image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins.
    pub at: Svma,
    /// What became of it.
    pub strategy: Strategy,
    /// Number of bytes at its entry that are no longer its own: 0 if it is kept or relocated.
    pub replaced: u32,
    /// The first eight bytes of the linked function.
    pub bytes: [u8; 8],
}
