//! What many restores amount to: one count for each kind of restore.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guest::{Dumped, Fate, Restored};

/// Different reasons that a report names.
const REASONS: usize = 4;

/// What became of the processes of one kind of restore.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Tally {
    /// Restores that were tried.
    pub(crate) tried: usize,
    /// Processes that run, with nothing wrong.
    pub(crate) right: usize,
    /// Processes that run, with wrong answers.
    pub(crate) wrong: usize,
    /// Processes that the relocator did not link. They are still stopped.
    pub(crate) refused: usize,
    /// Processes that ended, or have threads that do not come on.
    pub(crate) lost: usize,
    /// Images that CRIU did not restore.
    pub(crate) not_restored: usize,
    /// Calls, and how many of them answered wrong.
    pub(crate) calls: u64,
    /// See `calls`.
    pub(crate) wrong_calls: u64,
    /// Wrong answers by function.
    pub(crate) wrong_by_function: BTreeMap<&'static str, u64>,
    /// Processes that could not be dumped again, where that was wanted.
    pub(crate) not_dumped: usize,
    /// Random numbers that another restore of the same image gave out as well.
    pub(crate) repeated_random: usize,
    /// The longest restore with its link, in seconds of the guest.
    pub(crate) slowest: f64,
    /// The longest time for which the relocator stopped a process, in milliseconds of the guest.
    pub(crate) longest_stop_ms: f64,
    /// Threads inside of the old vDSO, and frames of handlers above it, that links carried across.
    pub(crate) carried: u64,
    /// Why, in words; wrong answers as well. Not all.
    pub(crate) reasons: Vec<String>,
}

impl Tally {
    /// Counts one restore.
    pub(crate) fn add(&mut self, restored: &Restored) {
        self.tried += 1;
        let observed = &restored.observed;
        self.calls += observed.calls.iter().sum::<u64>();
        self.wrong_calls += observed.all_wrong();
        for (name, wrong) in observed.wrong_by_name() {
            *self.wrong_by_function.entry(name).or_default() += wrong;
        }
        self.slowest = self.slowest.max(restored.seconds);
        let carried: f64 = said(restored, "moved")
            .chain(said(restored, "frames"))
            .sum();
        // They are small whole numbers.
        self.carried += carried as u64;
        let longest = said(restored, "stop_us").fold(0.0, f64::max);
        self.longest_stop_ms = self.longest_stop_ms.max(longest / 1e3);
        match &restored.fate {
            Fate::Runs if observed.all_wrong() == 0 => self.right += 1,
            Fate::Runs => self.wrong += 1,
            Fate::Refused(reason) => {
                self.refused += 1;
                self.reason(reason);
            }
            Fate::Lost(reason) => {
                self.lost += 1;
                self.reason(reason);
            }
            Fate::NotRestored(reason) => {
                self.not_restored += 1;
                self.reason(reason);
            }
        }
        if let Some(message) = observed.messages.first() {
            self.reason(message);
        }
        if let Some(dumped) = &restored.dumped {
            self.add_dump(dumped);
        }
    }

    /// Counts a restore that a guest never came to.
    pub(crate) fn add_missing(&mut self, why: &str) {
        self.tried += 1;
        self.not_restored += 1;
        self.reason(why);
    }

    fn add_dump(&mut self, dumped: &Dumped) {
        if let Some(reason) = &dumped.failure {
            self.not_dumped += 1;
            self.reason(reason);
        }
    }

    /// Counts random numbers that two restores of one image gave out both.
    pub(crate) fn add_random(&mut self, one: &Restored, other: &Restored) {
        let theirs = &other.observed.random;
        let ours = one.observed.random.iter();
        let repeated = ours.filter(|number| theirs.contains(number));
        self.repeated_random += repeated.count();
    }

    fn reason(&mut self, reason: &str) {
        let line: String = reason.lines().next().unwrap_or_default().to_owned();
        if self.reasons.len() < REASONS && !self.reasons.contains(&line) {
            self.reasons.push(line);
        }
    }

    /// Whether everything went well.
    pub(crate) fn is_good(&self) -> bool {
        self.right == self.tried && self.not_dumped == 0 && self.repeated_random == 0
    }
}

/// A number in the relocator's reports, one for each process.
fn said<'a>(restored: &'a Restored, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    let values = restored.reports.iter().map(move |report| report.get(name));
    values.map(|value| value.and_then(serde_json::Value::as_f64).unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Observed;
    use crate::guest::By;

    fn restored(fate: Fate, wrong: u64) -> Restored {
        Restored {
            image: "a".to_owned(),
            by: By::Criu,
            fate,
            observed: Observed {
                calls: vec![100],
                wrong: vec![wrong],
                random: vec![1, 2, 3],
                ..Observed::default()
            },
            reports: vec![serde_json::json!({"moved": 2, "frames": 1, "stop_us": 1500.0})],
            seconds: 1.0,
            dumped: None,
        }
    }

    #[test]
    fn each_fate_is_counted_once() {
        let mut tally = Tally::default();
        tally.add(&restored(Fate::Runs, 0));
        assert!(tally.is_good());
        assert_eq!((tally.carried, tally.longest_stop_ms), (3, 1.5));
        tally.add(&restored(Fate::Runs, 7));
        tally.add(&restored(Fate::Refused("no\nmore".to_owned()), 0));
        tally.add(&restored(Fate::Lost("SIGSEGV".to_owned()), 1));
        tally.add(&restored(Fate::NotRestored("no".to_owned()), 0));
        tally.add_missing("the guest ended early");
        let counts = [tally.right, tally.wrong, tally.refused, tally.lost];
        assert_eq!(counts, [1, 1, 1, 1]);
        assert_eq!((tally.not_restored, tally.tried), (2, 6));
        assert_eq!((tally.wrong_calls, tally.calls), (8, 500));
        assert_eq!(tally.wrong_by_function["monotonic"], 8);
        assert_eq!(tally.reasons, ["no", "SIGSEGV", "the guest ended early"]);
        assert!(!tally.is_good());
    }

    #[test]
    fn numbers_that_two_restores_gave_out_show() {
        let one = restored(Fate::Runs, 0);
        let mut tally = Tally::default();
        tally.add(&one);
        tally.add_random(&one, &one);
        assert_eq!(tally.repeated_random, 3);
        assert!(!tally.is_good());
    }

    #[test]
    fn a_failed_dump_is_no_good() {
        let mut one = restored(Fate::Runs, 0);
        one.dumped = Some(Dumped {
            image: "a".to_owned(),
            failure: Some("CRIU: no".to_owned()),
            wrong_before: 0,
            seconds: 1.0,
        });
        let mut tally = Tally::default();
        tally.add(&one);
        assert_eq!((tally.right, tally.not_dumped), (1, 1));
        assert!(!tally.is_good());
    }
}
