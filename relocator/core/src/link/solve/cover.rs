//! The fewest things that are in every one of a number of sets.

use std::cmp::Reverse;

use super::Fault;
use super::tableau::Work;

/// Sets that each must have a member chosen, and the smallest choice that does.
#[derive(Default)]
pub(super) struct Cover {
    sets: Vec<Vec<u32>>,
    chosen: Vec<u32>,
    /// Members that were tried in all ways already.
    excluded: Vec<u32>,
    /// What the choice has at least: sets are only ever added.
    size: usize,
}

impl Cover {
    /// Adds a set, which must not be empty.
    pub(super) fn add(&mut self, set: Vec<u32>) {
        self.sets.push(set);
    }

    /// The fewest members that all sets have one of.
    pub(super) fn fewest(&mut self, work: &mut Work) -> Result<&[u32], Fault> {
        self.chosen.clear();
        self.excluded.clear();
        while !self.choose(self.size, work)? {
            self.size += 1;
        }
        Ok(&self.chosen)
    }

    /// Chooses up to `more` further members.
    fn choose(&mut self, more: usize, work: &mut Work) -> Result<bool, Fault> {
        let Some(open) = self.open(more, work)? else {
            return Ok(false);
        };
        let Some(smallest) = open.iter().min_by_key(|set| set.len()) else {
            return Ok(true);
        };
        // What is in most sets first.
        let mut members = smallest.clone();
        work.spend(members.len() * open.iter().map(Vec::len).sum::<usize>())?;
        let sets_with = |member: &u32| open.iter().filter(|set| set.contains(member)).count();
        members.sort_by_cached_key(|member| (Reverse(sets_with(member)), *member));
        let before = self.excluded.len();
        for member in members {
            self.chosen.push(member);
            if self.choose(more - 1, work)? {
                return Ok(true);
            }
            self.chosen.pop();
            self.excluded.push(member);
        }
        self.excluded.truncate(before);
        Ok(false)
    }

    /// The sets that have no chosen member yet, less what is excluded; `None` if `more` members are
    /// too few for them.
    fn open(&self, more: usize, work: &mut Work) -> Result<Option<Vec<Vec<u32>>>, Fault> {
        let mut open: Vec<Vec<u32>> = Vec::new();
        // Sets that have nothing in common need a member each.
        let mut apart: Vec<u32> = Vec::new();
        let mut least = 0;
        for set in &self.sets {
            let looked_at = self.chosen.len() + self.excluded.len() + apart.len();
            work.spend(set.len() * (1 + looked_at))?;
            if set.iter().any(|member| self.chosen.contains(member)) {
                continue;
            }
            let mut left = set.clone();
            left.retain(|member| !self.excluded.contains(member));
            if !left.iter().any(|member| apart.contains(member)) {
                apart.extend(&left);
                least += 1;
            }
            if left.is_empty() || least > more {
                return Ok(None);
            }
            open.push(left);
        }
        Ok(Some(open))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_smaller_choice_meets_all_sets(
            sets in proptest::collection::vec(proptest::collection::btree_set(0u32..8, 1..=4), 0..10)
        ) {
            let mut cover = Cover::default();
            for (count, set) in (1..).zip(&sets) {
                cover.add(set.iter().copied().collect());
                let chosen = cover.fewest(&mut Work(1 << 20)).unwrap();
                let meets = |choice: u32| {
                    sets[..count].iter().all(|set| set.iter().any(|member| choice >> member & 1 != 0))
                };
                prop_assert!(meets(chosen.iter().map(|member| 1 << member).sum()));
                let least = (0..1u32 << 8).filter(|&choice| meets(choice)).map(u32::count_ones).min();
                prop_assert_eq!(Some(chosen.len() as u32), least);
            }
        }
    }

    #[test]
    fn too_many_sets_are_given_up() {
        let mut cover = Cover::default();
        for a in 0..300u32 {
            cover.add(
                (0..12)
                    .map(|step| (a * 7 + step * step * 31) % 200)
                    .collect(),
            );
        }
        assert_eq!(
            cover.fewest(&mut Work(1 << 20)).err(),
            Some(Fault::Exhausted)
        );
    }
}
