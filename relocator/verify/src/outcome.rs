//! What verifying found.

use relocator::plan::Strategy;
use serde::{Deserialize, Serialize};

use super::calls::Tally;
use super::candidate::Candidate;

/// What verifying an image found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct VerifyOutcome {
    /// Every distinct function, by entry point.
    pub functions: Vec<FunctionOutcome>,
}

impl VerifyOutcome {
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FunctionOutcome {
    /// Its name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// What linking did to it; `None` if it ran unlinked, on its own kernel, which is `native` in
    /// JSON.
    #[serde(with = "strategy_or_native")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub strategy: Option<Strategy>,
    /// Why; and where it was not called, why that was.
    pub reason: String,
    /// Number of calls.
    pub calls: u64,
    /// Number of calls that differed from the system call.
    pub mismatches: u64,
    /// Number of calls that were repeated because the wall clock seemed to have been set meanwhile.
    pub repeated: u64,
    /// Number of calls that differed from the system call, but exactly as the running kernel's own
    /// vDSO does. They are not counted as mismatches.
    pub like_native: u64,
    /// Number of calls that differed from the system call and from the kernel's own vDSO, but
    /// exactly as the old image does unlinked on its own kernel. They are not counted as
    /// mismatches.
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
            strategy: candidate.strategy,
            reason: candidate.reason.clone(),
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

/// A strategy as its word, or `native` for code that runs unlinked on its own kernel.
mod strategy_or_native {
    use relocator::plan::Strategy;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    const NATIVE: &str = "native";

    pub(super) fn serialize<S: Serializer>(
        strategy: &Option<Strategy>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(strategy.map_or(NATIVE, Strategy::name))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Strategy>, D::Error> {
        let word = String::deserialize(deserializer)?;
        if word == NATIVE {
            return Ok(None);
        }
        let found = Strategy::ALL.into_iter().find(|one| one.name() == word);
        let unknown = || Error::custom(format!("`{word}` is no strategy"));
        found.map(Some).ok_or_else(unknown)
    }
}
