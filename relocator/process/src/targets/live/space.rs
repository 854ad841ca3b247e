//! The mappings as they become while steps are carried out: asking the kernel each time takes
//! longer than the steps.

use std::ops::Range;

use elf_tools::Avma;

use crate::targets::{Mapping, Protection, subtract};
use relocator::placement::{END, PAGE};

/// The mappings of a process, in no order.
#[derive(Debug)]
pub(super) struct Space(Vec<Mapping>);

impl Space {
    pub(super) fn new(mappings: Vec<Mapping>) -> Self {
        Self(mappings)
    }

    pub(super) fn mappings(&self) -> &[Mapping] {
        &self.0
    }

    /// A place for so many bytes, next to nothing else: the kernel merges neighbours of one kind,
    /// so that no reader knows any more where one of them has begun.
    pub(super) fn remote_place(&self, size: u64) -> Option<Avma> {
        let ranges = self.0.iter().map(|mapping| &mapping.range);
        let mut ranges: Vec<_> = ranges.filter(|range| range.start.0 < END).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let gaps = ranges
            .windows(2)
            .map(|pair| (pair[0].end.0, pair[1].start.0.saturating_sub(pair[0].end.0)));
        let (start, free) = gaps.max_by_key(|gap| gap.1)?;
        let before = free.checked_sub(size)? / 2 / PAGE * PAGE;
        (before > 0).then_some(Avma(start + before))
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
        self.unmap(&(to..to.offset((from.end.0 - from.start.0) as i64)));
        for mapping in &mut self.0 {
            if mapping.range == *from {
                let size = mapping.size();
                mapping.range = to..to.offset(size as i64);
            }
        }
    }

    /// Nothing is in a place any more.
    pub(super) fn unmap(&mut self, place: &Range<Avma>) {
        let parts = self.0.drain(..).flat_map(|mapping| {
            let parts = subtract(vec![mapping.range.clone()], [place.clone()]);
            let of = |range| Mapping {
                range,
                ..mapping.clone()
            };
            parts.into_iter().map(of).collect::<Vec<_>>()
        });
        self.0 = parts.collect();
    }

    fn add(&mut self, place: &Range<Avma>, execute: bool) {
        self.unmap(place);
        self.0.push(Mapping {
            range: place.clone(),
            protection: Protection {
                read: true,
                execute,
                ..Protection::default()
            },
            name: String::new(),
        });
    }
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
        // Not sorted, and the last one is the kernel's.
        let mappings = vec![
            mapping(0xa0_0000, 0xa0_1000),
            mapping(0x1000, 0x2000),
            mapping(0x9000, 0xa000),
            mapping(u64::MAX - 0xfff, u64::MAX),
        ];
        let space = Space::new(mappings);
        let place = space.remote_place(0x3000).unwrap();
        assert_eq!(place.0 % PAGE, 0);
        assert!((0x10_0000..0x90_0000).contains(&place.0), "{place}");
        assert_eq!(space.remote_place(0x9f_6000), None);
        assert_eq!(Space::new(Vec::new()).remote_place(PAGE), None);
    }

    #[test]
    fn what_is_covered_is_gone() {
        let mapping = Mapping {
            range: range(1, 9),
            protection: Protection::default(),
            name: "a".to_owned(),
        };
        let mut space = Space::new(vec![mapping]);
        space.code(&range(3, 5));
        space.placeholder(&range(8, 12));
        space.rename(&range(3, 5), Avma(10));
        space.unmap(&range(1, 2));
        let mut all: Vec<_> = space.mappings().iter().collect();
        all.sort_by_key(|mapping| mapping.range.start);
        let all: Vec<_> = all
            .iter()
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
