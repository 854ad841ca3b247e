//! `pagemap-N.img`: runs of pages, lowest first.

use std::ops::Range;

use elf_tools::Avma;
use relocator::placement::PAGE;

use super::blocks::Blocks;
use crate::directory::Directory;
use crate::image_file::{Format, ImageFile, Kind};
use crate::messages::{PagesEntry, PagesHead};
use crate::{Error, Fault, Result};

/// Most runs of one task. Each takes 10 bytes or more in the file.
const MOST: usize = 1 << 22;

/// Most compressed blocks of all runs of one task: those of 64 GiB, if each has a page.
const MOST_BLOCKS: usize = 1 << 24;

/// Flags of a run: `PE_*` of CRIU's `include/pagemap.h`.
mod flag {
    pub(super) const PARENT: u32 = 1 << 0;
    pub(super) const LAZY: u32 = 1 << 1;
    pub(super) const PRESENT: u32 = 1 << 2;
    /// From 4.3 on: its bytes begin at a multiple of a page. Compressed runs before it may have
    /// ended elsewhere.
    pub(super) const ALIGNED: u32 = 1 << 3;
}

/// Runs of pages.
#[derive(Debug)]
pub(super) struct Runs {
    /// The file's name, with the directory.
    pub(super) name: String,
    /// The number of the file that has what is in them.
    pub(super) pages_id: u32,
    /// How many bytes that file has at least.
    pub(super) size: u64,
    runs: Vec<Run>,
    /// How many compressed blocks they have.
    blocks: usize,
}

/// A run of pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) range: Range<Avma>,
    pub(super) place: Where,
    /// How it is compressed, if it is.
    pub(super) blocks: Option<Box<Blocks>>,
    /// Where its message is in the file.
    at: u64,
}

/// Where the content of pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// In the file of pages, from this byte on.
    Present { offset: u64 },
    /// In the images of the dump before.
    Parent,
    /// In the process, which was left alive.
    Lazy,
}

impl Runs {
    /// Those of a task; `None` if it has none.
    pub(super) fn read(directory: &Directory, id: u32, format: Format) -> Result<Option<Self>> {
        let name = format!("pagemap-{id}.img");
        let Some(mut file) = ImageFile::open(directory, &name, Kind::Pages, format)? else {
            return Ok(None);
        };
        let (at, head) = file.first::<PagesHead>()?;
        let pages_id = head.id;
        let pages_id = pages_id.ok_or_else(|| file.fault(at, Fault::Missing("number of pages")))?;
        let mut runs = Self {
            name: file.name.clone(),
            pages_id,
            size: 0,
            runs: Vec::new(),
            blocks: 0,
        };
        while let Some((at, entry)) = file.message::<PagesEntry>()? {
            if runs.runs.len() == MOST {
                return Err(file.fault(at, Fault::TooMany(MOST)));
            }
            let run = runs.next(at, &entry);
            let run = run.map_err(|fault| file.fault(at, fault))?;
            runs.runs.extend(run);
        }
        Ok(Some(runs))
    }

    /// The run of an entry, if it has pages.
    fn next(&mut self, at: u64, entry: &PagesEntry) -> Result<Option<Run>, Fault> {
        let start = entry.start.ok_or(Fault::Missing("address of pages"))?;
        let count = entry.count.or(entry.short_count.map(u64::from));
        let count = count.ok_or(Fault::Missing("number of pages"))?;
        let end = count
            .checked_mul(PAGE)
            .and_then(|size| start.checked_add(size));
        let (start, end) = (Avma(start), Avma(end.unwrap_or(0)));
        if start >= end || !start.0.is_multiple_of(PAGE) {
            return Err(Fault::Range { start, end });
        }
        let last = self.runs.last().map_or(Avma(0), |run| run.range.end);
        if start < last {
            let what = "pages";
            return Err(Fault::Order { what, at: start });
        }
        let flags = flags(entry);
        let has = |bit: u32| flags & bit != 0;
        let blocks = entry.blocks.as_ref().filter(|_| has(flag::PRESENT));
        self.blocks += blocks.map_or(0, |blocks| blocks.sizes.len());
        if self.blocks > MOST_BLOCKS {
            return Err(Fault::TooMany(MOST_BLOCKS));
        }
        let blocks = blocks.map(|blocks| Blocks::read(blocks, count));
        let blocks = blocks.transpose().map_err(Fault::Compressed)?;
        let place = match (has(flag::PRESENT), has(flag::PARENT)) {
            (true, true) => return Err(Fault::Missing("single place of pages")),
            (true, false) => {
                let stored = blocks.as_ref().map_or(end.0 - start.0, Blocks::stored);
                self.place(has(flag::ALIGNED), stored)?
            }
            (false, true) => Where::Parent,
            (false, false) if has(flag::LAZY) => Where::Lazy,
            // Pages of which nothing is known hold nothing.
            (false, false) => return Ok(None),
        };
        Ok(Some(Run {
            range: start..end,
            place,
            blocks: blocks.map(Box::new),
            at,
        }))
    }

    /// Where the next bytes of the file of pages are.
    fn place(&mut self, is_aligned: bool, stored: u64) -> Result<Where, Fault> {
        let offset = match is_aligned {
            true => self.size.checked_next_multiple_of(PAGE),
            false => Some(self.size),
        };
        let offset = offset.ok_or(Fault::Missing("end of pages"))?;
        let end = offset.checked_add(stored);
        // No file is larger.
        let end = end.filter(|end| *end <= i64::MAX.cast_unsigned());
        self.size = end.ok_or(Fault::Missing("end of pages"))?;
        Ok(Where::Present { offset })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// The run that an address is in.
    pub(super) fn find(&self, at: Avma) -> Option<&Run> {
        let run = self.from(at).first()?;
        run.range.contains(&at).then_some(run)
    }

    /// The runs that do not end before an address.
    pub(super) fn from(&self, at: Avma) -> &[Run] {
        let first = self.runs.partition_point(|run| run.range.end <= at);
        &self.runs[first..]
    }

    /// An error about a run.
    pub(super) fn fault(&self, run: &Run, fault: Fault) -> Error {
        Error::Image {
            file: self.name.clone(),
            offset: run.at,
            fault,
        }
    }
}

/// Its flags. Old versions write none.
fn flags(entry: &PagesEntry) -> u32 {
    match (entry.in_parent, entry.flags) {
        (Some(true), flags) => flags.unwrap_or(0) | flag::PARENT,
        (_, Some(flags)) => flags,
        (_, None) => flag::PRESENT,
    }
}
