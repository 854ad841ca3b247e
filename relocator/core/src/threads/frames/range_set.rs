//! A set of addresses.

use std::collections::BTreeMap;
use std::ops::Range;

use elf_tools::Avma;

/// A set of addresses, as ranges that are apart from each other.
#[derive(Debug, Default)]
pub(super) struct RangeSet {
    /// Ends by starts.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        while let Some((&known, &known_end)) = self.ranges.range(..=end).next_back() {
            if known_end < start {
                break;
            }
            start = start.min(known);
            end = end.max(known_end);
            self.ranges.remove(&known);
        }
        self.ranges.insert(start, end);
    }

    /// The first part of a range that is not in the set.
    pub(super) fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let before = self.ranges.range(..=range.start).next_back();
        let start = before.map_or(range.start, |(_, &end)| end.max(range.start));
        let next = self.ranges.range(start..).next();
        let end = next.map_or(range.end, |(&next, _)| next.min(range.end));
        (start < end).then_some(start..end)
    }

    pub(super) fn contains(&self, address: u64) -> bool {
        let before = self.ranges.range(..=address).next_back();
        before.is_some_and(|(_, &end)| address < end)
    }

    /// All ranges, lowest first, as addresses.
    pub(super) fn to_addresses(&self) -> Vec<Range<Avma>> {
        let addresses = |range: Range<u64>| Avma(range.start)..Avma(range.end);
        self.iter().map(addresses).collect()
    }

    /// All ranges, lowest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(ranges in proptest::collection::vec((0u64..100, 0u64..20), 0..20), ask: (u8, u8)) {
            let mut set = RangeSet::default();
            let mut plain = BTreeSet::new();
            for (start, size) in ranges {
                set.insert(start..start + size);
                plain.extend(start..start + size);
            }
            let all: Vec<u64> = set.iter().flatten().collect();
            prop_assert_eq!(&all, &plain.iter().copied().collect::<Vec<_>>());
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            let asked = u64::from(ask.0)..u64::from(ask.1);
            let mut gap = asked.clone().filter(|address| !plain.contains(address));
            let found = set.first_gap(asked.clone());
            prop_assert_eq!(found.as_ref().map(|found| found.start), gap.next());
            if let Some(found) = found {
                prop_assert!(found.clone().all(|address| !plain.contains(&address)));
                prop_assert!(found.end == asked.end || plain.contains(&found.end));
            }
            prop_assert_eq!(set.contains(asked.start), plain.contains(&asked.start));
        }
    }
}
