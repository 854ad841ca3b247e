//! Choosing new values for the constants of the code.
//!
//! A table of constraints says what combinations of constants have to add up to, not which constant
//! changes. The solver finds values for all of them at once: first as few *out-of-range operands*
//! as possible, which are values that their instruction cannot hold, then few changes.
//!
//! | module | does |
//! |---|---|
//! | `system` | cuts the constraints into parts that share no constant |
//! | `tableau` | solves a part for as many constants as it has equations |
//! | `fit` | chooses the others so that all fit, with the fewest exceptions |
//! | `cover` | the fewest exceptions that answer to every contradiction found so far |
//! | `exist` | whether there are values with given exceptions; if not, which constants contradict each other |
//! | `narrow`, `combine` | what a row says about the range of a variable; what rows together leave no value for |
//! | `minimise` | leaves alone what it can |
//!
//! Everything is exact. Tables can come from anywhere, so numbers that overflow and searches that
//! take too long end with a reason and not with a wrong answer.

mod combine;
mod cover;
mod exist;
mod fit;
mod minimise;
mod narrow;
mod system;
mod tableau;
#[cfg(test)]
mod tests;
mod variable;

use elf_tools::relocation::{Constraint, Relocations};

pub(super) use crate::reason::Unsolvable as Fault;
pub(super) use system::Solution;
use system::{Constant, Equation};
use tableau::Work;

/// Work for one attempt: some tens of milliseconds. The table of a vDSO takes a thousandth of it.
const ATTEMPT: u64 = 1 << 23;

/// Work for all attempts of one link. More than one is only needed where functions contradict each
/// other.
const TOTAL: u64 = ATTEMPT * 8;

/// A function that cannot have what it needs together with the functions before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As numbered in [`Problem::functions`].
    pub(super) function: usize,
    /// Its first constraint that does not go with the others.
    pub(super) constraint: u32,
    /// In what way.
    pub(super) fault: Fault,
}

/// What has to be solved.
pub(super) struct Problem<'a> {
    pub(super) relocations: &'a Relocations,
    /// The present value of each operand field; `None` if it is not a constant, and no function
    /// uses it.
    pub(super) values: &'a [Option<i64>],
    /// What each constraint's terms must add up to; `None` if that is not known, and no function
    /// uses it.
    pub(super) totals: &'a [Option<i64>],
    /// The functions that are to run: each one's number, and the constraints it uses.
    pub(super) functions: &'a [(usize, &'a [u32])],
}

impl Problem<'_> {
    /// Solves for all functions that go together, and refuses the others: of two that contradict
    /// each other, the later one.
    ///
    /// `movable` tells for which operand fields an out-of-range value can be accepted.
    pub(super) fn solve(&self, movable: &mut dyn FnMut(u32) -> bool) -> (Solution, Vec<Refusal>) {
        let mut attempts = Attempts::new(self, movable);
        let all = self.functions.iter().flat_map(|function| function.1);
        let constraints: Vec<u32> = all.copied().collect();
        match attempts.solve(&constraints) {
            Ok(solution) => (solution, Vec::new()),
            Err(_) => attempts.one_after_the_other(),
        }
    }
}

/// Solving parts of one problem repeatedly.
struct Attempts<'a> {
    problem: &'a Problem<'a>,
    movable: &'a mut dyn FnMut(u32) -> bool,
    constants: Vec<Constant>,
    /// Which constraints are in the present attempt.
    chosen: Vec<bool>,
    left: u64,
}

impl<'a> Attempts<'a> {
    fn new(problem: &'a Problem<'a>, movable: &'a mut dyn FnMut(u32) -> bool) -> Self {
        let operand_fields = problem
            .relocations
            .operand_fields
            .iter()
            .zip(problem.values);
        Self {
            constants: operand_fields
                .map(|(operand_field, value)| Constant {
                    width: operand_field.width,
                    value: value.unwrap_or(0),
                })
                .collect(),
            chosen: vec![false; problem.relocations.constraints.len()],
            problem,
            movable,
            left: TOTAL,
        }
    }

    /// Solves for these constraints; it does no harm to name one twice.
    fn solve(&mut self, constraints: &[u32]) -> Result<Solution, Fault> {
        let mut work = Work(self.left.min(ATTEMPT));
        let before = work.0;
        let result = self.attempt(constraints, &mut work);
        self.left -= before - work.0;
        if result == Err(Fault::Exhausted) {
            // The unit that was missing would be spent again.
            self.left -= work.0.min(self.left);
        }
        result
    }

    fn attempt(&mut self, constraints: &[u32], work: &mut Work) -> Result<Solution, Fault> {
        work.spend(constraints.len() + self.chosen.len())?;
        self.chosen.fill(false);
        for &constraint in constraints {
            self.chosen[constraint as usize] = true;
        }
        let table = &self.problem.relocations.constraints;
        let chosen = table.iter().zip(self.problem.totals).zip(&self.chosen);
        let equations: Vec<Equation<'_>> = chosen
            .filter(|(_, chosen)| **chosen)
            .filter_map(|((Constraint { terms, .. }, total), _)| {
                total.map(|total| Equation { terms, total })
            })
            .collect();
        system::solve(&self.constants, &equations, self.movable, work)
    }

    /// Adds one function after the other and refuses those that do not go with the ones before.
    fn one_after_the_other(&mut self) -> (Solution, Vec<Refusal>) {
        let problem = self.problem;
        let mut accepted: Vec<u32> = Vec::new();
        let mut refused = Vec::new();
        let mut solution = Solution {
            changes: Vec::new(),
            out_of_range: Vec::new(),
            fewest: true,
        };
        for &(function, constraints) in problem.functions {
            let before = accepted.len();
            accepted.extend(constraints);
            match self.solve(&accepted) {
                Ok(found) => solution = found,
                Err(fault) => {
                    let constraint = self.first_bad(&accepted[..before], constraints, fault);
                    refused.push(Refusal {
                        function,
                        constraint,
                        fault,
                    });
                    accepted.truncate(before);
                }
            }
        }
        (solution, refused)
    }

    /// The first of `constraints` that leaves no solution together with those before it.
    fn first_bad(&mut self, accepted: &[u32], constraints: &[u32], fault: Fault) -> u32 {
        let (mut good, mut bad) = (0, constraints.len());
        // What takes too long once takes too long again.
        while bad - good > 1 && fault != Fault::Exhausted {
            let middle = good.midpoint(bad);
            match self.solve(&[accepted, &constraints[..middle]].concat()) {
                Ok(_) => good = middle,
                Err(_) => bad = middle,
            }
        }
        constraints[good.min(constraints.len() - 1)]
    }
}
