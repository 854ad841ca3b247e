//! Memory of a process, as threads need it.

use std::ops::Range;

use elf_tools::Avma;

/// Memory of the process.
pub trait Memory {
    /// Fills `bytes` from the memory at `at`; whether all of it could be read.
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool;

    /// Fills `bytes` with what is in `ranges`, one behind the other. `bytes` is as long as all of
    /// them. How many bytes could be read, from the first on: fewer than all where a page cannot
    /// be.
    fn read_ranges(&self, ranges: &[Range<Avma>], bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for part in ranges.iter().flat_map(|range| pages(range.clone())) {
            let size = (part.end.0 - part.start.0) as usize;
            let place = bytes.get_mut(done..done + size);
            if !place.is_some_and(|place| self.read(part.start, place)) {
                break;
            }
            done += size;
        }
        done
    }

    /// Which parts of a range may hold something else than zeros, as far as that can be told
    /// without reading them. Where nothing can be told, it is the whole range. The answer may end
    /// where its parts have `enough` bytes.
    fn populated(&self, range: Range<Avma>, _enough: u64) -> Populated {
        Populated {
            end: range.end,
            at_guard: false,
            parts: vec![range],
            absent: Vec::new(),
        }
    }
}

/// What may hold something else than zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Populated {
    /// Parts of the range that was asked for, lowest first, that are apart from each other.
    pub parts: Vec<Range<Avma>>,
    /// Parts that may hold something and cannot be read now: somebody has to bring it first, who
    /// may be the process itself. Lowest first, apart from `parts`.
    pub absent: Vec<Range<Avma>>,
    /// How far the answer goes: to the end of the range, to the first guard page in it, or to where
    /// there was enough.
    pub end: Avma,
    /// Whether a guard page is at the end. That is a page which looks like part of its mapping, and
    /// where each access fails; so no stack goes on behind it.
    pub at_guard: bool,
}

/// Memory can be read in pages or not at all.
const PAGE: u64 = 0x1000;

/// The parts of a range, by pages.
fn pages(range: Range<Avma>) -> impl Iterator<Item = Range<Avma>> {
    let Range {
        start: Avma(mut start),
        end: Avma(end),
    } = range;
    std::iter::from_fn(move || {
        let part = start..end.min(page_end(start));
        start = part.end;
        (!part.is_empty()).then_some(Avma(part.start)..Avma(part.end))
    })
}

/// Where the page of an address ends.
pub(super) fn page_end(address: u64) -> u64 {
    (address | (PAGE - 1)).saturating_add(1)
}
