//! The memory of a task: pages in the images, in those of dumps before, or nowhere.
//!
//! `pagemap-N.img` lists runs of pages; `pages-M.img` holds what is in them, one run behind the
//! other. A run may be in the images of the dump before instead (`parent`), and that may have a
//! parent again. From 4.3 on a run can be compressed in blocks.
//!
//! | module | does |
//! |---|---|
//! | `runs` | reads the list, and checks it |
//! | `blocks` | the blocks of a compressed run |

mod blocks;
mod runs;

use std::cell::RefCell;
use std::ops::Range;

use elf_tools::Avma;
use relocator::placement::PAGE;

use crate::directory::{Content, Directory};
use crate::image_file::Format;
use crate::{Error, Fault, Result, Unsupported};
use runs::{Run, Runs, Where};

/// Most generations of dumps that build on each other.
const GENERATIONS: usize = 256;

/// The memory of a task.
#[derive(Debug)]
pub struct Pages {
    /// The images of the task first, then those of the dump before, and so on.
    layers: Vec<Layer>,
    /// The block that was decompressed last.
    cache: RefCell<Option<Decompressed>>,
}

/// The images of one dump.
#[derive(Debug)]
struct Layer {
    runs: Runs,
    /// The name of the file that holds pages.
    name: String,
    pages: Option<Content>,
}

/// A block that was decompressed.
#[derive(Debug)]
struct Decompressed {
    layer: usize,
    /// Where it is in the file.
    offset: u64,
    bytes: Vec<u8>,
}

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// It was read.
    Read,
    /// The images do not have it: it is zero if it is anonymous memory, or as it is in its file.
    Absent,
    /// It cannot be read.
    Unreadable,
}

impl Pages {
    /// The pages of a task, by its number. Which mappings they may be in is checked by
    /// [`Pages::check`].
    pub(crate) fn open(directory: &Directory, id: u32, format: Format) -> Result<Option<Self>> {
        let mut layers = Vec::new();
        let mut seen = Vec::new();
        let mut next = Some(directory.clone());
        while let Some(directory) = next {
            let at = |fault| Error::Image {
                file: directory.name("parent"),
                offset: 0,
                fault,
            };
            let identity = directory.identity()?;
            if seen.contains(&identity) {
                return Err(at(Fault::CyclicParents));
            }
            if seen.len() > GENERATIONS {
                return Err(at(Fault::TooManyParents(GENERATIONS)));
            }
            seen.push(identity);
            let Some(layer) = Layer::open(&directory, id, format)? else {
                break;
            };
            // A dump that is not incremental may still have a parent, which counts for nothing.
            let needs_parent = layer.runs.iter().any(|run| run.place == Where::Parent);
            layers.push(layer);
            next = match needs_parent {
                true => directory.parent()?,
                false => None,
            };
        }
        let cache = RefCell::default();
        Ok((!layers.is_empty()).then_some(Self { layers, cache }))
    }

    /// Whether all pages are in one of `ranges`, which are lowest first and do not overlap, and
    /// whether those that are said to be in parents are there.
    pub(crate) fn check(&self, ranges: &[Range<Avma>]) -> Result<()> {
        let Some(layer) = self.layers.first() else {
            return Ok(());
        };
        for run in layer.runs.iter() {
            if let Some(at) = first_outside(&run.range, ranges) {
                return Err(layer.runs.fault(run, Fault::Unmapped { at }));
            }
            if let Where::Lazy = run.place {
                return Err(Error::Unsupported {
                    path: layer.runs.name.clone(),
                    reason: Unsupported::LazyPages(run.range.start),
                });
            }
            if run.place == Where::Parent {
                self.check_parents(1, &run.range, layer, run)?;
            }
        }
        Ok(())
    }

    /// Whether a layer, or those before it, has all pages of a range.
    fn check_parents(
        &self,
        layer: usize,
        range: &Range<Avma>,
        child: &Layer,
        run: &Run,
    ) -> Result<()> {
        let missing = |at| child.runs.fault(run, Fault::NotInParent { at });
        let parent = self.layers.get(layer);
        let parent = parent.ok_or_else(|| missing(range.start))?;
        let mut at = range.start;
        while at < range.end {
            let Some(found) = parent.runs.find(at) else {
                return Err(missing(at));
            };
            let part = at..found.range.end.min(range.end);
            match found.place {
                Where::Parent => self.check_parents(layer + 1, &part, parent, found)?,
                Where::Lazy => return Err(missing(at)),
                Where::Present { .. } => {}
            }
            at = part.end;
        }
        Ok(())
    }

    /// Reads a part of one page.
    ///
    /// Errors: files that have ended too early, or that hold no compressed pages where they should.
    pub fn read(&self, at: Avma, bytes: &mut [u8]) -> Result<Page> {
        for (index, layer) in self.layers.iter().enumerate() {
            let Some(run) = layer.runs.find(at) else {
                return Ok(Page::Absent);
            };
            match run.place {
                Where::Present { offset } => {
                    self.read_run(index, run, offset, at, bytes)?;
                    return Ok(Page::Read);
                }
                Where::Lazy => return Ok(Page::Absent),
                Where::Parent => {}
            }
        }
        Ok(Page::Absent)
    }

    fn read_run(
        &self,
        index: usize,
        run: &Run,
        offset: u64,
        at: Avma,
        bytes: &mut [u8],
    ) -> Result<()> {
        let layer = &self.layers[index];
        let distance = at.0 - run.range.start.0;
        let Some(blocks) = &run.blocks else {
            return layer.read(offset + distance, bytes);
        };
        let block = blocks.of(distance);
        let start = (distance - block.start) as usize;
        let fault = |fault| layer.fault(offset + block.offset, Fault::Compressed(fault));
        if block.is_zero() {
            bytes.fill(0);
            return Ok(());
        }
        if block.is_raw() {
            return layer.read(offset + block.offset + start as u64, bytes);
        }
        let mut cache = self.cache.borrow_mut();
        let is_it = |one: &&Decompressed| (one.layer, one.offset) == (index, offset + block.offset);
        if cache.as_ref().filter(is_it).is_none() {
            let mut stored = vec![0; block.size as usize];
            layer.read(offset + block.offset, &mut stored)?;
            *cache = Some(Decompressed {
                layer: index,
                offset: offset + block.offset,
                bytes: blocks::decompress(&stored, block.raw).map_err(fault)?,
            });
        }
        let whole = cache.as_ref().map_or(&[][..], |one| &one.bytes);
        if let Some(part) = whole.get(start..start + bytes.len()) {
            bytes.copy_from_slice(part);
        }
        Ok(())
    }

    /// The runs of pages that the images have, lowest first.
    pub fn present(&self) -> impl Iterator<Item = &Range<Avma>> {
        let first = self.layers.first().into_iter();
        first.flat_map(|layer| layer.runs.iter().map(|run| &run.range))
    }

    /// The parts of a range of which the images have the pages, lowest first.
    pub(crate) fn present_in(&self, range: Range<Avma>) -> impl Iterator<Item = Range<Avma>> + '_ {
        let layer = self.layers.first();
        let runs = layer.map_or(&[][..], |layer| layer.runs.from(range.start));
        let until = runs
            .iter()
            .take_while(move |run| run.range.start < range.end);
        until.map(move |run| run.range.start.max(range.start)..run.range.end.min(range.end))
    }

    /// How many dumps before this one have pages of it.
    pub fn parents(&self) -> usize {
        self.layers.len().saturating_sub(1)
    }
}

impl Layer {
    fn open(directory: &Directory, id: u32, format: Format) -> Result<Option<Self>> {
        let Some(runs) = Runs::read(directory, id, format)? else {
            return Ok(None);
        };
        let file = format!("pages-{}.img", runs.pages_id);
        let pages = directory.file(&file)?;
        let name = directory.name(&file);
        let needed = runs.size;
        match &pages {
            None if needed > 0 => Err(Error::Unsupported {
                path: name,
                reason: Unsupported::RemotePages,
            }),
            Some(content) if content.size() < needed => Err(Error::Image {
                file: name,
                offset: content.size(),
                fault: Fault::Truncated {
                    missing: needed - content.size(),
                },
            }),
            _ => Ok(Some(Self { runs, name, pages })),
        }
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let Some(pages) = &self.pages else {
            return Ok(());
        };
        let read = pages.read(offset, bytes);
        read.map_err(Error::path(&self.name))
    }

    fn fault(&self, offset: u64, fault: Fault) -> Error {
        Error::Image {
            file: self.name.clone(),
            offset,
            fault,
        }
    }
}

/// The first address of a range that is in none of others, which are lowest first.
fn first_outside(range: &Range<Avma>, others: &[Range<Avma>]) -> Option<Avma> {
    let mut at = range.start;
    let first = others.partition_point(|other| other.end <= at);
    for other in &others[first..] {
        if at >= range.end {
            break;
        }
        if at < other.start {
            return Some(at);
        }
        at = other.end;
    }
    (at < range.end).then_some(at)
}

/// The parts of a range, by pages.
pub(crate) fn by_page(range: Range<Avma>) -> impl Iterator<Item = Range<Avma>> {
    let mut start = range.start.0;
    std::iter::from_fn(move || {
        let end = (start | (PAGE - 1)).saturating_add(1).min(range.end.0);
        let part = Avma(start)..Avma(end);
        start = end;
        (!part.is_empty()).then_some(part)
    })
}
