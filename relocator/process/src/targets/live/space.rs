//! The mappings as they become while steps are carried out: asking the kernel each time takes
//! longer than the steps.

use std::collections::BTreeMap;
use std::ops::Range;

use elf_tools::Avma;

use crate::targets::{Mapping, Protection, subtract};
use relocator::placement::{END, PAGE};

/// The mappings of a process.
#[derive(Debug)]
pub(super) struct Space {
    /// By their starts.
    mappings: BTreeMap<Avma, Mapping>,
    /// What is left of the largest gap between all mappings.
    gap: Option<Range<u64>>,
}

impl Space {
    /// Of all mappings, lowest first, those that have a part of `places`, which are lowest first
    /// and apart: steps meet no others.
    pub(super) fn new(mappings: &[Mapping], places: &[Range<Avma>]) -> Self {
        let met = places.iter().flat_map(|place| {
            let first = mappings.partition_point(|mapping| mapping.range.end <= place.start);
            let met = mappings[first..].iter();
            met.take_while(|mapping| mapping.range.start < place.end)
        });
        let met = met.map(|mapping| (mapping.range.start, mapping.clone()));
        Self {
            mappings: met.collect(),
            gap: largest_gap(mappings),
        }
    }

    /// The mappings that have a part of a place, lowest first.
    pub(super) fn within(&self, place: &Range<Avma>) -> impl Iterator<Item = &Mapping> {
        let before = self.mappings.range(..place.start).next_back();
        let first = before.filter(|(_, mapping)| mapping.range.end > place.start);
        let first = first.map_or(place.start, |(start, _)| *start);
        let end = place.end.max(first);
        self.mappings.range(first..end).map(|(_, mapping)| mapping)
    }

    /// A place for so many bytes, next to nothing else: the kernel merges neighbours of one kind,
    /// so that no reader knows any more where one of them has begun.
    pub(super) fn remote_place(&mut self, size: u64) -> Option<Avma> {
        let gap = self.gap.clone()?;
        let before = (gap.end - gap.start).checked_sub(size)? / 2 / PAGE * PAGE;
        let place = gap.start + before;
        // The next one goes above, with free pages between them.
        self.gap = Some(place + size..gap.end);
        (before > 0).then_some(Avma(place))
    }

    /// Private code without a name is put into a place.
    pub(super) fn code(&mut self, place: &Range<Avma>) {
        self.add(place, true);
    }

    /// Zeros that can only be read are put into a place.
    pub(super) fn placeholder(&mut self, place: &Range<Avma>) {
        self.add(place, false);
    }

    /// A mapping is moved, over what is there.
    pub(super) fn rename(&mut self, from: &Range<Avma>, to: Avma) {
        let moved = self.mappings.get(&from.start).cloned();
        let place = to..to.offset((from.end.0 - from.start.0) as i64);
        self.unmap(&place);
        let Some(mut mapping) = moved.filter(|mapping| mapping.range == *from) else {
            return;
        };
        self.unmap(from);
        mapping.range = place;
        self.mappings.insert(to, mapping);
    }

    /// Nothing is in a place any more.
    pub(super) fn unmap(&mut self, place: &Range<Avma>) {
        let covered: Vec<Mapping> = self.within(place).cloned().collect();
        for mapping in covered {
            self.mappings.remove(&mapping.range.start);
            for range in subtract(vec![mapping.range.clone()], [place.clone()]) {
                let part = Mapping {
                    range: range.clone(),
                    ..mapping.clone()
                };
                self.mappings.insert(range.start, part);
            }
        }
    }

    fn add(&mut self, place: &Range<Avma>, execute: bool) {
        self.unmap(place);
        let mapping = Mapping {
            range: place.clone(),
            protection: Protection {
                read: true,
                execute,
                ..Protection::default()
            },
            name: String::new(),
        };
        self.mappings.insert(place.start, mapping);
    }
}

fn largest_gap(mappings: &[Mapping]) -> Option<Range<u64>> {
    let ranges = mappings.iter().map(|mapping| &mapping.range);
    let mut ranges = ranges.filter(|range| range.start.0 < END);
    let mut free = ranges.next()?.end.0;
    let gaps = ranges.map(|range| {
        let gap = free..range.start.0.max(free);
        free = free.max(range.end.0);
        gap
    });
    gaps.max_by_key(|gap| gap.end - gap.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range<Avma> {
        Avma(start)..Avma(end)
    }

    #[test]
    fn a_remote_place_is_next_to_nothing() {
        let mapping = |start, end| Mapping {
            range: range(start, end),
            protection: Protection::default(),
            name: String::new(),
        };
        // The last one is the kernel's.
        let mappings = vec![
            mapping(0x1000, 0x2000),
            mapping(0x9000, 0xa000),
            mapping(0xa0_0000, 0xa0_1000),
            mapping(u64::MAX - 0xfff, u64::MAX),
        ];
        let mut space = Space::new(&mappings, &[]);
        let place = space.remote_place(0x3000).unwrap();
        assert_eq!(place.0 % PAGE, 0);
        assert!((0x10_0000..0x90_0000).contains(&place.0), "{place}");
        // The next one is not next to it.
        let next = space.remote_place(0x3000).unwrap();
        assert!((place.0 + 0x4000..0x9f_0000).contains(&next.0), "{next}");
        assert_eq!(space.remote_place(0x9f_6000), None);
        assert_eq!(Space::new(&[], &[]).remote_place(PAGE), None);
    }

    #[test]
    fn what_is_covered_is_gone() {
        let mapping = Mapping {
            range: range(1, 9),
            protection: Protection::default(),
            name: "a".to_owned(),
        };
        let mut space = Space::new(&[mapping], &[range(0, 20)]);
        space.code(&range(3, 5));
        space.placeholder(&range(8, 12));
        space.rename(&range(3, 5), Avma(10));
        space.unmap(&range(1, 2));
        let all: Vec<_> = space
            .mappings
            .values()
            .map(|mapping| (mapping.range.clone(), mapping.protection.execute))
            .collect();
        let expected = [
            (range(2, 3), false),
            (range(5, 8), false),
            (range(8, 10), false),
            (range(10, 12), true),
        ];
        assert_eq!(all, expected);
    }
}
