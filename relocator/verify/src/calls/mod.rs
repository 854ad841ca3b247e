//! Comparing a function with the system call that does the same.
//!
//! Clocks move, so a call between two system calls must return something between their results.
//! Everything else must be equal.

mod clock;
mod cpu;
mod difference;
mod random;
mod shown;
pub(crate) mod timing;
mod wall;

use super::child::Progress;
use super::entry::Entry;
use crate::Result;
pub(crate) use difference::Difference;
use shown::Shown;

/// How often a bracket around a clock that can be set is tried before it counts.
///
/// Somebody who sets the wall clock, as a time service does, between two of the three calls breaks
/// a correct bracket; so does the kernel, whose `time` system call reads a second that it updates a
/// moment after the vDSO's. Neither happens several times in a row, and a wrong function is wrong
/// every time.
const ATTEMPTS: u32 = 4;

/// A function to be checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckedFunction<'a> {
    /// Name that it is reported under.
    pub(crate) name: &'a str,
    /// Where it is called.
    pub(crate) entry: Entry,
    /// The running kernel's function of that name.
    pub(crate) native: Option<Entry>,
    /// The same function, unlinked on its own kernel.
    pub(crate) home: Option<Entry>,
    /// Whether it was replaced by a system call, which cannot do quite what the function did.
    pub(crate) is_stub: bool,
    /// Calls for each combination of arguments.
    pub(crate) rounds: u32,
}

/// What checking a function found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Number of calls.
    pub calls: u64,
    /// Number of calls that differed from the system call.
    pub mismatches: u64,
    /// Number of calls that were repeated because the wall clock seemed to have been set meanwhile.
    pub repeated: u64,
    /// Number of calls that differed just as the running kernel's own vDSO does.
    pub like_native: u64,
    /// Number of calls that differed just as the old image does unlinked on its own kernel.
    pub like_home: u64,
    /// The first difference, in words.
    pub first_mismatch: Option<String>,
}

impl Tally {
    /// Counts a call that differed, in that case.
    pub(crate) fn mismatch(&mut self, case: &str, difference: &Difference) {
        self.mismatches += 1;
        self.first_mismatch
            .get_or_insert_with(|| format!("{case}: {difference}"));
    }
}

/// Calls the function in every way that is known, and compares.
pub(crate) fn check(function: &CheckedFunction<'_>, progress: &mut Progress) -> Result<Tally> {
    let mut checker = Checker {
        function,
        progress,
        case: String::new(),
        tally: Tally::default(),
    };
    match function.entry {
        Entry::ClockGettime(clock) => clock::gettime(&mut checker, clock),
        Entry::ClockGetres(clock) => clock::getres(&mut checker, clock),
        Entry::Gettimeofday(function) => wall::gettimeofday(&mut checker, function),
        Entry::Time(function) => wall::time(&mut checker, function),
        Entry::Getcpu(function) => cpu::getcpu(&mut checker, function)?,
        Entry::Getrandom(function) => random::getrandom(&mut checker, function),
    }
    Ok(checker.tally)
}

/// Whether a clock can be set while it is being compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settable {
    Yes,
    No,
}

/// Counts calls and differences.
struct Checker<'a> {
    function: &'a CheckedFunction<'a>,
    progress: &'a mut Progress,
    case: String,
    tally: Tally,
}

impl Checker<'_> {
    /// Begins a combination of arguments.
    fn case(&mut self, case: impl Into<String>) {
        self.case = case.into();
        self.progress
            .at(format!("{}, {}", self.function.name, self.case));
    }

    /// Compares as often as was asked for.
    fn rounds(&mut self, settable: Settable, mut attempt: impl FnMut() -> Result<(), Difference>) {
        for _ in 0..self.function.rounds {
            self.once(settable, &mut attempt);
        }
    }

    /// Compares one call, which `attempt` makes.
    fn once(&mut self, settable: Settable, mut attempt: impl FnMut() -> Result<(), Difference>) {
        let attempts = if settable == Settable::Yes {
            ATTEMPTS
        } else {
            1
        };
        let mut last = None;
        for number in 0..attempts {
            self.tally.calls += 1;
            match attempt() {
                Ok(()) => {
                    self.tally.repeated += u64::from(number);
                    return;
                }
                Err(difference) => last = Some(difference),
            }
        }
        // Repeated calls are all wrong then, but they are one finding.
        self.tally.calls -= u64::from(attempts - 1);
        if let Some(difference) = last {
            self.mismatch(&difference);
        }
    }

    /// Compares a call whose result does not change.
    ///
    /// Kernels' own vDSOs do not always do what their system calls do: those from 6.18 on state a
    /// resolution for auxiliary clocks that the system call rejects. What every program on the
    /// kernel sees is not wrong for this one; nor is what this one has always said, if no symbol of
    /// the vvar takes part in it. `ask` makes the same call of another function.
    fn same<T: PartialEq + Shown>(
        &mut self,
        what: &'static str,
        found: T,
        expected: T,
        ask: impl Fn(Entry) -> Option<T>,
    ) {
        self.tally.calls += 1;
        if let Err(difference) = equal(what, &found, &expected) {
            let found = Some(found);
            if self.function.native.and_then(&ask) == found {
                self.tally.like_native += 1;
            } else if self.function.home.and_then(&ask) == found {
                self.tally.like_home += 1;
            } else {
                self.mismatch(&difference);
            }
        }
    }

    fn mismatch(&mut self, difference: &Difference) {
        self.tally.mismatch(&self.case, difference);
    }
}

/// `Ok` if the two are equal.
fn equal<T: PartialEq + Shown>(
    what: &'static str,
    found: &T,
    expected: &T,
) -> Result<(), Difference> {
    match found == expected {
        true => Ok(()),
        false => Err(Difference::Answer {
            what,
            found: found.shown(),
            expected: expected.shown(),
        }),
    }
}

/// `Ok` if `found` is not before the system call before it, and not after the one after it.
fn between<T: PartialOrd + Shown>(before: T, found: T, after: T) -> Result<(), Difference> {
    match before <= found && found <= after {
        true => Ok(()),
        false => Err(Difference::Outside {
            found: found.shown(),
            before: before.shown(),
            after: after.shown(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_find_what_differs() {
        assert!(equal("it", &1, &1).is_ok());
        assert_eq!(
            equal("it", &1, &2).unwrap_err().to_string(),
            "it: returned 1, the system call 2"
        );
        assert!(between(1, 1, 1).is_ok());
        assert!(between(1, 2, 3).is_ok());
        assert!(between(2, 1, 3).is_err());
        assert!(between(1, 4, 3).is_err());
    }
}
