//! What a comparison has found.

use serde::{Deserialize, Serialize};

use super::cost::Cost;
use super::failure::Failure;
use super::flight::Flight;
use crate::Approach;
use crate::calls::Tally;

/// Every old image in every way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Comparison {
    /// By old image, as they were given.
    pub olds: Vec<OldComparison>,
}

/// One old image in every way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OldComparison {
    /// Its name.
    pub name: String,
    /// By way, in the order of [`Approach::ALL`].
    pub rows: Vec<Row>,
}

/// One old image in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Row {
    /// Which.
    pub approach: Approach,
    /// Number of the old image's functions that can go on so.
    pub covered: usize,
    /// Number of the old image's distinct functions that there is a system call to compare with.
    pub functions: usize,
    /// Number of calls that were compared.
    pub calls: u64,
    /// Number of calls that differed from the system call.
    pub mismatches: u64,
    /// Number of calls that differed from the system call, but exactly as the running kernel's own
    /// vDSO does. They are not counted as mismatches.
    pub like_native: u64,
    /// The first difference, in words.
    pub first_mismatch: Option<String>,
    /// The same by function, of those that were called.
    pub checks: Vec<Check>,
    /// Cost by call, of those that were called.
    pub timings: Vec<Timing>,
    /// What it costs to apply.
    pub cost: Option<Cost>,
    /// The way whose code this is as well: it was not run once more.
    pub code_of: Option<Approach>,
    /// What becomes of threads that are inside when the kernel is swapped.
    pub in_flight: Option<Flight>,
    /// Why that was not measured.
    pub no_in_flight: Option<String>,
    /// Why functions are not covered, or nothing could be run at all.
    pub reason: Option<String>,
    /// What has kept it from being measured, if something has.
    pub failure: Option<Failure>,
}

/// One function in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Whether it goes on in this way; else it is as the way leaves it.
    pub covered: bool,
    /// Number of calls.
    pub calls: u64,
    /// Number of calls that differed from the system call.
    pub mismatches: u64,
    /// The first difference, in words.
    pub first_mismatch: Option<String>,
}

/// What one call costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Timing {
    /// Which, for example `clock_gettime(MONOTONIC)`.
    pub call: String,
    /// Nanoseconds a call, the median over batches.
    #[serde(rename = "ns")]
    pub nanoseconds: f64,
    /// The median over batches of the ratio to the native call of the same batch, where there is
    /// one.
    pub ratio: Option<f64>,
    /// Whether it returns something else than the system call does: then it is no bargain.
    pub wrong: bool,
}

impl Row {
    /// Nothing measured yet, of that many functions; `reason` says why not, if nothing will be.
    pub fn empty(approach: Approach, functions: usize, reason: Option<String>) -> Self {
        Self {
            approach,
            covered: 0,
            functions,
            calls: 0,
            mismatches: 0,
            like_native: 0,
            first_mismatch: None,
            checks: Vec::new(),
            timings: Vec::new(),
            cost: None,
            code_of: None,
            in_flight: None,
            no_in_flight: None,
            reason,
            failure: None,
        }
    }

    /// Notes a failure, unless there is one already, and says it in words.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.reason = Some(failure.to_string());
        self.failure.get_or_insert(failure);
    }

    /// The cost of a call by its name.
    pub fn timing(&self, call: &str) -> Option<&Timing> {
        self.timings.iter().find(|timing| timing.call == call)
    }

    /// Adds a function that was checked.
    pub fn add(&mut self, name: &str, covered: bool, tally: Tally) {
        self.covered += usize::from(covered);
        self.checks.push(Check {
            name: name.to_owned(),
            covered,
            calls: tally.calls,
            mismatches: tally.mismatches,
            first_mismatch: tally.first_mismatch.clone(),
        });
        self.calls += tally.calls;
        self.mismatches += tally.mismatches;
        self.like_native += tally.like_native;
        let first = tally.first_mismatch.map(|what| format!("{name}, {what}"));
        self.first_mismatch = self.first_mismatch.take().or(first);
    }
}
