//! Counting what came out, by boundary.

use std::collections::{BTreeMap, BTreeSet};

use elf_tools::Svma;
use serde::{Deserialize, Serialize};

use super::outcome::{Counts, Ending, FailedExperiment, Namespaces, Part, Variant, VariantCounts};

/// Failures that are kept in words, of each ending.
const MOST_FAILURES: usize = 4;

/// What has happened at one boundary to threads that were doing the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    experiments: u64,
    worst: Ending,
}

/// What has happened at all boundaries of a function.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    found: Vec<(Namespaces, Variant, BTreeMap<u64, Found>)>,
    failures: Vec<FailedExperiment>,
    /// Places out of line, with the boundaries whose instructions are there.
    moved: BTreeMap<u64, u64>,
}

impl Tally {
    /// Counts an experiment.
    pub(super) fn add(
        &mut self,
        namespaces: Namespaces,
        variant: Variant,
        boundary: Svma,
        ending: Ending,
    ) {
        let found = self.part(namespaces, variant).entry(boundary.0);
        let found = found.or_insert(Found {
            experiments: 0,
            worst: ending,
        });
        found.experiments += 1;
        found.worst = found.worst.max(ending);
    }

    /// States which boundary a place out of line stands for.
    pub(super) fn is_moved(&mut self, place: Svma, boundary: Svma) {
        self.moved.insert(place.0, boundary.0);
    }

    /// How many places out of line a thread was stopped at.
    pub(super) fn out_of_line(&self) -> u64 {
        let places = self.found.iter().flat_map(|(_, _, found)| found.keys());
        let moved = places.filter(|place| self.moved.contains_key(place));
        moved.collect::<BTreeSet<_>>().len() as u64
    }

    /// Keeps a failure in words, unless there are enough like it.
    pub(super) fn explain(&mut self, failure: FailedExperiment) {
        let like = |other: &&FailedExperiment| {
            (other.ending, other.variant) == (failure.ending, failure.variant)
        };
        let again = self.failures.iter().filter(like);
        let same_place = again.clone().any(|other| other.address == failure.address);
        if !same_place && again.count() < MOST_FAILURES {
            self.failures.push(failure);
        }
    }

    /// How often a thread was stopped at a boundary, and the worst that has come of it.
    pub(super) fn at(
        &mut self,
        namespaces: Namespaces,
        variant: Variant,
        boundary: Svma,
    ) -> Option<(u64, Ending)> {
        let found = self.part(namespaces, variant).get(&boundary.0)?;
        Some((found.experiments, found.worst))
    }

    fn part(&mut self, namespaces: Namespaces, variant: Variant) -> &mut BTreeMap<u64, Found> {
        let key = |part: &(Namespaces, Variant, _)| (part.0, part.1) == (namespaces, variant);
        let index = self.found.iter().position(key).unwrap_or_else(|| {
            self.found.push((namespaces, variant, BTreeMap::new()));
            self.found.len() - 1
        });
        &mut self.found[index].2
    }

    /// Adds what was counted elsewhere, under other circumstances.
    pub(super) fn merge(&mut self, other: Self) {
        self.found.extend(other.found);
        self.moved.extend(other.moved);
        for failure in other.failures {
            self.explain(failure);
        }
    }

    /// What was found under each circumstance.
    pub(super) fn parts(&self) -> Vec<Part> {
        let part =
            |(namespaces, variant, found): &(Namespaces, Variant, BTreeMap<u64, Found>)| Part {
                namespaces: *namespaces,
                variant: *variant,
                reached: found.len() as u64,
                experiments: found.values().map(|found| found.experiments).sum(),
                worst: counts(found.values().map(|found| found.worst)),
            };
        self.found.iter().map(part).collect()
    }

    /// The worst at each boundary, under all circumstances.
    pub(super) fn worst(&self) -> BTreeMap<u64, Ending> {
        self.worst_of(|_| true)
    }

    /// What was found by what the thread was doing.
    pub(super) fn variants(&self) -> Vec<VariantCounts> {
        let all = Variant::ALL.into_iter().map(|variant| VariantCounts {
            variant,
            worst: counts(self.worst_of(|other| other == variant).into_values()),
        });
        all.filter(|found| found.worst.total() > 0).collect()
    }

    fn worst_of(&self, wanted: impl Fn(Variant) -> bool) -> BTreeMap<u64, Ending> {
        let mut worst = BTreeMap::new();
        for (_, _, found) in self.found.iter().filter(|part| wanted(part.1)) {
            for (place, found) in found {
                let boundary = *self.moved.get(place).unwrap_or(place);
                let entry = worst.entry(boundary).or_insert(found.worst);
                *entry = found.worst.max(*entry);
            }
        }
        worst
    }

    pub(super) fn experiments(&self) -> u64 {
        self.parts().iter().map(|part| part.experiments).sum()
    }

    pub(super) fn failures(&self) -> &[FailedExperiment] {
        &self.failures
    }
}

/// How many there are of each ending.
pub(super) fn counts(endings: impl Iterator<Item = Ending>) -> Counts {
    let mut counts = Counts::default();
    endings.for_each(|ending| counts.add(ending));
    counts
}
