//! Ranges of variables, made narrower by the rows that the variables are in.

use super::Fault;
use super::combine;
use super::tableau::{Row, Tableau, Work, greatest_common_divisor};
use super::variable::Range;

/// Most rounds in which rows narrow each other's ranges. More would only find what splitting finds
/// as well.
const MAX_ROUNDS: u32 = 32;

/// Ranges and how they came to be what they are.
pub(super) struct Ranges<'a> {
    tableau: &'a Tableau,
    ranges: Vec<Range>,
    trail: Vec<Step>,
    /// Counts looks at rows.
    now: u64,
    /// When each variable's range changed last.
    changed: Vec<u64>,
    /// When each row was looked at last, if it could hold then.
    seen: Vec<u64>,
    /// Memory for [`Ranges::blame`].
    involved: Vec<bool>,
}

/// A range that became narrower.
struct Step {
    variable: u32,
    /// The row that demanded it; `None` for a guess.
    row: Option<u32>,
    before: Range,
}

/// Why rows cannot hold.
#[derive(Debug, Clone)]
pub(super) enum Conflict {
    /// Its terms cannot add up to so much or so little.
    Bounds(u32),
    /// What its decided terms leave is not divisible by the coefficients of the others, whatever
    /// their values.
    Division(u32),
    /// These rows contradict each other, whatever the values of their undecided terms.
    Together(Vec<u32>),
}

impl<'a> Ranges<'a> {
    pub(super) fn new(tableau: &'a Tableau, ranges: Vec<Range>) -> Self {
        Self {
            tableau,
            now: 1,
            changed: vec![1; ranges.len()],
            seen: vec![0; tableau.rows().len()],
            involved: vec![false; ranges.len()],
            ranges,
            trail: Vec::new(),
        }
    }

    pub(super) fn row(&self, index: u32) -> &'a Row {
        &self.tableau.rows()[index as usize]
    }

    pub(super) fn of(&self, variable: u32) -> Range {
        self.ranges[variable as usize]
    }

    pub(super) fn into_inner(self) -> Vec<Range> {
        self.ranges
    }

    /// Sets what a variable's range is from the beginning.
    pub(super) fn begin(&mut self, variable: u32, range: Range) {
        debug_assert!(self.trail.is_empty());
        self.ranges[variable as usize] = range;
        self.changed[variable as usize] = self.now;
    }

    pub(super) fn guess(&mut self, variable: u32, range: Range) {
        self.set(variable, range, None);
    }

    /// How far narrowing has come, for [`Ranges::undo`].
    pub(super) fn mark(&self) -> usize {
        self.trail.len()
    }

    pub(super) fn undo(&mut self, mark: usize) {
        for step in self.trail.drain(mark..).rev() {
            self.ranges[step.variable as usize] = step.before;
            self.changed[step.variable as usize] = self.now;
        }
    }

    /// Narrows ranges to what the rows leave possible. Returns a row that leaves nothing.
    pub(super) fn narrow(
        &mut self,
        rows: &[u32],
        work: &mut Work,
    ) -> Result<Option<Conflict>, Fault> {
        for _ in 0..MAX_ROUNDS {
            let before = self.trail.len();
            for &index in rows {
                let row = self.row(index);
                work.spend(row.terms.len())?;
                let seen = self.seen[index as usize];
                if row
                    .terms
                    .iter()
                    .all(|term| self.changed[term.0 as usize] <= seen)
                {
                    continue;
                }
                let now = self.now;
                self.now += 1;
                if let Err(conflict) = self.narrow_by(index, row) {
                    return Ok(Some(conflict));
                }
                self.seen[index as usize] = now;
            }
            if self.trail.len() == before {
                break;
            }
        }
        Ok(None)
    }

    /// Whether rows contradict each other in a way that narrowing does not find.
    pub(super) fn contradiction(
        &self,
        rows: &[u32],
        work: &mut Work,
    ) -> Result<Option<Conflict>, Fault> {
        let rows = rows.iter().map(|&row| (row, self.row(row)));
        let found = combine::contradiction(rows, &self.ranges, work)?;
        Ok(found.map(Conflict::Together))
    }

    /// Narrows the ranges of one row's variables.
    fn narrow_by(&mut self, index: u32, row: &Row) -> Result<(), Conflict> {
        let (mut least, mut most) = (0i128, 0i128);
        for &(variable, coefficient) in &row.terms {
            let (low, high) = extent(self.of(variable), coefficient);
            least += low;
            most += high;
        }
        let total = i128::from(row.total);
        if total < least || total > most {
            return Err(Conflict::Bounds(index));
        }
        if !self.divides(row) {
            return Err(Conflict::Division(index));
        }
        for &(variable, coefficient) in &row.terms {
            let range = self.of(variable);
            let (low, high) = extent(range, coefficient);
            if high - low <= (most - total).min(total - least) {
                // The others can make up for whatever it is.
                continue;
            }
            let product = (total - (most - high), total - (least - low));
            let allowed = quotients(product, coefficient);
            let narrower = Range {
                low: range.low.max(saturate(allowed.0)),
                high: range.high.min(saturate(allowed.1)),
            };
            if narrower.low > narrower.high {
                return Err(Conflict::Bounds(index));
            }
            if narrower != range {
                self.set(variable, narrower, Some(index));
                let now = extent(narrower, coefficient);
                least += now.0 - low;
                most += now.1 - high;
            }
        }
        Ok(())
    }

    /// Whether what the undecided variables have to add up to is divisible by what their
    /// coefficients have in common.
    fn divides(&self, row: &Row) -> bool {
        let (mut common, mut rest) = (0u64, i128::from(row.total));
        for &(variable, coefficient) in &row.terms {
            let range = self.of(variable);
            if range.is_open() {
                common = greatest_common_divisor(common, coefficient.unsigned_abs());
            } else {
                rest -= i128::from(coefficient) * i128::from(range.low);
            }
            if common == 1 {
                return true;
            }
        }
        common == 0 || rest % i128::from(common) == 0
    }

    fn set(&mut self, variable: u32, range: Range, row: Option<u32>) {
        let place = &mut self.ranges[variable as usize];
        let before = std::mem::replace(place, range);
        self.changed[variable as usize] = self.now;
        self.trail.push(Step {
            variable,
            row,
            before,
        });
    }

    /// Blames every variable whose range took part in the conflict: those in its row, and, back in
    /// time, those in rows that narrowed the range of a blamed one.
    pub(super) fn blame(
        &mut self,
        conflict: Conflict,
        blamed: &mut [bool],
        work: &mut Work,
    ) -> Result<(), Fault> {
        work.spend(self.trail.len() + self.ranges.len())?;
        self.involved.fill(false);
        let (rows, only_decided) = match conflict {
            Conflict::Bounds(row) => (vec![row], false),
            Conflict::Division(row) => (vec![row], true),
            Conflict::Together(rows) => (rows, true),
        };
        for row in rows {
            for &(variable, _) in &self.row(row).terms {
                self.involved[variable as usize] |= !only_decided || !self.of(variable).is_open();
            }
        }
        for step in self.trail.iter().rev() {
            if let (true, Some(row)) = (self.involved[step.variable as usize], step.row) {
                for &(variable, _) in &self.tableau.rows()[row as usize].terms {
                    self.involved[variable as usize] = true;
                }
            }
        }
        for (blamed, involved) in blamed.iter_mut().zip(&self.involved) {
            *blamed |= involved;
        }
        Ok(())
    }
}

/// Least and greatest product of a value and a coefficient.
fn extent(range: Range, coefficient: i64) -> (i128, i128) {
    let [low, high] = [range.low, range.high].map(|end| i128::from(end) * i128::from(coefficient));
    if coefficient < 0 {
        (high, low)
    } else {
        (low, high)
    }
}

/// The integers whose product with `divisor` lies within `bounds`, as bounds themselves.
fn quotients(bounds: (i128, i128), divisor: i64) -> (i128, i128) {
    let (low, high) = match divisor > 0 {
        true => bounds,
        false => (-bounds.1, -bounds.0),
    };
    let divisor = divisor.unsigned_abs();
    (-quotient(-low, divisor), quotient(high, divisor))
}

/// Rounded down. Almost all numbers are small, and dividing long ones takes long.
fn quotient(dividend: i128, divisor: u64) -> i128 {
    match (i64::try_from(dividend), i64::try_from(divisor)) {
        (_, Ok(1)) => dividend,
        (Ok(dividend), Ok(divisor)) => i128::from(dividend.div_euclid(divisor)),
        _ => dividend.div_euclid(i128::from(divisor)),
    }
}

fn saturate(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}
