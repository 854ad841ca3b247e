//! Whether values exist with which rows hold.

use super::Fault;
use super::narrow::Ranges;
use super::tableau::Work;
use super::variable::Range;

/// Most nodes of one search for values, which is also how deep it may recurse. Groups of constants
/// that restrict each other are small: as many nodes as constants are almost always enough.
const MAX_NODES: u32 = 1024;

/// The answer to whether values exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    Unknown,
}

/// Looks for values by narrowing ranges, and by trying parts of a range where that decides nothing.
pub(super) struct Existence<'a> {
    pub(super) ranges: Ranges<'a>,
    /// Which variables' ranges had to do with the last answer, if that was not [`Answer::Yes`].
    pub(super) blamed: Vec<bool>,
    nodes: u32,
}

impl<'a> Existence<'a> {
    pub(super) fn new(ranges: Ranges<'a>, variables: usize) -> Self {
        Self {
            ranges,
            blamed: vec![false; variables],
            nodes: 0,
        }
    }

    /// Whether `rows` can hold within the ranges; if so, `values` has how.
    pub(super) fn find(
        &mut self,
        rows: &[u32],
        values: &mut [i64],
        work: &mut Work,
    ) -> Result<Answer, Fault> {
        self.nodes = 0;
        self.blamed.fill(false);
        let answer = self.split(rows, work);
        if answer == Ok(Answer::Yes) {
            self.each_variable(rows, |this, variable| {
                values[variable as usize] = this.ranges.of(variable).low;
            });
        }
        self.ranges.undo(0);
        if answer == Ok(Answer::Unknown) {
            self.blame_all(rows);
        }
        answer
    }

    pub(super) fn blame_all(&mut self, rows: &[u32]) {
        self.each_variable(rows, |this, variable| this.blamed[variable as usize] = true);
    }

    /// Calls `visit` with the variables of `rows`.
    pub(super) fn each_variable(&mut self, rows: &[u32], mut visit: impl FnMut(&mut Self, u32)) {
        for &row in rows {
            for &(variable, _) in &self.ranges.row(row).terms {
                visit(self, variable);
            }
        }
    }

    fn split(&mut self, rows: &[u32], work: &mut Work) -> Result<Answer, Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Ok(Answer::Unknown);
        }
        if let Some(conflict) = self.ranges.narrow(rows, work)? {
            self.ranges.blame(conflict, &mut self.blamed, work)?;
            return Ok(Answer::No);
        }
        let is_root = self.nodes == 1;
        let Some(variable) = self.undecided(rows) else {
            return Ok(Answer::Yes);
        };
        let Range { low, high } = self.ranges.of(variable);
        let nearest = 0i64.clamp(low, high);
        let parts = [
            (nearest, nearest),
            (low, nearest.saturating_sub(1)),
            (nearest.saturating_add(1), high),
        ];
        let mark = self.ranges.mark();
        let mut answer = Answer::No;
        let parts = parts.into_iter().filter(|part| part.0 <= part.1);
        for (tried, (low, high)) in parts.enumerate() {
            // Most values are found at once. Where they are not, it may be that no value is any
            // good.
            if is_root
                && tried == 1
                && let Some(conflict) = self.ranges.contradiction(rows, work)?
            {
                self.blamed.fill(false);
                self.ranges.blame(conflict, &mut self.blamed, work)?;
                return Ok(Answer::No);
            }
            self.ranges.guess(variable, Range { low, high });
            match self.split(rows, work)? {
                Answer::Yes => return Ok(Answer::Yes),
                Answer::Unknown => answer = Answer::Unknown,
                Answer::No => {}
            }
            self.ranges.undo(mark);
        }
        Ok(answer)
    }

    /// A variable whose value is still open, pivots last: once all others are fixed, so are they.
    fn undecided(&self, rows: &[u32]) -> Option<u32> {
        let is_open = |variable: &u32| self.ranges.of(*variable).is_open();
        let rows = || rows.iter().map(|&row| self.ranges.row(row));
        let mut free = rows().flat_map(|row| row.free().map(|term| term.0));
        free.find(is_open)
            .or_else(|| rows().map(|row| row.pivot).find(is_open))
    }
}
