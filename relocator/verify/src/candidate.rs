//! A function that is to be checked, and what it is called for.

use super::calls::{self, CheckedFunction};
use super::child::Progress;
use super::entry::Entry;
use super::outcome::FunctionOutcome;
use crate::Result;
use relocator::plan::{FunctionPlan, Strategy};

/// A function of an image that was mapped.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    /// Its names, the one that it is reported under first.
    pub(super) names: &'a [String],
    /// What linking did to it; `None` for one that runs unlinked, on its own kernel.
    pub(super) strategy: Option<Strategy>,
    /// Why.
    pub(super) reason: String,
    /// Where it is called; `None` if it has no system call to be compared with.
    pub(super) entry: Option<Entry>,
    /// The kernel's own function of that name.
    pub(super) native: Option<Entry>,
    /// The same function on its own kernel, if it was linked and that is emulated.
    pub(super) home: Option<Entry>,
}

impl<'a> Candidate<'a> {
    /// A function that was linked.
    pub(super) fn linked(
        plan: &'a FunctionPlan,
        entry: Option<Entry>,
        native: Option<Entry>,
    ) -> Self {
        Self {
            names: &plan.names,
            strategy: Some(plan.strategy),
            reason: plan.reason.to_string(),
            entry,
            native,
            home: None,
        }
    }

    pub(super) fn name(&self) -> &'a str {
        self.names.first().map_or("", String::as_str)
    }

    /// Calls it in every way that is known, and compares.
    pub(super) fn check(&self, rounds: u32, progress: &mut Progress) -> Result<FunctionOutcome> {
        let Some(entry) = self.entry else {
            return Ok(FunctionOutcome::not_called(self));
        };
        let function = CheckedFunction {
            name: self.name(),
            entry,
            native: self.native,
            home: self.home,
            is_stub: self.strategy == Some(Strategy::Syscall),
            rounds,
        };
        let tally = calls::check(&function, progress)?;
        Ok(FunctionOutcome::called(self, tally))
    }
}
