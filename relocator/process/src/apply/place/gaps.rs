//! Free parts of an address space.

use std::ops::Range;

use elf_tools::Avma;

use super::Limits;
use crate::targets::Mapping;
use relocator::placement::{END, PAGE};

/// The most that is left free below a stack and behind the heap, which grow: what the kernel leaves
/// below a stack at least when it starts a program (`mmap_base`).
pub(super) const GROWTH: u64 = 128 << 20;

/// The most that is left free behind the heap, which has no limit as a rule. What is behind that is
/// still in reach of a text beside the heap.
pub(super) const HEAP_GROWTH: u64 = 1 << 30;

/// The least that is left: the kernel's `stack_guard_gap`, without which a stack cannot grow at
/// all.
pub(super) const GUARD: u64 = 256 * PAGE;

/// Ranges of whole pages where nothing is mapped and nothing will grow, lowest first, none next to
/// another.
#[derive(Debug)]
pub(super) struct Gaps(Vec<Range<u64>>);

impl Gaps {
    /// What is free besides mappings and texts. Pages of zeros count as free.
    pub(super) fn between(
        mappings: &[Mapping],
        texts: &[Range<Avma>],
        placeholder: Option<&Range<u64>>,
        limits: Limits,
    ) -> Self {
        let mut taken = Vec::with_capacity(mappings.len() + texts.len() + 1);
        for mapping in mappings {
            let range = occupied(mapping, mappings);
            match placeholder {
                Some(placeholder) => {
                    taken.push(range.start..range.end.min(placeholder.start));
                    taken.push(range.start.max(placeholder.end)..range.end);
                }
                None => taken.push(range),
            }
        }
        let pages = |text: &Range<Avma>| {
            text.start.0 / PAGE * PAGE..text.end.0.checked_next_multiple_of(PAGE).unwrap_or(END)
        };
        taken.extend(texts.iter().map(pages));
        taken.retain(|range| !range.is_empty());
        taken.sort_unstable_by_key(|range| range.start);
        let end = limits.highest.min(END) / PAGE * PAGE;
        taken.push(end..end);
        let mut gaps = Vec::with_capacity(taken.len());
        let mut free = limits.lowest.checked_next_multiple_of(PAGE).unwrap_or(end);
        for range in taken {
            let until = range.start.min(end);
            if free < until {
                gaps.push(free..until);
            }
            free = free.max(range.end);
        }
        Self(gaps)
    }

    pub(super) fn all(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Whether a range is free as a whole.
    pub(super) fn hold(&self, range: &Range<u64>) -> bool {
        let mut gaps = self.0.iter();
        gaps.any(|gap| gap.start <= range.start && range.end <= gap.end)
    }

    /// Size of the largest part of a gap that is in `within`.
    pub(super) fn largest(&self, within: &Range<u64>) -> u64 {
        let part = |gap: &Range<u64>| {
            let end = gap.end.min(within.end);
            end.saturating_sub(gap.start.max(within.start))
        };
        self.0.iter().map(part).max().unwrap_or(0)
    }
}

/// Whether a mapping may grow.
pub(super) fn grows(mapping: &Mapping) -> bool {
    mapping.name.starts_with("[stack") || mapping.name == "[heap]"
}

/// What a mapping takes, with what it may grow into: half of the space up to the next one, within
/// limits.
///
/// Other stacks that grow, which programs can map (`MAP_GROWSDOWN`), have no name that shows it.
fn occupied(mapping: &Mapping, mappings: &[Mapping]) -> Range<u64> {
    let Range { start, end } = mapping.range.start.0..mapping.range.end.0;
    let room = |free: u64, most| (free / 2 / PAGE * PAGE).clamp(GUARD, most).min(free);
    match mapping.name.as_str() {
        name if name.starts_with("[stack") => {
            let ends = mappings.iter().map(|other| other.range.end.0);
            let below = ends.filter(|end| *end <= start).max();
            start - room(start - below.unwrap_or(0), GROWTH)..end
        }
        "[heap]" => {
            let starts = mappings.iter().map(|other| other.range.start.0);
            let above = starts.filter(|start| *start >= end).min();
            let above = above.unwrap_or(END).max(end);
            start..end + room(above - end, HEAP_GROWTH)
        }
        _ => start..end,
    }
}
