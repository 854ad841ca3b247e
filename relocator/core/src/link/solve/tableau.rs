//! Linear equations over integers, kept solved for some of their variables.
//!
//! Each row is solved for one variable, its *pivot*, which is in no other row; the other variables
//! are free. Rows have few terms, so they are stored sparsely. Nothing here knows which values fit.

use super::Fault;

/// How much work may still be done: about one unit for each term that is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work(pub(super) u64);

impl Work {
    /// Takes `amount` off.
    pub(super) fn spend(&mut self, amount: usize) -> Result<(), Fault> {
        self.0 = self
            .0
            .checked_sub(amount as u64 + 1)
            .ok_or(Fault::Exhausted)?;
        Ok(())
    }
}

/// One equation: the terms add up to the total.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// The variable that it is solved for.
    pub(super) pivot: u32,
    /// The pivot's coefficient: positive.
    pub(super) divisor: i64,
    /// Variables with their coefficients, ascending, the pivot among them. None is 0.
    pub(super) terms: Vec<(u32, i64)>,
    /// What they add up to.
    pub(super) total: i64,
}

impl Row {
    /// The coefficient of `variable`, 0 if it has none.
    pub(super) fn coefficient(&self, variable: u32) -> i64 {
        self.terms
            .iter()
            .find(|term| term.0 == variable)
            .map_or(0, |term| term.1)
    }

    /// The terms without the pivot.
    pub(super) fn free(&self) -> impl Iterator<Item = (u32, i64)> {
        self.terms
            .iter()
            .copied()
            .filter(|term| term.0 != self.pivot)
    }

    /// The pivot's value for the given values of the others; `None` if it is no integer or none
    /// that can be stored.
    pub(super) fn solve(&self, values: &[i64]) -> Option<i64> {
        let mut rest = i128::from(self.total);
        for (variable, coefficient) in self.free() {
            rest -= i128::from(coefficient) * i128::from(values[variable as usize]);
        }
        let divisor = i128::from(self.divisor);
        (rest % divisor == 0)
            .then(|| i64::try_from(rest / divisor).ok())
            .flatten()
    }

    /// Divides by what all coefficients have in common. A total that it does not divide has no
    /// solution.
    pub(super) fn reduce(&mut self) -> Result<(), Fault> {
        let mut common = 0u64;
        for &(_, coefficient) in &self.terms {
            common = greatest_common_divisor(common, coefficient.unsigned_abs());
            if common == 1 {
                return Ok(());
            }
        }
        let common = i64::try_from(common).map_err(|_| Fault::Overflow)?;
        if common == 0 || self.total % common != 0 {
            return if self.total == 0 {
                Ok(())
            } else {
                Err(Fault::Contradiction)
            };
        }
        for term in &mut self.terms {
            term.1 /= common;
        }
        self.total /= common;
        Ok(())
    }

    /// Makes `pivot` the variable it is solved for.
    pub(super) fn turn(&mut self, pivot: u32) -> Result<(), Fault> {
        self.pivot = pivot;
        self.divisor = self.coefficient(pivot);
        if self.divisor < 0 {
            let negative = |value: i64| value.checked_neg().ok_or(Fault::Overflow);
            for term in &mut self.terms {
                term.1 = negative(term.1)?;
            }
            self.total = negative(self.total)?;
            self.divisor = negative(self.divisor)?;
        }
        Ok(())
    }

    /// Takes the pivot of `solved` out of this row.
    pub(super) fn eliminate(
        &mut self,
        solved: &Row,
        scratch: &mut Vec<(u32, i64)>,
    ) -> Result<(), Fault> {
        let coefficient = self.coefficient(solved.pivot);
        let common =
            greatest_common_divisor(coefficient.unsigned_abs(), solved.divisor.unsigned_abs());
        let common = i64::try_from(common).map_err(|_| Fault::Overflow)?;
        let (own, other) = (solved.divisor / common, coefficient / common);
        scratch.clear();
        let (mut mine, mut theirs) = (self.terms.as_slice(), solved.terms.as_slice());
        loop {
            let ahead = |terms: &[(u32, i64)]| terms.first().map_or(u32::MAX, |term| term.0);
            let variable = ahead(mine).min(ahead(theirs));
            if variable == u32::MAX {
                break;
            }
            let take = |terms: &mut &[(u32, i64)]| match terms.split_first() {
                Some((term, rest)) if term.0 == variable => {
                    *terms = rest;
                    term.1
                }
                _ => 0,
            };
            let (a, b) = (take(&mut mine), take(&mut theirs));
            let difference = difference(own, a, other, b)?;
            if difference != 0 {
                scratch.push((variable, difference));
            }
        }
        self.total = difference(own, self.total, other, solved.total)?;
        std::mem::swap(&mut self.terms, scratch);
        Ok(())
    }
}

/// `a * b - c * d`.
fn difference(a: i64, b: i64, c: i64, d: i64) -> Result<i64, Fault> {
    let product = a.checked_mul(b);
    product
        .zip(c.checked_mul(d))
        .and_then(|(left, right)| left.checked_sub(right))
        .ok_or(Fault::Overflow)
}

pub(super) fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Rows, each solved for another variable.
#[derive(Debug, Clone)]
pub(super) struct Tableau {
    rows: Vec<Row>,
    /// For each variable the row that is solved for it.
    row_of: Vec<Option<u32>>,
    scratch: Vec<(u32, i64)>,
}

impl Tableau {
    /// Over `variables` variables, without an equation.
    pub(super) fn new(variables: usize) -> Self {
        Self {
            rows: Vec::new(),
            row_of: vec![None; variables],
            scratch: Vec::new(),
        }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether a row is solved for `variable`.
    pub(super) fn is_pivot(&self, variable: u32) -> bool {
        self.row_of[variable as usize].is_some()
    }

    /// Adds an equation and solves it for the variable of the lowest `rank`; a coefficient other
    /// than 1 or -1 comes after all others. One that follows from the others is dropped.
    pub(super) fn add(
        &mut self,
        terms: Vec<(u32, i64)>,
        total: i64,
        rank: impl Fn(u32) -> u32,
        work: &mut Work,
    ) -> Result<(), Fault> {
        let mut row = Row {
            terms,
            total,
            ..Row::default()
        };
        while let Some(solved) = row
            .terms
            .iter()
            .find_map(|term| self.row_of[term.0 as usize])
        {
            let solved = &self.rows[solved as usize];
            work.spend(row.terms.len() + solved.terms.len())?;
            row.eliminate(solved, &mut self.scratch)?;
        }
        if row.terms.is_empty() {
            return if row.total == 0 {
                Ok(())
            } else {
                Err(Fault::Contradiction)
            };
        }
        row.reduce()?;
        let pivot = row
            .terms
            .iter()
            .min_by_key(|term| (term.1.unsigned_abs() != 1, rank(term.0), term.0));
        let pivot = pivot.map_or(0, |term| term.0);
        self.rows.push(row);
        self.solve_for(self.rows.len() - 1, pivot, work)
    }

    /// Solves row `index` for `pivot`, which it must contain, and takes the variable out of all
    /// others.
    pub(super) fn solve_for(
        &mut self,
        index: usize,
        pivot: u32,
        work: &mut Work,
    ) -> Result<(), Fault> {
        let mut solved = std::mem::take(&mut self.rows[index]);
        if self.row_of.get(solved.pivot as usize) == Some(&Some(index as u32)) {
            self.row_of[solved.pivot as usize] = None;
        }
        solved.turn(pivot)?;
        self.row_of[pivot as usize] = Some(index as u32);
        work.spend(self.rows.len())?;
        for row in &mut self.rows {
            if row.coefficient(pivot) == 0 {
                continue;
            }
            work.spend(row.terms.len() + solved.terms.len())?;
            row.eliminate(&solved, &mut self.scratch)?;
            row.reduce()?;
            row.turn(row.pivot)?;
        }
        self.rows[index] = solved;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tableau(variables: usize, rows: &[(&[(u32, i64)], i64)]) -> Result<Tableau, Fault> {
        let mut tableau = Tableau::new(variables);
        for (terms, total) in rows {
            tableau.add(terms.to_vec(), *total, |v| v, &mut Work(10_000))?;
        }
        Ok(tableau)
    }

    #[test]
    fn every_pivot_is_in_one_row_and_solves_it() {
        let rows: [(&[(u32, i64)], i64); 3] = [
            (&[(0, 1), (1, 1)], 8),
            (&[(0, 1), (2, 1)], 16),
            (&[(1, 1), (3, -1)], 3),
        ];
        let tableau = tableau(4, &rows).unwrap();
        for row in tableau.rows() {
            let count = tableau
                .rows()
                .iter()
                .filter(|other| other.coefficient(row.pivot) != 0)
                .count();
            assert_eq!(count, 1, "{row:?}");
        }
        let mut values = vec![0, 0, 0, 5];
        for row in tableau.rows() {
            values[row.pivot as usize] = row.solve(&values).unwrap();
        }
        for (terms, total) in rows {
            let sum: i64 = terms.iter().map(|t| t.1 * values[t.0 as usize]).sum();
            assert_eq!(sum, total);
        }
    }

    #[test]
    fn contradictions_are_found_and_consequences_dropped() {
        let twice = tableau(2, &[(&[(0, 1), (1, 1)], 8), (&[(0, 2), (1, 2)], 16)]).unwrap();
        assert_eq!(twice.rows().len(), 1);
        let wrong = tableau(2, &[(&[(0, 1), (1, 1)], 8), (&[(0, 1), (1, 1)], 9)]);
        assert_eq!(wrong.unwrap_err(), Fault::Contradiction);
        let odd = tableau(2, &[(&[(0, 4), (1, 6)], 3)]);
        assert_eq!(odd.unwrap_err(), Fault::Contradiction);
        assert_eq!(tableau(1, &[(&[], 1)]).unwrap_err(), Fault::Contradiction);
    }

    #[test]
    fn large_numbers_are_refused_without_a_panic() {
        let large: [(&[(u32, i64)], i64); 2] =
            [(&[(0, i64::MAX), (1, 2)], 1), (&[(0, 3), (1, i64::MAX)], 1)];
        assert_eq!(tableau(2, &large).unwrap_err(), Fault::Overflow);
        let least = tableau(2, &[(&[(0, i64::MIN), (1, 1)], i64::MIN)]).unwrap();
        assert_eq!(least.rows()[0].pivot, 1);
        assert!(tableau(1, &[(&[(0, i64::MIN)], i64::MIN)]).is_err());
        assert!(tableau(2, &[(&[(0, i64::MIN), (1, i64::MIN)], 3)]).is_err());
    }
}
