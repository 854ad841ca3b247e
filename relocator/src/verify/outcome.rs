//! What verifying found.

use serde::{Deserialize, Serialize};

use super::calls::Tally;
use super::candidate::Candidate;
use super::how::How;

/// What verifying an image found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// Every distinct function, by entry point.
    pub functions: Vec<FunctionOutcome>,
}

impl Outcome {
    /// Number of calls that were compared.
    pub fn calls(&self) -> u64 {
        self.functions.iter().map(|function| function.calls).sum()
    }

    /// Number of calls that differed.
    pub fn mismatches(&self) -> u64 {
        self.functions
            .iter()
            .map(|function| function.mismatches)
            .sum()
    }
}

/// What verifying one function found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FunctionOutcome {
    /// Its name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// What linking did to it, if it was linked.
    pub strategy: How,
    /// Why; and where it was not called, why that was.
    pub reason: String,
    /// Number of calls.
    pub calls: u64,
    /// Number of calls that differed from the system call.
    pub mismatches: u64,
    /// Number of calls that were repeated because the wall clock seemed to have been set meanwhile.
    pub repeated: u64,
    /// Number of calls that differed from the system call, but exactly as the running kernel's own vDSO does. They are
    /// not counted as mismatches.
    pub like_native: u64,
    /// Number of calls that differed from the system call and from the kernel's own vDSO, but exactly as the old image does
    /// unlinked on its own kernel. They are not counted as mismatches.
    pub like_home: u64,
    /// The first difference, in words.
    pub first_mismatch: Option<String>,
}

impl FunctionOutcome {
    /// The outcome of a function that was called.
    pub(super) fn called(candidate: &Candidate<'_>, tally: Tally) -> Self {
        Self {
            name: candidate.name().to_owned(),
            aliases: candidate.names.iter().skip(1).cloned().collect(),
            strategy: candidate.how,
            reason: candidate.reason.to_owned(),
            calls: tally.calls,
            mismatches: tally.mismatches,
            repeated: tally.repeated,
            like_native: tally.like_native,
            like_home: tally.like_home,
            first_mismatch: tally.first_mismatch,
        }
    }

    /// The outcome of a function that there is nothing to compare with.
    pub(super) fn not_called(candidate: &Candidate<'_>) -> Self {
        let reason = format!(
            "{}; not called: no system call does the same",
            candidate.reason
        );
        Self {
            reason,
            ..Self::called(candidate, Tally::default())
        }
    }

    /// What was counted.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            calls: self.calls,
            mismatches: self.mismatches,
            repeated: self.repeated,
            like_native: self.like_native,
            like_home: self.like_home,
            first_mismatch: self.first_mismatch.clone(),
        }
    }

    /// Adds what was counted elsewhere.
    pub(super) fn add(&mut self, tally: Tally) {
        self.calls += tally.calls;
        self.mismatches += tally.mismatches;
        self.repeated += tally.repeated;
        self.like_native += tally.like_native;
        self.like_home += tally.like_home;
        self.first_mismatch = self.first_mismatch.take().or(tally.first_mismatch);
    }
}
