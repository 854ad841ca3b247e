//! Why texts, records and mappings of a process do not go together.

use std::fmt;

use elf_tools::{Avma, Svma};

use crate::apply::place::Unreachable;
use crate::apply::record::RecordFault;

/// Why what is in a process does not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unlinkable {
    /// A vDSO for 32-bit programs, or x32.
    OtherWidth,
    /// A byte differs from the image with the same build-id that the user has named.
    Changed {
        /// The named image.
        named: String,
        /// The first byte that differs, from the image's start.
        at: usize,
    },
    /// CRIU has overwritten a function, and no image says what was there.
    Overwritten {
        /// The function.
        entry: Svma,
        /// Build-id of its image in hexadecimal.
        build_id: String,
    },
    /// A link record says what CRIU has overwritten, and a function cannot have begun like that.
    NoCode {
        /// The function.
        entry: Svma,
    },
    /// The user has named other vDSOs than the process has.
    OtherOld {
        /// Build-id of the one that it has, in hexadecimal, and where that is.
        build_id: String,
        /// Where it is.
        at: Avma,
        /// The named ones: what each is called, and its build-id.
        named: Vec<(String, String)>,
    },
    /// The running kernel's mappings do not follow each other, with the vDSO as the last.
    KernelApart {
        /// In which process.
        source: String,
    },
    /// The kernel's mappings are torn apart, and there is no place for all of them.
    NoPlace(Unreachable),
    /// A link record does not mention a mapping of the kernel's.
    NotRecorded,
    /// There is no room for a link record.
    NoRoomForRecord,
    /// A copy of a vDSO is of another address than there can be.
    CopyOfNothing {
        /// The address by its link record.
        image: Avma,
    },
    /// It can be executed and not be read.
    ExecuteOnly,
    /// Its mapping ends before the image does, and the rest is elsewhere, or cannot be read.
    Torn {
        /// Where it ends.
        end: Avma,
    },
    /// A part of it can be written.
    Writable {
        /// The first byte that can be.
        at: Avma,
    },
    /// There are more vDSOs in it than the tool looks at.
    TooManyTexts,
    /// Its link record keeps another one, and that another one, without an end.
    EndlessRecords {
        /// Where the next one is.
        at: Avma,
    },
    /// A link record is about bytes that are not there.
    OutsideText {
        /// Number of bytes.
        size: usize,
        /// Where they would be.
        at: Avma,
        /// Number of bytes that are there.
        text: usize,
        /// Where those begin.
        base: Avma,
    },
    /// A link record that could not be read again.
    BadRecord(RecordFault),
    /// A link record would not be found at its offset, or its text is elsewhere.
    RecordElsewhere {
        /// The offset.
        offset: usize,
    },
}

impl Unlinkable {
    /// A word for machines, which stays as it is.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OtherWidth => "other-width",
            Self::Changed { .. } => "changed",
            Self::Overwritten { .. } => "overwritten",
            Self::NoCode { .. } => "no-code",
            Self::OtherOld { .. } => "other-old",
            Self::KernelApart { .. } => "kernel-apart",
            Self::NoPlace(_) => "no-place",
            Self::NotRecorded => "not-recorded",
            Self::NoRoomForRecord => "no-room-for-record",
            Self::CopyOfNothing { .. } => "copy-of-nothing",
            Self::ExecuteOnly => "execute-only",
            Self::Torn { .. } => "torn",
            Self::Writable { .. } => "writable",
            Self::TooManyTexts => "too-many-vdsos",
            Self::EndlessRecords { .. } => "endless-records",
            Self::OutsideText { .. } => "outside-text",
            Self::BadRecord(_) => "bad-record",
            Self::RecordElsewhere { .. } => "record-elsewhere",
        }
    }
}

impl fmt::Display for Unlinkable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherWidth => f.write_str(
                "it is for 32-bit programs (or x32), and only 64-bit programs are linked",
            ),
            Self::Changed { named, at } => write!(
                f,
                "it has the build-id of {named}, but another byte at {at:#x}: another program has changed it"
            ),
            Self::Overwritten { entry, build_id } => write!(
                f,
                "CRIU has overwritten its function at {entry}, and what was there is unknown: neither a link record nor \
                 the cache has it of the vDSO with build-id {build_id}; name the old vDSO, as --old kernel:VERSION or --old FILE"
            ),
            Self::NoCode { entry } => write!(
                f,
                "CRIU has overwritten its function at {entry}, and what was there by its link record is no code: another \
                 program has changed it; name the old vDSO, as --old kernel:VERSION or --old FILE"
            ),
            Self::OtherOld {
                build_id,
                at,
                named,
            } => {
                write!(f, "it has the vDSO build-id {build_id} at {at}; ")?;
                for (index, (name, other)) in named.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", and " };
                    write!(f, "{separator}{name} has {other}")?;
                }
                Ok(())
            }
            Self::KernelApart { source } => write!(
                f,
                "its mappings in {source} do not follow each other, with the vDSO as the last"
            ),
            Self::NoPlace(unreachable) => unreachable.fmt(f),
            Self::NotRecorded => f.write_str("its link record does not mention it"),
            Self::NoRoomForRecord => f.write_str(
                "there is no room for its link record: neither in its last page nor next to it",
            ),
            Self::CopyOfNothing { image } => {
                write!(f, "its link record is of an image at {image}")
            }
            Self::ExecuteOnly => f.write_str(
                "it can only be executed (PROT_EXEC without PROT_READ), and code that cannot be read is not linked; \
                 make it readable",
            ),
            Self::Torn { end } => write!(
                f,
                "its mapping ends at {end}, before the image does, and what follows is no memory of the process that can \
                 be read: the program has moved or protected a part of it (mremap, mprotect); make it one piece again"
            ),
            Self::Writable { at } => write!(
                f,
                "the program can write to it, from {at} on, so it may change at any moment; take that away (mprotect)"
            ),
            Self::TooManyTexts => f.write_str(
                "its old vDSOs take more memory than the tool looks at: a process that was restored has one",
            ),
            Self::EndlessRecords { at } => write!(
                f,
                "its link records keep each other without an end, and the next one is at {at}: no tool has written them"
            ),
            Self::OutsideText {
                size,
                at,
                text,
                base,
            } => write!(
                f,
                "its record is about {size} bytes at {at}, outside of the {text} bytes at {base}"
            ),
            Self::BadRecord(fault) => write!(f, "its record cannot be stored: {fault}"),
            Self::RecordElsewhere { offset } => write!(
                f,
                "its record cannot be stored at an offset of {offset:#x}: its reader looks elsewhere"
            ),
        }
    }
}
