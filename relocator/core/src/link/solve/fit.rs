//! Values that fit their instructions, with as few exceptions as can be.
//!
//! Words take up almost any change, so only rows without a word in the pivot's place restrict
//! anything. The search asks whether such rows can hold with a given set of exceptions; if not, one
//! of the constants that the contradiction came from has to be an exception in any solution. The
//! search keeps every contradiction, and asks next about the fewest exceptions of which each
//! contradiction so far has one. The first that suffice are therefore as few as there can be.

use super::Fault;
use super::cover::Cover;
use super::exist::{Answer, Existence};
use super::narrow::Ranges;
use super::tableau::{Tableau, Work};
use super::variable::{Range, Variable};

/// Share of the remaining work that looking for the fewest exceptions may take before any number is
/// accepted.
const FEWEST_SHARE: u64 = 4;

/// Whether fewer exceptions were ruled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fewest {
    Yes,
    /// The search was cut short.
    Unknown,
}

/// Finds values of a tableau's variables.
pub(super) struct Search<'a> {
    variables: &'a [Variable],
    /// Whether the instruction of a variable can be moved out of line.
    movable: &'a mut dyn FnMut(u32) -> bool,
    /// Answers of `movable`.
    asked: Vec<Option<bool>>,
    existence: Existence<'a>,
    /// Variables that may leave `fits`.
    exceptions: Vec<u32>,
    /// The same, by variable.
    is_exception: Vec<bool>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        tableau: &'a Tableau,
        variables: &'a [Variable],
        movable: &'a mut dyn FnMut(u32) -> bool,
    ) -> Self {
        let fits = variables.iter().map(|variable| variable.fits).collect();
        Self {
            variables,
            movable,
            asked: vec![None; variables.len()],
            existence: Existence::new(Ranges::new(tableau, fits), variables.len()),
            exceptions: Vec::new(),
            is_exception: vec![false; variables.len()],
        }
    }

    /// Changes `values` so that `rows`, which share variables, hold. What may be used as an
    /// exception is in [`Search::into_ranges`] afterwards.
    pub(super) fn solve(
        &mut self,
        rows: &[u32],
        values: &mut [i64],
        work: &mut Work,
    ) -> Result<Fewest, Fault> {
        self.existence.each_variable(rows, |existence, variable| {
            let fits = self.variables[variable as usize].fits;
            existence.ranges.begin(variable, fits);
            self.is_exception[variable as usize] = false;
        });
        self.exceptions.clear();
        let share = work.0 / FEWEST_SHARE;
        let mut for_fewest = Work(share);
        let found = self.with_fewest_exceptions(rows, values, &mut for_fewest);
        work.0 -= share - for_fewest.0;
        match found {
            Err(Fault::Exhausted) => {
                self.with_any_exceptions(rows, values, work)?;
                Ok(Fewest::Unknown)
            }
            found => found,
        }
    }

    /// Which values each variable may take now.
    pub(super) fn into_ranges(self) -> Vec<Range> {
        self.existence.ranges.into_inner()
    }

    fn with_fewest_exceptions(
        &mut self,
        rows: &[u32],
        values: &mut [i64],
        work: &mut Work,
    ) -> Result<Fewest, Fault> {
        let mut fewest = Fewest::Yes;
        let mut contradictions = Cover::default();
        loop {
            self.allow(contradictions.fewest(work)?);
            match self.existence.find(rows, values, work)? {
                Answer::Yes => return Ok(fewest),
                Answer::No => {}
                Answer::Unknown => fewest = Fewest::Unknown,
            }
            // Contradictions that have nothing in common with this one are as good, and need no new
            // choice.
            loop {
                let candidates = self.candidates();
                if candidates.is_empty() {
                    return Err(match fewest {
                        Fewest::Yes => Fault::Contradiction,
                        Fewest::Unknown => Fault::Exhausted,
                    });
                }
                self.except(&candidates);
                contradictions.add(candidates);
                if self.existence.find(rows, values, work)? != Answer::No {
                    break;
                }
            }
        }
    }

    /// Any solution at all: every constant that can be moved may be.
    fn with_any_exceptions(
        &mut self,
        rows: &[u32],
        values: &mut [i64],
        work: &mut Work,
    ) -> Result<(), Fault> {
        self.allow(&[]);
        self.existence.blame_all(rows);
        let candidates = self.candidates();
        self.except(&candidates);
        let answer = self.existence.find(rows, values, work);
        let needed = |variable: &u32| {
            let index = *variable as usize;
            !self.variables[index].fits.contains(values[index])
        };
        let needed: Vec<u32> = candidates.into_iter().filter(needed).collect();
        self.allow(&needed);
        match answer? {
            Answer::Yes => Ok(()),
            Answer::No => Err(Fault::Contradiction),
            Answer::Unknown => Err(Fault::Exhausted),
        }
    }

    /// Allows these exceptions and no others.
    fn allow(&mut self, exceptions: &[u32]) {
        for variable in std::mem::take(&mut self.exceptions) {
            let fits = self.variables[variable as usize].fits;
            self.existence.ranges.begin(variable, fits);
            self.is_exception[variable as usize] = false;
        }
        self.except(exceptions);
    }

    /// Allows further exceptions.
    fn except(&mut self, variables: &[u32]) {
        for &variable in variables {
            let reach = self.variables[variable as usize].reach;
            self.existence.ranges.begin(variable, reach);
            self.is_exception[variable as usize] = true;
        }
        self.exceptions.extend(variables);
    }

    /// Blamed constants that could be exceptions.
    fn candidates(&mut self) -> Vec<u32> {
        let mut candidates = Vec::new();
        for (index, &blamed) in self.existence.blamed.iter().enumerate() {
            let variable = index as u32;
            let eligible = blamed && self.variables[index].is_narrow() && !self.is_exception[index];
            if eligible && *self.asked[index].get_or_insert_with(|| (self.movable)(variable)) {
                candidates.push(variable);
            }
        }
        candidates
    }
}
