//! Contradictions between rows that no single row shows.
//!
//! Two rows may leave each other no integer however large their variables may become, as
//! `a - 16 b = 8` and `a - 16 c = 0` do. Narrowing ranges does not see that, and trying values sees
//! it for one value at a time.

use super::Fault;
use super::tableau::{Row, Work};
use super::variable::Range;

/// A row from which others have been subtracted.
struct Combined {
    row: Row,
    /// Which ones, and the row itself.
    from: Vec<u32>,
}

/// Rows among `rows` that cannot hold together whatever the values of their open variables are.
pub(super) fn contradiction<'a>(
    rows: impl Iterator<Item = (u32, &'a Row)>,
    ranges: &[Range],
    work: &mut Work,
) -> Result<Option<Vec<u32>>, Fault> {
    let mut solved: Vec<Combined> = Vec::new();
    let mut solved_for: Vec<Option<u32>> = vec![None; ranges.len()];
    for (index, row) in rows {
        let Some(row) = without_decided(row, ranges) else {
            continue;
        };
        let from = vec![index];
        let mut combined = Combined { row, from };
        match combined.subtract(&solved, &solved_for, work) {
            Ok(()) => {}
            Err(Fault::Contradiction) => return Ok(Some(combined.from)),
            // Numbers that become too large are no contradiction.
            Err(Fault::Overflow) => continue,
            Err(fault) => return Err(fault),
        }
        let terms = combined.row.terms.iter();
        let Some(&(pivot, _)) = terms.min_by_key(|term| (term.1.unsigned_abs(), term.0)) else {
            continue;
        };
        if combined.row.turn(pivot).is_ok() {
            solved_for[pivot as usize] = Some(solved.len() as u32);
            solved.push(combined);
        }
    }
    Ok(None)
}

/// What a row leaves for its open variables.
fn without_decided(row: &Row, ranges: &[Range]) -> Option<Row> {
    let mut left = Row::default();
    let mut total = i128::from(row.total);
    for &(variable, coefficient) in &row.terms {
        let range = ranges[variable as usize];
        if range.is_open() {
            left.terms.push((variable, coefficient));
        } else {
            total -= i128::from(coefficient) * i128::from(range.low);
        }
    }
    left.total = i64::try_from(total).ok()?;
    Some(left)
}

impl Combined {
    /// Takes everything out that other rows are solved for.
    fn subtract(
        &mut self,
        solved: &[Self],
        solved_for: &[Option<u32>],
        work: &mut Work,
    ) -> Result<(), Fault> {
        let mut scratch = Vec::new();
        loop {
            let terms = self.row.terms.iter();
            // A row has only variables that rows after it are solved for.
            let first = terms.filter_map(|term| solved_for[term.0 as usize]).min();
            let Some(first) = first else {
                break;
            };
            let other = &solved[first as usize];
            work.spend(self.row.terms.len() + other.row.terms.len() + other.from.len())?;
            self.row.eliminate(&other.row, &mut scratch)?;
            self.from.extend(&other.from);
        }
        self.from.sort_unstable();
        self.from.dedup();
        self.row.reduce()
    }
}
