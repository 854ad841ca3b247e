//! Parts of stacks, read many at once and searched.
//!
//! Of each part only one word in two is looked at, the one that would have the segments of a
//! context: its value is rare. What else belongs to a context is taken from what was read, or read
//! where it fits, so that a context may go from one part to the next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use elf_tools::Avma;

use super::super::Memory;
use super::super::memory::page_end;
use crate::arch::native::signal_frame::{self, Ucontext};

/// How much is read at once, in bytes, and in ranges (Linux takes 1024: `UIO_MAXIOV`).
const BATCH: (u64, usize) = (1 << 20, 1024);

/// The addresses at which the segments of a context are that begins in a range.
pub(super) fn marks(begins: Range<Avma>) -> Range<u64> {
    let mark = |begin: Avma| {
        let begin = begin.0.checked_next_multiple_of(signal_frame::ALIGNMENT)?;
        begin.checked_add(signal_frame::MARK as u64)
    };
    let bounds = mark(begins.start).zip(mark(begins.end));
    let (start, end) = bounds.unwrap_or_default();
    start..end.max(start)
}

/// Whether memory looks like a frame, for one search.
///
/// A frame that a signal has left is together in memory, and all handlers return to one or two
/// places. So a search hardly ever has to read something besides what it searches. What a program
/// has made to look like frames may lead anywhere, each to another place; of that the search reads
/// so much and no more.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// What was read at places that handlers return to, or would.
    known: RefCell<BTreeMap<Place, Option<Vec<u8>>>>,
}

/// An address, and how many bytes are there.
type Place = (Avma, usize);

/// How many places besides what is searched are read in one search.
const PLACES: usize = 256;

/// How much of a frame is read at once: the context and most of the floating point state, or only
/// the context.
const FRAME: [usize; 2] = [2048, signal_frame::SIZE + 8];

impl Checks {
    /// The frame at an address, if there is one.
    pub(super) fn frame(&self, at: Avma, memory: &dyn Memory) -> Option<Ucontext> {
        let start = Avma(at.0.checked_sub(8)?);
        let read = |size| {
            let mut bytes = vec![0; size];
            memory.read(start, &mut bytes).then_some(bytes)
        };
        let bytes = FRAME.into_iter().find_map(read)?;
        let known = Known {
            at: start,
            bytes: &bytes,
            rest: Rest {
                checks: self,
                memory,
            },
        };
        Ucontext::read(at, &known)
    }

    fn read(&self, at: Avma, bytes: &mut [u8], memory: &dyn Memory) -> bool {
        let mut known = self.known.borrow_mut();
        let is_full = known.len() >= PLACES;
        let read = match known.entry((at, bytes.len())) {
            Entry::Occupied(known) => known.into_mut(),
            // What cannot be read says nothing.
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(place) => {
                let read = memory.read(at, bytes);
                place.insert(read.then(|| bytes.to_vec()))
            }
        };
        match read {
            Some(read) => bytes.copy_from_slice(read),
            None => return false,
        }
        true
    }
}

/// Memory of which only so many places are read.
struct Rest<'a> {
    checks: &'a Checks,
    memory: &'a dyn Memory,
}

impl Memory for Rest<'_> {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        self.checks.read(at, bytes, self.memory)
    }
}

/// All frames whose segments are in these ranges, in the order of the ranges. Pages that cannot be
/// read are left out.
pub(super) fn frames(
    ranges: &[Range<u64>],
    memory: &dyn Memory,
    checks: &mut Checks,
) -> Vec<(Avma, Ucontext)> {
    let mut found = Vec::new();
    let mut buffer = Vec::new();
    let mut left = split(ranges).peekable();
    let mut batch = Vec::with_capacity(BATCH.1);
    while left.peek().is_some() {
        let mut size = 0;
        while let Some(range) = left.next_if(|range| {
            size + (range.end.0 - range.start.0) <= BATCH.0 && batch.len() < BATCH.1
        }) {
            size += range.end.0 - range.start.0;
            batch.push(range);
        }
        search(&batch, &mut buffer, memory, checks, &mut found);
        batch.clear();
    }
    found
}

/// Ranges as parts of which each fits into a batch.
fn split(ranges: &[Range<u64>]) -> impl Iterator<Item = Range<Avma>> {
    ranges.iter().flat_map(|range| {
        let starts = range.clone().step_by(BATCH.0 as usize);
        starts.map(|start| Avma(start)..Avma(range.end.min(start.saturating_add(BATCH.0))))
    })
}

/// Reads and searches a batch, which goes on behind each page that cannot be read.
fn search(
    batch: &[Range<Avma>],
    buffer: &mut Vec<u8>,
    memory: &dyn Memory,
    checks: &Checks,
    found: &mut Vec<(Avma, Ucontext)>,
) {
    let mut rest = batch.to_vec();
    while !rest.is_empty() {
        let size: u64 = rest.iter().map(|range| range.end.0 - range.start.0).sum();
        buffer.resize(size as usize, 0);
        let done = memory.read_ranges(&rest, buffer).min(size as usize);
        let mut place = 0;
        let mut unread = Vec::new();
        for range in &rest {
            let size = (range.end.0 - range.start.0) as usize;
            let read = size.min(done - place);
            let known = Known {
                at: range.start,
                bytes: &buffer[place..place + read],
                rest: Rest { checks, memory },
            };
            known.search(found);
            place += read;
            if read == size {
                continue;
            }
            let fails = range.start.0 + read as u64;
            let from = match unread.is_empty() {
                true => page_end(fails).min(range.end.0),
                false => fails,
            };
            unread.push(Avma(from)..range.end);
        }
        unread.retain(|range| !range.is_empty());
        rest = unread;
    }
}

/// A part of memory whose content was read.
struct Known<'a> {
    at: Avma,
    bytes: &'a [u8],
    rest: Rest<'a>,
}

impl Memory for Known<'_> {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let offset = at.0.checked_sub(self.at.0).map(|offset| offset as usize);
        let known =
            offset.and_then(|offset| self.bytes.get(offset..offset.checked_add(bytes.len())?));
        match known {
            Some(known) => {
                bytes.copy_from_slice(known);
                true
            }
            None => self.rest.read(at, bytes),
        }
    }
}

impl Known<'_> {
    fn search(&self, found: &mut Vec<(Avma, Ucontext)>) {
        // The first word in an aligned pair is none that has segments.
        let first = (signal_frame::MARK as u64).wrapping_sub(self.at.0) % signal_frame::ALIGNMENT;
        let words = (first as usize..self.bytes.len()).step_by(signal_frame::ALIGNMENT as usize);
        let marked = words.filter(|&offset| signal_frame::is_mark(&self.bytes[offset..]));
        let candidates = marked.filter_map(|offset| {
            let begin = (self.at.0 + offset as u64).checked_sub(signal_frame::MARK as u64)?;
            Some((Avma(begin), Ucontext::read(Avma(begin), self)?))
        });
        found.extend(candidates);
    }
}
