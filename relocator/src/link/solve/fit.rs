//! Values that fit their instructions, with as few exceptions as can be.
//!
//! Words take up almost any change, so only rows without a word in the pivot's place restrict anything. The search asks
//! whether such rows can hold with a given set of exceptions; if not, one of the constants that the contradiction came
//! from has to be an exception too. It tries these in turn, with one more exception each time none is found.

use elf_tools::relocation::Width;

use super::Fault;
use super::tableau::{Row, Tableau, Work, greatest_common_divisor};

/// Most nodes of one search for values, which is also how deep it may recurse. Groups of constants that restrict each
/// other are small: as many nodes as constants are almost always enough.
const MAX_NODES: u32 = 1024;

/// Most rounds in which rows narrow each other's ranges. More would only find what splitting finds as well.
const MAX_ROUNDS: u32 = 32;

/// Share of the remaining work that looking for the fewest exceptions may take before any number is accepted.
const DEEPENING_SHARE: u64 = 4;

/// Inclusive bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Range {
    pub(super) fn contains(self, value: i64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// By how much a constant can change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variable {
    pub(super) width: Width,
    /// While it stays where it is.
    pub(super) fits: Range,
    /// If its instruction is moved out of line.
    pub(super) reach: Range,
}

impl Variable {
    /// The variable of a constant that is stored in `width` and has `value`.
    pub(super) fn new(width: Width, value: i64) -> Self {
        let word = Range {
            low: i64::from(i32::MIN) - value,
            high: i64::from(i32::MAX) - value,
        };
        let fits = match width {
            Width::Absent => Range { low: 0, high: 0 },
            Width::Byte => Range {
                low: i64::from(i8::MIN) - value,
                high: i64::from(i8::MAX) - value,
            },
            Width::Word => word,
        };
        Self {
            width,
            fits,
            reach: word,
        }
    }

    /// Whether moving the instruction gains anything.
    fn is_narrow(self) -> bool {
        self.fits != self.reach
    }
}

/// Whether fewer exceptions were ruled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fewest {
    Yes,
    /// The search was cut short.
    Unknown,
}

/// Finds values of a tableau's variables.
pub(super) struct Search<'a> {
    tableau: &'a Tableau,
    variables: &'a [Variable],
    /// Whether the instruction of a variable can be moved out of line.
    movable: &'a mut dyn FnMut(u32) -> bool,
    /// Answers of `movable`.
    asked: Vec<Option<bool>>,
    ranges: Vec<Range>,
    /// Variables that may leave `fits`.
    exceptions: Vec<bool>,
    /// Variables that the search has tried as exceptions in all ways already.
    barred: Vec<bool>,
    trail: Vec<Step>,
    blamed: Vec<bool>,
    nodes: u32,
}

/// A range that became narrower.
struct Step {
    variable: u32,
    /// The row that demanded it; `None` for a guess.
    row: Option<u32>,
    before: Range,
}

/// The answer to whether values exist.
enum Answer {
    Yes,
    No,
    Unknown,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        tableau: &'a Tableau,
        variables: &'a [Variable],
        movable: &'a mut dyn FnMut(u32) -> bool,
    ) -> Self {
        let count = variables.len();
        Self {
            tableau,
            variables,
            movable,
            asked: vec![None; count],
            ranges: variables.iter().map(|variable| variable.fits).collect(),
            exceptions: vec![false; count],
            barred: vec![false; count],
            trail: Vec::new(),
            blamed: vec![false; count],
            nodes: 0,
        }
    }

    /// Changes `values` so that `rows`, which share variables, hold. What may be used as an exception is in
    /// [`Search::into_ranges`] afterwards.
    pub(super) fn solve(
        &mut self,
        rows: &[u32],
        values: &mut [i64],
        work: &mut Work,
    ) -> Result<Fewest, Fault> {
        let share = work.0 / DEEPENING_SHARE;
        let mut deepening = Work(share);
        let found = self.deepen(rows, values, &mut deepening);
        work.0 -= share - deepening.0;
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
        self.ranges
    }

    fn deepen(
        &mut self,
        rows: &[u32],
        values: &mut [i64],
        work: &mut Work,
    ) -> Result<Fewest, Fault> {
        let mut fewest = Fewest::Yes;
        for exceptions in 0.. {
            // Before looking at pairs: whether there is any point in it.
            if exceptions == 2 {
                self.with_any_exceptions(rows, &mut values.to_vec(), work)?;
            }
            self.reset(rows);
            let mut cut = false;
            if self.descend(rows, exceptions, values, &mut cut, &mut fewest, work)? {
                return Ok(fewest);
            }
            if !cut {
                break;
            }
        }
        match fewest {
            Fewest::Yes => Err(Fault::Contradiction),
            Fewest::Unknown => Err(Fault::Exhausted),
        }
    }

    /// Looks for values with at most `more` further exceptions. `cut` is set if even more could help.
    fn descend(
        &mut self,
        rows: &[u32],
        more: u32,
        values: &mut [i64],
        cut: &mut bool,
        fewest: &mut Fewest,
        work: &mut Work,
    ) -> Result<bool, Fault> {
        self.blamed.fill(false);
        match self.values_exist(rows, values, work)? {
            Answer::Yes => return Ok(true),
            Answer::No => {}
            Answer::Unknown => {
                *fewest = Fewest::Unknown;
                self.blame_all(rows);
            }
        }
        let candidates = self.candidates();
        if more == 0 {
            *cut |= !candidates.is_empty();
            return Ok(false);
        }
        let mut found = false;
        for &candidate in &candidates {
            self.except(candidate);
            found = self.descend(rows, more - 1, values, cut, fewest, work)?;
            if found {
                break;
            }
            self.exceptions[candidate as usize] = false;
            self.ranges[candidate as usize] = self.variables[candidate as usize].fits;
            self.barred[candidate as usize] = true;
        }
        for &candidate in &candidates {
            self.barred[candidate as usize] = false;
        }
        Ok(found)
    }

    /// Any solution at all: every constant that can be moved may be.
    fn with_any_exceptions(
        &mut self,
        rows: &[u32],
        values: &mut [i64],
        work: &mut Work,
    ) -> Result<(), Fault> {
        self.reset(rows);
        self.blame_all(rows);
        let candidates = self.candidates();
        for &candidate in &candidates {
            self.except(candidate);
        }
        let answer = self.values_exist(rows, values, work)?;
        for &candidate in &candidates {
            let index = candidate as usize;
            let fits = self.variables[index].fits;
            self.exceptions[index] = !fits.contains(values[index]);
            if !self.exceptions[index] {
                self.ranges[index] = fits;
            }
        }
        match answer {
            Answer::Yes => Ok(()),
            Answer::No => Err(Fault::Contradiction),
            Answer::Unknown => Err(Fault::Exhausted),
        }
    }

    /// No exceptions, whatever was left by a search that was cut short.
    fn reset(&mut self, rows: &[u32]) {
        self.trail.clear();
        self.blamed.fill(false);
        for &row in rows {
            for &(variable, _) in &self.tableau.rows()[row as usize].terms {
                let index = variable as usize;
                self.ranges[index] = self.variables[index].fits;
                self.exceptions[index] = false;
                self.barred[index] = false;
            }
        }
    }

    fn except(&mut self, variable: u32) {
        self.exceptions[variable as usize] = true;
        self.ranges[variable as usize] = self.variables[variable as usize].reach;
    }

    /// Blamed constants that could be exceptions.
    fn candidates(&mut self) -> Vec<u32> {
        let mut candidates = Vec::new();
        for index in 0..self.variables.len() {
            let eligible = self.blamed[index]
                && self.variables[index].is_narrow()
                && !self.exceptions[index]
                && !self.barred[index];
            if eligible && *self.asked[index].get_or_insert_with(|| (self.movable)(index as u32)) {
                candidates.push(index as u32);
            }
        }
        candidates
    }

    /// Whether `rows` can hold within the ranges; if so, `values` has how, and if not, whoever took part is blamed.
    fn values_exist(
        &mut self,
        rows: &[u32],
        values: &mut [i64],
        work: &mut Work,
    ) -> Result<Answer, Fault> {
        self.nodes = 0;
        self.trail.clear();
        let answer = self.split(rows, work);
        if let Ok(Answer::Yes) = answer {
            for &row in rows {
                for &(variable, _) in &self.row(row).terms {
                    values[variable as usize] = self.ranges[variable as usize].low;
                }
            }
        }
        self.undo(0);
        answer
    }

    fn split(&mut self, rows: &[u32], work: &mut Work) -> Result<Answer, Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Ok(Answer::Unknown);
        }
        if let Some(row) = self.narrow(rows, work)? {
            self.blame(row, work)?;
            return Ok(Answer::No);
        }
        let open = |variable: &u32| {
            let range = self.ranges[*variable as usize];
            range.low < range.high
        };
        // Once all others are fixed, so are the pivots.
        let undecided = rows
            .iter()
            .flat_map(|&row| self.row(row).free())
            .map(|term| term.0)
            .find(open);
        let pivot = || rows.iter().map(|&row| self.row(row).pivot).find(open);
        let Some(variable) = undecided.or_else(pivot) else {
            return Ok(Answer::Yes);
        };
        let Range { low, high } = self.ranges[variable as usize];
        let nearest = 0i64.clamp(low, high);
        let parts = [
            (nearest, nearest),
            (low, nearest.saturating_sub(1)),
            (nearest.saturating_add(1), high),
        ];
        let mark = self.trail.len();
        let mut answer = Answer::No;
        for (low, high) in parts.into_iter().filter(|part| part.0 <= part.1) {
            self.set(variable, Range { low, high }, None);
            match self.split(rows, work)? {
                Answer::Yes => return Ok(Answer::Yes),
                Answer::Unknown => answer = Answer::Unknown,
                Answer::No => {}
            }
            self.undo(mark);
        }
        Ok(answer)
    }

    /// Narrows ranges to what the rows leave possible. Returns a row that leaves nothing.
    fn narrow(&mut self, rows: &[u32], work: &mut Work) -> Result<Option<u32>, Fault> {
        for _ in 0..MAX_ROUNDS {
            let before = self.trail.len();
            for &index in rows {
                let row = &self.tableau.rows()[index as usize];
                work.spend(row.terms.len())?;
                if !self.narrow_row(index, row) {
                    return Ok(Some(index));
                }
            }
            if self.trail.len() == before {
                break;
            }
        }
        Ok(None)
    }

    /// Narrows the ranges of one row's variables; `false` if nothing is left of one.
    fn narrow_row(&mut self, index: u32, row: &Row) -> bool {
        let extent = |range: Range, coefficient: i64| {
            let ends = [range.low, range.high].map(|end| i128::from(end) * i128::from(coefficient));
            (ends[0].min(ends[1]), ends[0].max(ends[1]))
        };
        let (mut least, mut most) = (0i128, 0i128);
        for &(variable, coefficient) in &row.terms {
            let (low, high) = extent(self.ranges[variable as usize], coefficient);
            least += low;
            most += high;
        }
        let total = i128::from(row.total);
        if total < least || total > most || !self.divides(row) {
            return false;
        }
        for &(variable, coefficient) in &row.terms {
            let range = self.ranges[variable as usize];
            let (low, high) = extent(range, coefficient);
            let product = (total - (most - high), total - (least - low));
            let allowed = quotients(product, i128::from(coefficient));
            let narrower = Range {
                low: range.low.max(saturate(allowed.0)),
                high: range.high.min(saturate(allowed.1)),
            };
            if narrower.low > narrower.high {
                return false;
            }
            if narrower != range {
                self.set(variable, narrower, Some(index));
                let now = extent(narrower, coefficient);
                least += now.0 - low;
                most += now.1 - high;
            }
        }
        true
    }

    /// Whether what the undecided variables have to add up to is divisible by what their coefficients have in common.
    fn divides(&self, row: &Row) -> bool {
        let (mut common, mut rest) = (0u64, i128::from(row.total));
        for &(variable, coefficient) in &row.terms {
            let range = self.ranges[variable as usize];
            if range.low == range.high {
                rest -= i128::from(coefficient) * i128::from(range.low);
            } else {
                common = greatest_common_divisor(common, coefficient.unsigned_abs());
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
        self.trail.push(Step {
            variable,
            row,
            before,
        });
    }

    fn undo(&mut self, mark: usize) {
        for step in self.trail.drain(mark..).rev() {
            self.ranges[step.variable as usize] = step.before;
        }
    }

    /// Blames every variable whose range took part in the contradiction in `row`: those in it, and, back in time, those
    /// in rows that narrowed the range of a blamed one.
    fn blame(&mut self, row: u32, work: &mut Work) -> Result<(), Fault> {
        work.spend(self.trail.len() + self.variables.len())?;
        let mut involved = vec![false; self.variables.len()];
        let mut involve = |row: u32, involved: &mut Vec<bool>| {
            for &(variable, _) in &self.tableau.rows()[row as usize].terms {
                involved[variable as usize] = true;
                self.blamed[variable as usize] = true;
            }
        };
        involve(row, &mut involved);
        for step in self.trail.iter().rev() {
            if let (true, Some(row)) = (involved[step.variable as usize], step.row) {
                involve(row, &mut involved);
            }
        }
        Ok(())
    }

    fn blame_all(&mut self, rows: &[u32]) {
        for &row in rows {
            for &(variable, _) in &self.tableau.rows()[row as usize].terms {
                self.blamed[variable as usize] = true;
            }
        }
    }

    fn row(&self, index: u32) -> &'a Row {
        &self.tableau.rows()[index as usize]
    }
}

/// The integers whose product with `divisor` lies within `bounds`, as bounds themselves.
fn quotients(bounds: (i128, i128), divisor: i128) -> (i128, i128) {
    let (low, high) = match divisor > 0 {
        true => bounds,
        false => (-bounds.1, -bounds.0),
    };
    let divisor = divisor.abs();
    (-(-low).div_euclid(divisor), high.div_euclid(divisor))
}

fn saturate(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}
