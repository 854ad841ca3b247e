//! A stack, searched page by page.
//!
//! Of a page only one word in two is looked at, the one that would have the segments of a context:
//! its value is rare. What else belongs to a context is read where it fits, so that a context may
//! go from one page to the next.

use std::ops::Range;

use elf_tools::Avma;

use super::super::Memory;
use crate::arch::native::signal_frame::{self, Ucontext};

/// Memory can be read in pages or not at all.
const PAGE: u64 = 0x1000;

/// All frames whose `ucontext` begins in a range, from low addresses to high ones.
pub(super) fn frames(
    begins: Range<Avma>,
    memory: &dyn Memory,
) -> impl Iterator<Item = (Avma, Ucontext)> {
    let candidates = pages(begins).flat_map(|page| in_page(page, memory));
    candidates.filter_map(|at| Some((at, Ucontext::read(at, memory)?)))
}

/// Parts of pages that hold the segments of contexts which begin in a range.
fn pages(begins: Range<Avma>) -> impl Iterator<Item = Range<u64>> {
    let segments = |begin: Avma| {
        let begin = begin.0.checked_next_multiple_of(signal_frame::ALIGNMENT)?;
        begin.checked_add(signal_frame::MARK as u64)
    };
    let bounds = segments(begins.start).zip(segments(begins.end));
    let (mut start, end) = bounds.unwrap_or_default();
    std::iter::from_fn(move || {
        let part = start..end.min((start | (PAGE - 1)).saturating_add(1));
        start = part.end;
        (!part.is_empty()).then_some(part)
    })
}

/// Where contexts may begin whose segments are in a part of a page.
fn in_page(part: Range<u64>, memory: &dyn Memory) -> Vec<Avma> {
    let mut bytes = [0; PAGE as usize];
    let bytes = &mut bytes[..(part.end - part.start) as usize];
    if !memory.read(Avma(part.start), bytes) {
        return Vec::new();
    }
    // The first word in an aligned pair is none that has segments.
    let skip = part.start.wrapping_sub(signal_frame::MARK as u64) % signal_frame::ALIGNMENT;
    let words = (skip as usize..bytes.len()).step_by(signal_frame::ALIGNMENT as usize);
    words
        .filter(|&offset| signal_frame::is_mark(&bytes[offset..]))
        .map(|offset| Avma(part.start + offset as u64 - signal_frame::MARK as u64))
        .collect()
}
