//! What every record must fulfil, before it is written and after it was read. Limits keep a record
//! that another program has made from costing much.

use std::fmt;
use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::{Before, Entry, Placed, Record};
use relocator::link::Moved;
use relocator::placement::PAGE;

/// Most bytes of a build-id.
pub(super) const BUILD_ID: usize = 64;
/// Most runs of bytes that were others.
pub(super) const RUNS: usize = 4096;
/// Most mappings of the kernel's, and most ranges of zeros.
pub(super) const MAPPINGS: usize = 16;
/// Most bytes of a mapping's name.
pub(super) const NAME: usize = 64;
/// Most functions.
pub(super) const ENTRIES: usize = 1024;
/// Most instructions that are elsewhere, and most jumps behind them.
pub(super) const MOVED: usize = 4096;
/// Most bytes of a mapping of text, and of an entry that are replaced.
pub(super) const TEXT: usize = 1 << 20;
/// Most bytes of a mapping of the kernel's, and of a range of zeros in its place.
pub(super) const MAPPING: usize = 16 << 20;

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordFault {
    /// There is more of something than may be.
    TooMany {
        /// How many there are.
        count: usize,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// A range that ends at or before its start.
    Empty {
        /// What it is.
        what: String,
        /// Where it is.
        range: Range<Avma>,
    },
    /// A mapping that is not whole pages.
    NotWhole {
        /// What it is.
        what: String,
        /// Where it is.
        range: Range<Avma>,
    },
    /// The image is not in its text.
    ImageOutside {
        /// The image.
        image: Avma,
    },
    /// Bytes that are not in the text, or not behind those before them.
    RunOutside {
        /// How many.
        size: usize,
        /// Where they are.
        at: Avma,
    },
    /// A mapping that reaches beyond the address space.
    TooLarge {
        /// Its name.
        name: String,
        /// Where it begins.
        at: Avma,
    },
    /// A place in the image that is further away than any text is large.
    Far {
        /// What would be there.
        what: &'static str,
        /// Where.
        place: Svma,
    },
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { count, what, most } => {
                write!(f, "{count} {what}; {most} are the most")
            }
            Self::Empty { what, range } => write!(
                f,
                "{what} ends at {}, which is not behind its start at {}",
                range.end, range.start
            ),
            Self::NotWhole { what, range } => write!(
                f,
                "{what} from {} to {} is not whole pages",
                range.start, range.end
            ),
            Self::ImageOutside { image } => write!(f, "the image at {image} is not in its text"),
            Self::RunOutside { size, at } => {
                write!(
                    f,
                    "{size} bytes at {at} are not behind others and in the text"
                )
            }
            Self::TooLarge { name, at } => write!(f, "{name} at {at} is too large"),
            Self::Far { what, place } => write!(
                f,
                "{what} at {place}, and {TEXT:#x} bytes of text are the most"
            ),
        }
    }
}

/// What of a record is wrong, and why.
pub(super) fn record(record: &Record) -> Result<(), RecordFault> {
    let image = record.image;
    at_most(record.old.len(), BUILD_ID, "bytes of the old build-id")?;
    at_most(record.new.len(), BUILD_ID, "bytes of the new build-id")?;
    mapping(&record.text, "the text", TEXT)?;
    if !record.text.contains(&image) {
        return Err(RecordFault::ImageOutside { image });
    }
    runs(&record.before, &record.text)?;
    at_most(record.kernel.len(), MAPPINGS, "mappings of the kernel's")?;
    record.kernel.iter().try_for_each(placed)?;
    at_most(record.placeholders.len(), MAPPINGS, "ranges of zeros")?;
    record
        .placeholders
        .iter()
        .try_for_each(|placeholder| mapping(placeholder, "a range of zeros", MAPPING))?;
    at_most(record.entries.len(), ENTRIES, "functions")?;
    record.entries.iter().try_for_each(entry)?;
    moved(&record.moved, "instructions that are elsewhere")?;
    moved(&record.jumps_back, "jumps back")?;
    runs(&record.overwritten, &record.text)
}

fn at_most(count: usize, most: usize, what: &'static str) -> Result<(), RecordFault> {
    match count <= most {
        true => Ok(()),
        false => Err(RecordFault::TooMany { count, what, most }),
    }
}

fn range(range: &Range<Avma>, what: &str) -> Result<(), RecordFault> {
    match range.is_empty() {
        false => Ok(()),
        true => Err(RecordFault::Empty {
            what: what.to_owned(),
            range: range.clone(),
        }),
    }
}

/// A range that was mapped.
fn mapping(mapped: &Range<Avma>, what: &str, most: usize) -> Result<(), RecordFault> {
    range(mapped, what)?;
    let size = mapped.end.0 - mapped.start.0;
    at_most(size as usize, most, "bytes of a mapping")?;
    let is_page = |at: Avma| at.0.is_multiple_of(PAGE);
    match is_page(mapped.start) && is_page(mapped.end) {
        true => Ok(()),
        false => Err(RecordFault::NotWhole {
            what: what.to_owned(),
            range: mapped.clone(),
        }),
    }
}

fn runs(before: &[Before], text: &Range<Avma>) -> Result<(), RecordFault> {
    at_most(before.len(), RUNS, "runs of bytes")?;
    let mut free = text.start;
    for run in before {
        let end = run.at.0.checked_add(run.bytes.len() as u64);
        let end = end.filter(|&end| !run.bytes.is_empty() && run.at >= free && end <= text.end.0);
        free = Avma(end.ok_or(RecordFault::RunOutside {
            size: run.bytes.len(),
            at: run.at,
        })?);
    }
    Ok(())
}

fn placed(placed: &Placed) -> Result<(), RecordFault> {
    let Placed {
        name,
        size,
        from,
        to,
    } = placed;
    at_most(name.len(), NAME, "bytes of a mapping's name")?;
    for start in [from, to] {
        let end = start.0.checked_add(*size);
        let end = end.ok_or_else(|| RecordFault::TooLarge {
            name: name.clone(),
            at: *start,
        })?;
        mapping(&(*start..Avma(end)), name, MAPPING)?;
    }
    Ok(())
}

fn entry(entry: &Entry) -> Result<(), RecordFault> {
    near(entry.at, "a function")?;
    at_most(entry.replaced as usize, TEXT, "bytes replaced at an entry")
}

fn moved(moved: &[Moved], what: &'static str) -> Result<(), RecordFault> {
    at_most(moved.len(), MOVED, what)?;
    moved.iter().try_for_each(|moved| {
        near(moved.from, "an instruction")?;
        near(moved.to, "an instruction")
    })
}

/// No text is so large that anything of it could be further away.
fn near(place: Svma, what: &'static str) -> Result<(), RecordFault> {
    match place.index() < TEXT {
        true => Ok(()),
        false => Err(RecordFault::Far { what, place }),
    }
}
