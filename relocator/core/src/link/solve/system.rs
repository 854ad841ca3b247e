//! A system of equations over constants, solved one connected part at a time.

use std::ops::Range as Span;

use elf_tools::relocation::{Term, Width};

use super::Fault;
use super::fit::{Fewest, Search};
use super::minimise::minimise;
use super::tableau::{Tableau, Work};
use super::variable::{Range, Variable};

/// One equation: the terms, multiplied by the constants' values, add up to the total.
#[derive(Debug, Clone, Copy)]
pub(super) struct Equation<'a> {
    pub(super) terms: &'a [Term],
    pub(super) total: i64,
}

/// A constant as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constant {
    pub(super) width: Width,
    pub(super) value: i64,
}

/// What to do to the constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::link) struct Solution {
    /// Constants that change, ascending, with their new values.
    pub(in crate::link) changes: Vec<(u32, i64)>,
    /// Those among them whose value does not fit their instruction, ascending.
    pub(in crate::link) out_of_range: Vec<u32>,
    /// Whether it is known that fewer out-of-range operands are impossible.
    pub(in crate::link) fewest: bool,
}

/// Solves `equations` for new values of `constants`. `movable` tells for which constants an
/// out-of-range value can be accepted.
pub(super) fn solve(
    constants: &[Constant],
    equations: &[Equation<'_>],
    movable: &mut dyn FnMut(u32) -> bool,
    work: &mut Work,
) -> Result<Solution, Fault> {
    let mut solution = Solution {
        changes: Vec::new(),
        out_of_range: Vec::new(),
        fewest: true,
    };
    work.spend(constants.len())?;
    let parts = Parts::of(constants, equations, work)?;
    let mut numbers = vec![u32::MAX; constants.len()];
    for span in &parts.spans {
        let members = &parts.members[span.clone()];
        let mut part = Part::of(members, &parts.residues, constants, equations, &mut numbers);
        let rows = std::mem::take(&mut part.rows);
        let (values, fewest) = part.solve(rows, movable, work)?;
        solution.fewest &= fewest == Fewest::Yes;
        for ((&operand_field, variable), &change) in
            part.operand_fields.iter().zip(&part.variables).zip(&values)
        {
            if change != 0 {
                let value = constants[operand_field as usize].value;
                let value = value.checked_add(change).ok_or(Fault::Overflow)?;
                solution.changes.push((operand_field, value));
                if !variable.fits.contains(change) {
                    solution.out_of_range.push(operand_field);
                }
            }
        }
    }
    solution.changes.sort_unstable();
    solution.out_of_range.sort_unstable();
    Ok(solution)
}

/// Equations in parts that share no constant; parts that hold already are left out.
struct Parts {
    /// Indices of equations, those of one part next to each other.
    members: Vec<u32>,
    spans: Vec<Span<usize>>,
    /// For each equation what the changes of the constants have to add up to.
    residues: Vec<i64>,
}

impl Parts {
    fn of(
        constants: &[Constant],
        equations: &[Equation<'_>],
        work: &mut Work,
    ) -> Result<Self, Fault> {
        let mut groups = Groups::new(constants.len());
        let mut residues = Vec::with_capacity(equations.len());
        for equation in equations {
            work.spend(equation.terms.len())?;
            let mut residue = i128::from(equation.total);
            for term in equation.terms {
                let value = i128::from(constants[term.operand_field as usize].value);
                let product = i128::from(term.coefficient) * value;
                residue = residue.checked_sub(product).ok_or(Fault::Overflow)?;
                groups.join(equation.terms[0].operand_field, term.operand_field);
            }
            let residue = i64::try_from(residue).map_err(|_| Fault::Overflow)?;
            if equation.terms.is_empty() && residue != 0 {
                return Err(Fault::Contradiction);
            }
            residues.push(residue);
        }
        let mut open = vec![false; constants.len()];
        for (equation, &residue) in equations.iter().zip(&residues) {
            if let (Some(term), true) = (equation.terms.first(), residue != 0) {
                open[groups.find(term.operand_field) as usize] = true;
            }
        }
        let mut members: Vec<(u32, u32)> = Vec::new();
        for (equation, index) in equations.iter().zip(0..) {
            if let Some(term) = equation.terms.first() {
                let group = groups.find(term.operand_field);
                if open[group as usize] {
                    members.push((group, index));
                }
            }
        }
        members.sort_unstable();
        let mut spans = Vec::new();
        let mut start = 0;
        for part in members.chunk_by(|a, b| a.0 == b.0) {
            spans.push(start..start + part.len());
            start += part.len();
        }
        Ok(Self {
            members: members.into_iter().map(|member| member.1).collect(),
            spans,
            residues,
        })
    }
}

/// Variables with their coefficients, and what they add up to.
type Rows = Vec<(Vec<(u32, i64)>, i64)>;

/// Equations that are connected, in terms of changes.
struct Part {
    /// The constant of each variable, ascending.
    operand_fields: Vec<u32>,
    variables: Vec<Variable>,
    /// In how many equations each is.
    occurrences: Vec<u32>,
    rows: Rows,
}

impl Part {
    /// `numbers` is memory for the number of each constant's variable.
    fn of(
        members: &[u32],
        residues: &[i64],
        constants: &[Constant],
        equations: &[Equation<'_>],
        numbers: &mut [u32],
    ) -> Self {
        let terms = |member: u32| equations[member as usize].terms;
        let mut operand_fields = Vec::new();
        for term in members.iter().flat_map(|&member| terms(member)) {
            if numbers[term.operand_field as usize] == u32::MAX {
                numbers[term.operand_field as usize] = 0;
                operand_fields.push(term.operand_field);
            }
        }
        operand_fields.sort_unstable();
        for (&operand_field, number) in operand_fields.iter().zip(0..) {
            numbers[operand_field as usize] = number;
        }
        let mut occurrences = vec![0u32; operand_fields.len()];
        let mut rows = Vec::with_capacity(members.len());
        for &member in members {
            let variable = |term: &Term| (numbers[term.operand_field as usize], term.coefficient);
            let row: Vec<(u32, i64)> = terms(member)
                .iter()
                .map(variable)
                .filter(|term| term.1 != 0)
                .collect();
            for &(variable, _) in &row {
                occurrences[variable as usize] += 1;
            }
            rows.push((row, residues[member as usize]));
        }
        let variables = operand_fields.iter().map(|&operand_field| {
            let Constant { width, value } = constants[operand_field as usize];
            Variable::new(width, value)
        });
        Self {
            variables: variables.collect(),
            operand_fields,
            occurrences,
            rows,
        }
    }

    fn solve(
        &self,
        rows: Rows,
        movable: &mut dyn FnMut(u32) -> bool,
        work: &mut Work,
    ) -> Result<(Vec<i64>, Fewest), Fault> {
        let movable = &mut |index: u32| movable(self.operand_fields[index as usize]);
        let mut tableau = self.tableau(rows, work)?;
        let mut values = vec![0; self.variables.len()];
        let (ranges, fewest) = self.fit(&tableau, &mut values, movable, work)?;
        match minimise(&mut tableau, &ranges, &mut values, work) {
            // Whatever was reached holds and fits.
            Ok(()) | Err(Fault::Exhausted | Fault::Overflow) => Ok((values, fewest)),
            Err(fault) => Err(fault),
        }
    }

    /// The rows, solved for words before bytes before absent ones, so that rows without a word are
    /// what restricts bytes, and rows of absent ones only are where something has to give.
    /// Constants that little depends on come first: that keeps the rows short.
    fn tableau(&self, rows: Rows, work: &mut Work) -> Result<Tableau, Fault> {
        const CLASS: u32 = 1 << 28;
        let rank = |variable: u32| {
            let class = match self.variables[variable as usize].width {
                Width::I32 => 0,
                Width::I8 => CLASS,
                Width::None => 2 * CLASS,
            };
            class + self.occurrences[variable as usize].min(CLASS - 1)
        };
        let mut tableau = Tableau::new(self.variables.len());
        for (terms, total) in rows {
            tableau.add(terms, total, rank, work)?;
        }
        Ok(tableau)
    }

    /// Finds values that fit, and the ranges within which they may still be moved.
    fn fit(
        &self,
        tableau: &Tableau,
        values: &mut [i64],
        movable: &mut dyn FnMut(u32) -> bool,
        work: &mut Work,
    ) -> Result<(Vec<Range>, Fewest), Fault> {
        let mut search = Search::new(tableau, &self.variables, movable);
        let mut fewest = Fewest::Yes;
        let (absorbing, strict): (Vec<u32>, Vec<u32>) =
            (0..tableau.rows().len() as u32).partition(|&row| {
                let row = &tableau.rows()[row as usize];
                row.divisor == 1 && self.variables[row.pivot as usize].width == Width::I32
            });
        for group in connected(tableau, &strict, self.variables.len()) {
            if !self.hold(tableau, &group, values)
                && search.solve(&group, values, work)? == Fewest::Unknown
            {
                fewest = Fewest::Unknown;
            }
        }
        if !self.hold(tableau, &absorbing, values) {
            // A word does not reach either: now every row restricts.
            let all: Vec<u32> = (0..tableau.rows().len() as u32).collect();
            fewest = search.solve(&all, values, work)?;
        }
        Ok((search.into_ranges(), fewest))
    }

    /// Calculates the pivots of `rows`; whether all of them fit.
    fn hold(&self, tableau: &Tableau, rows: &[u32], values: &mut [i64]) -> bool {
        let mut hold = true;
        for &row in rows {
            let row = &tableau.rows()[row as usize];
            let fits = self.variables[row.pivot as usize].fits;
            match row.solve(values) {
                Some(value) => {
                    hold &= fits.contains(value);
                    values[row.pivot as usize] = value;
                }
                None => hold = false,
            }
        }
        hold
    }
}

/// Puts rows that share variables together.
fn connected(tableau: &Tableau, rows: &[u32], variables: usize) -> Vec<Vec<u32>> {
    let mut groups = Groups::new(variables);
    for &row in rows {
        let row = &tableau.rows()[row as usize];
        for &(variable, _) in &row.terms {
            groups.join(row.pivot, variable);
        }
    }
    let mut members: Vec<(u32, u32)> = rows
        .iter()
        .map(|&row| (groups.find(tableau.rows()[row as usize].pivot), row))
        .collect();
    members.sort_unstable();
    members
        .chunk_by(|a, b| a.0 == b.0)
        .map(|group| group.iter().map(|member| member.1).collect())
        .collect()
}

/// Which of a number of things belong together.
struct Groups(Vec<u32>);

impl Groups {
    fn new(count: usize) -> Self {
        Self((0..count as u32).collect())
    }

    /// The group of `item`, named by one of its members.
    fn find(&mut self, mut item: u32) -> u32 {
        while self.0[item as usize] != item {
            let above = self.0[self.0[item as usize] as usize];
            self.0[item as usize] = above;
            item = above;
        }
        item
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        self.0[a.max(b) as usize] = a.min(b);
    }
}
