//! Where the kernel's mappings go, so that old code reaches them.
//!
//! They move together, at the kernel's own distances, because the code of its vDSO reads the data
//! before it. The kernel moves each one separately and only to where nothing is, so a new place
//! must not overlap the present one.

mod gaps;
mod growth;

use std::fmt;
use std::ops::Range;

use elf_tools::Avma;

use super::recognise::{KernelMapping, OldText};
use crate::targets::Mapping;
use gaps::Gaps;
pub(super) use growth::with_growth;
use relocator::placement::PAGE;

/// How far the first and the last byte of code and data may be from each other.
pub const REACH: u64 = crate::arch::OPERAND_REACH;

/// The kernel's mappings in a process, lowest first as the kernel maps them.
#[derive(Debug, Clone, Copy)]
pub struct Unit<'a> {
    /// All of them. Their sizes say what the kernel's distances are; they need not be in place.
    pub mappings: &'a [KernelMapping],
}

/// Which addresses a process can map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The first: `vm.mmap_min_addr`.
    pub lowest: u64,
    /// The first that it cannot. The last page below 2^47 is never used.
    pub highest: u64,
}

/// Where the kernel's mappings go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitPlace {
    /// They are together and in reach.
    Stays,
    /// To this address, which is that of the lowest. Parts that are in their places there already
    /// stay.
    At(Avma),
}

/// There is no room in reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// Bytes that the kernel's mappings take.
    pub size: u64,
    /// Where all of them would have to be. Empty if old texts are too far from each other.
    pub reach: Range<Avma>,
    /// Size of the largest hole in there.
    pub largest: u64,
    /// Whether one of the kernel's mappings is sealed (`mseal`), so that no place is sought.
    pub sealed: bool,
}

impl Unreachable {
    /// The kernel's mappings are sealed where they are.
    pub(super) fn sealed(unit: Unit<'_>) -> Self {
        Self {
            size: unit.size(),
            reach: Avma(0)..Avma(0),
            largest: 0,
            sealed: true,
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            size,
            reach,
            largest,
            sealed,
        } = self;
        let (start, end) = (reach.start, reach.end);
        if *sealed {
            return f.write_str("the kernel's mappings are sealed (mseal) and cannot be moved");
        }
        match start < end {
            true => write!(
                f,
                "the kernel's mappings take {size:#x} bytes, and the largest hole from {start} to {end}, where the old code reaches, has {largest:#x}"
            ),
            false => write!(
                f,
                "no place of the kernel's {size:#x} bytes is in reach of all the old code"
            ),
        }
    }
}

impl std::error::Error for Unreachable {}

impl Unit<'_> {
    /// How large all of them are.
    pub(super) fn size(&self) -> u64 {
        self.mappings.iter().map(size).sum()
    }

    fn is_together(&self) -> bool {
        let mut pairs = self.mappings.windows(2);
        pairs.all(|pair| pair[0].range.end == pair[1].range.start)
    }

    /// Each mapping with its distance from the lowest, as the kernel maps them.
    fn parts(&self) -> impl Iterator<Item = (u64, &KernelMapping)> {
        self.mappings.iter().scan(0, |end, mapping| {
            let start = *end;
            *end += size(mapping);
            Some((start, mapping))
        })
    }

    /// Places at which some of the mappings are already.
    fn anchors(&self) -> impl Iterator<Item = u64> {
        self.parts()
            .filter_map(|(distance, part)| part.range.start.0.checked_sub(distance))
    }

    /// Whether everything that has to be moved to a place is moved to where nothing is.
    fn fits(&self, at: u64, gaps: &Gaps) -> bool {
        self.parts().all(|(distance, part)| {
            let start = at.saturating_add(distance);
            start == part.range.start.0 || gaps.hold(&(start..start.saturating_add(size(part))))
        })
    }
}

fn size(mapping: &KernelMapping) -> u64 {
    let range = &mapping.range;
    range.end.0.saturating_sub(range.start.0)
}

/// Chooses a place: the present one, one that a part of the unit is at already, the nearest that
/// takes some of `zeros`, or the nearest. Near is where the largest distance between a byte of code
/// and one of the unit is small.
///
/// `texts` have all bytes with operands, and nothing is put there either. Pages of `zeros` may be
/// given up.
pub fn place(
    unit: Unit<'_>,
    texts: &[Range<Avma>],
    placeholder: Option<Range<Avma>>,
    mappings: &[Mapping],
    limits: Limits,
) -> Result<UnitPlace, Unreachable> {
    place_within(REACH, unit, texts, placeholder, mappings, limits)
}

/// The same for operands of another reach.
fn place_within(
    reach: u64,
    unit: Unit<'_>,
    texts: &[Range<Avma>],
    placeholder: Option<Range<Avma>>,
    mappings: &[Mapping],
    limits: Limits,
) -> Result<UnitPlace, Unreachable> {
    let Some(lowest) = unit.mappings.first().filter(|_| unit.size() > 0) else {
        return Ok(UnitPlace::Stays);
    };
    let size = unit.size();
    let window = Window::around(texts, size, reach);
    let present = lowest.range.start.0;
    if unit.is_together() && window.starts.contains(&present) {
        return Ok(UnitPlace::Stays);
    }
    let placeholder = placeholder.map(|placeholder| placeholder.start.0..placeholder.end.0);
    let gaps = Gaps::between(mappings, texts, placeholder.as_ref(), limits);
    // Together, it can only be where it is, which is out of reach.
    let anchors = unit.anchors().filter(|_| !unit.is_together());
    let anchor = anchors
        .filter(|at| window.starts.contains(at) && unit.fits(*at, &gaps))
        .min_by_key(|at| window.distance(*at));
    let over_zeros = || {
        let placeholder = placeholder.as_ref()?;
        // Starts from which at least one page of zeros is covered.
        let first = placeholder.start.saturating_sub(size).saturating_add(PAGE);
        window.nearest(&gaps, first..placeholder.end)
    };
    let chosen = anchor
        .or_else(over_zeros)
        .or_else(|| window.nearest(&gaps, 0..u64::MAX));
    chosen.map(|at| UnitPlace::At(Avma(at))).ok_or_else(|| {
        let reach = window.reach();
        Unreachable {
            size,
            largest: gaps.largest(&reach),
            reach: Avma(reach.start)..Avma(reach.end),
            sealed: false,
        }
    })
}

/// Where something of a certain size may begin to be in reach of texts.
struct Window {
    size: u64,
    /// From the first byte of the lowest text to the end of the highest, in whole pages.
    texts: Range<u64>,
    starts: Range<u64>,
}

impl Window {
    fn around(texts: &[Range<Avma>], size: u64, reach: u64) -> Self {
        let first = texts.iter().map(|text| text.start.0).min();
        let end = texts.iter().map(|text| text.end.0).max();
        let (Some(first), Some(end)) = (first, end) else {
            return Self {
                size,
                texts: 0..0,
                starts: 0..u64::MAX,
            };
        };
        let end = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let texts = first / PAGE * PAGE..end;
        let last = texts.start.saturating_add(reach).checked_sub(size);
        Self {
            size,
            starts: end.saturating_sub(reach)..last.map_or(0, |last| last.saturating_add(1)),
            texts,
        }
    }

    /// Where everything has to be.
    fn reach(&self) -> Range<u64> {
        match self.starts.is_empty() {
            true => 0..0,
            false => self.starts.start..self.starts.end.saturating_add(self.size - 1),
        }
    }

    /// The largest distance between a byte of code and one of what begins at `at`.
    fn distance(&self, at: u64) -> u64 {
        let above = at
            .saturating_add(self.size)
            .saturating_sub(self.texts.start);
        above.max(self.texts.end.saturating_sub(at))
    }

    /// The start in `within` that is in a gap as a whole, and nearest.
    fn nearest(&self, gaps: &Gaps, within: Range<u64>) -> Option<u64> {
        // Distances grow on both sides of where it would be in the middle of all texts.
        let both = self.texts.start.saturating_add(self.texts.end);
        let middle = both.saturating_sub(self.size) / 2 / PAGE * PAGE;
        let from = self.starts.start.max(within.start);
        let from = from.checked_next_multiple_of(PAGE)?;
        let to = self.starts.end.min(within.end).checked_sub(1)? / PAGE * PAGE;
        let nearest_of = |gap: &Range<u64>| {
            let first = gap.start.max(from);
            let last = gap.end.checked_sub(self.size)?.min(to);
            (first <= last).then(|| middle.clamp(first, last))
        };
        let starts = gaps.all().iter().filter_map(nearest_of);
        starts.min_by_key(|at| self.distance(*at))
    }
}

/// The lowest place above an address for `size` bytes with a free page on either side, besides what
/// will be `taken`: the kernel joins neighbours of one kind.
pub(super) fn apart(
    above: Avma,
    size: u64,
    taken: &[Range<Avma>],
    mappings: &[Mapping],
    limits: Limits,
) -> Option<Avma> {
    let gaps = Gaps::between(mappings, taken, None, limits);
    let place = |gap: &Range<u64>| {
        let start = gap.start.max(above.0).checked_add(PAGE)?;
        let end = start.checked_add(size)?.checked_add(PAGE)?;
        (end <= gap.end).then_some(Avma(start))
    };
    gaps.all().iter().find_map(place)
}

/// The place nearest to a text for `size` bytes with a free page on either side, within `reach` of
/// all of it, besides what will be `taken`.
pub(super) fn near(
    reach: u64,
    text: &Range<Avma>,
    size: u64,
    taken: &[Range<Avma>],
    mappings: &[Mapping],
    limits: Limits,
) -> Result<Avma, Unreachable> {
    let size = size + 2 * PAGE;
    let taken: Vec<_> = taken.iter().chain([text]).cloned().collect();
    let gaps = Gaps::between(mappings, &taken, None, limits);
    let window = Window::around(std::slice::from_ref(text), size, reach);
    let place = window.nearest(&gaps, 0..u64::MAX);
    place.map(|at| Avma(at + PAGE)).ok_or_else(|| {
        let reach = window.reach();
        Unreachable {
            size,
            largest: gaps.largest(&reach),
            reach: Avma(reach.start)..Avma(reach.end),
            sealed: false,
        }
    })
}

/// How many pages next to a text can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Directly behind its mapping.
    pub behind: usize,
    /// Directly before it.
    pub before: usize,
}

/// How many pages next to a text's mapping, up to `pages` on each side, are free or among `zeros`.
pub fn room(
    text: &OldText,
    placeholder: Option<Range<Avma>>,
    mappings: &[Mapping],
    limits: Limits,
    pages: usize,
) -> Room {
    let placeholder = placeholder.map(|placeholder| placeholder.start.0..placeholder.end.0);
    let (start, end) = (text.mapping.start.0, text.mapping.end.0);
    // Only what is near matters, and what grows.
    let near = (pages as u64 + 1) * PAGE;
    let near = start.saturating_sub(near)..end.saturating_add(near);
    let matters = |mapping: &&Mapping| {
        let range = &mapping.range;
        range.start.0 < near.end && near.start < range.end.0 || gaps::grows(mapping)
    };
    let mappings: Vec<Mapping> = mappings.iter().filter(matters).cloned().collect();
    let gaps = Gaps::between(&mappings, &[], placeholder.as_ref(), limits);
    let count = |is_next: &dyn Fn(&&Range<u64>) -> bool| {
        let gap = gaps.all().iter().find(is_next);
        let size = gap.map_or(0, |gap| gap.end - gap.start);
        usize::try_from(size / PAGE).map_or(pages, |free| free.min(pages))
    };
    Room {
        behind: count(&|gap| gap.start == end),
        before: count(&|gap| gap.end == start),
    }
}

#[cfg(test)]
mod tests;
