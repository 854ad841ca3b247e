//! Minimising changes: leaving constants alone where possible.
//!
//! Given values that hold and fit, this shifts one free variable after the other, together with the
//! pivots of the rows it is in, whenever that makes the number of changed constants smaller. Where
//! a shift brings a pivot back to its old value the two change roles, so that the next shifts go in
//! other directions. The result is the best that such steps reach, which is not always the best
//! there is.

use super::Fault;
use super::tableau::{Tableau, Work};
use super::variable::Range;

/// Makes fewer of `values`, which are changes, differ from 0. Every value stays in its range.
pub(super) fn minimise(
    tableau: &mut Tableau,
    ranges: &[Range],
    values: &mut [i64],
    work: &mut Work,
) -> Result<(), Fault> {
    let mut column = Vec::new();
    let mut improved = true;
    while improved {
        improved = false;
        for variable in 0..values.len() as u32 {
            let range = ranges[variable as usize];
            if tableau.is_pivot(variable) || range.low == range.high {
                continue;
            }
            read_column(tableau, variable, &mut column, work)?;
            let Some(shift) = best_shift(variable, &column, ranges, values, work)? else {
                continue;
            };
            improved = true;
            values[variable as usize] += shift;
            let mut exchange = None;
            for entry in &column {
                let value = &mut values[entry.pivot as usize];
                let before = *value;
                *value = entry.shifted(before, shift).unwrap_or(before);
                let is_unit = entry.coefficient.unsigned_abs() == 1;
                if *value == 0 && before != 0 && is_unit {
                    exchange = exchange.or(Some(entry.row));
                }
            }
            if let (Some(row), true) = (exchange, values[variable as usize] != 0) {
                tableau.solve_for(row, variable, work)?;
            }
        }
    }
    Ok(())
}

/// A row that a free variable is in.
struct Entry {
    row: usize,
    pivot: u32,
    divisor: i64,
    coefficient: i64,
}

impl Entry {
    /// The pivot's value after the free variable was shifted.
    fn shifted(&self, value: i64, shift: i64) -> Option<i64> {
        let change = i128::from(self.coefficient) * i128::from(shift);
        let divisor = i128::from(self.divisor);
        (change % divisor == 0)
            .then(|| i64::try_from(i128::from(value) - change / divisor).ok())
            .flatten()
    }

    /// The shift that makes the pivot's value 0.
    fn shift_to_zero(&self, value: i64) -> Option<i64> {
        let change = i128::from(value) * i128::from(self.divisor);
        let coefficient = i128::from(self.coefficient);
        (change % coefficient == 0)
            .then(|| i64::try_from(change / coefficient).ok())
            .flatten()
    }
}

fn read_column(
    tableau: &Tableau,
    variable: u32,
    column: &mut Vec<Entry>,
    work: &mut Work,
) -> Result<(), Fault> {
    work.spend(tableau.rows().len())?;
    column.clear();
    for (index, row) in tableau.rows().iter().enumerate() {
        let coefficient = row.coefficient(variable);
        if coefficient != 0 {
            column.push(Entry {
                row: index,
                pivot: row.pivot,
                divisor: row.divisor,
                coefficient,
            });
        }
    }
    Ok(())
}

/// The shift after which fewest values of the column differ from 0, if that is fewer than now.
fn best_shift(
    variable: u32,
    column: &[Entry],
    ranges: &[Range],
    values: &[i64],
    work: &mut Work,
) -> Result<Option<i64>, Fault> {
    let own = values[variable as usize];
    let now = column
        .iter()
        .filter(|entry| values[entry.pivot as usize] != 0)
        .count()
        + usize::from(own != 0);
    let mut best = (now, None);
    let back = (own != 0).then_some(-own);
    let to_zero = column
        .iter()
        .filter(|entry| values[entry.pivot as usize] != 0)
        .filter_map(|entry| entry.shift_to_zero(values[entry.pivot as usize]));
    let mut last = None;
    for shift in back.into_iter().chain(to_zero) {
        // Most pivots of a column move by the same distance.
        if last.replace(shift) == Some(shift) {
            continue;
        }
        work.spend(column.len())?;
        if let Some(changed) = changed_after(shift, variable, column, ranges, values)
            && changed < best.0
        {
            best = (changed, Some(shift));
        }
    }
    Ok(best.1)
}

/// How many values of the column would differ from 0; `None` if one would leave its range.
fn changed_after(
    shift: i64,
    variable: u32,
    column: &[Entry],
    ranges: &[Range],
    values: &[i64],
) -> Option<usize> {
    let within = |variable: u32, value: i64| {
        ranges[variable as usize]
            .contains(value)
            .then_some(usize::from(value != 0))
    };
    let own = values[variable as usize].checked_add(shift)?;
    let mut changed = within(variable, own)?;
    for entry in column {
        let value = entry.shifted(values[entry.pivot as usize], shift)?;
        changed += within(entry.pivot, value)?;
    }
    Some(changed)
}
