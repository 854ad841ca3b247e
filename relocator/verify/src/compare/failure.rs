//! What goes wrong with a row, and what makes a comparison fail.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Comparison, Counts, Row};
use crate::Approach;
use crate::child::Lost;
use relocator::in_words;

/// Why a row was not measured, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "code", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Failure {
    /// The linker has refused the image for this approach.
    Refused {
        /// Why.
        reason: String,
    },
    /// A signal has killed the process that executed the code.
    Crashed {
        /// Its name.
        signal: String,
        /// What the process was doing: the function and its arguments.
        doing: String,
    },
    /// The process that executed the code did not finish in time.
    Hung {
        /// What it was doing.
        doing: String,
    },
    /// The process has failed in another way.
    Child {
        /// How, in words that follow `the process`.
        what: String,
    },
}

impl Failure {
    /// A word for it that does not change between versions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Crashed { .. } => "crashed",
            Self::Hung { .. } => "hung",
            Self::Child { .. } => "child",
        }
    }

    /// Whether the linker was asked and its answer was no: then nothing was executed, and nothing
    /// is wrong.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { reason } => f.write_str(reason),
            Self::Crashed { signal, doing } => {
                write!(f, "the process was killed by {signal}, {doing}")
            }
            Self::Hung { doing } => write!(f, "the process did not finish in time, {doing}"),
            Self::Child { what } => write!(f, "the process {what}"),
        }
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Killed { signal, doing } => Self::Crashed {
                signal: signal.to_string(),
                doing,
            },
            Lost::Hung { doing, .. } | Lost::Spun { doing, .. } => Self::Hung { doing },
            Lost::Failed(what) => Self::Child { what },
            Lost::Error(error) => Self::Refused {
                reason: in_words(&error),
            },
        }
    }
}

/// Something that one of our approaches got wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The old image.
    pub old: String,
    /// The approach.
    pub approach: Approach,
    /// What is wrong.
    pub kind: DefectKind,
}

/// What can be wrong with an approach.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DefectKind {
    /// It could not be measured, and that is not because the linker has refused the image.
    Failed(Failure),
    /// Calls differ from the system calls.
    Differs {
        /// How many.
        mismatches: u64,
        /// The first one, in words.
        first: Option<String>,
    },
    /// Threads in flight are lost: they say what neither kernel says, crash, or never come out.
    LosesThreads {
        /// Boundaries by the worst that has happened there.
        worst: Counts,
        /// The first failure, in words.
        first: Option<String>,
    },
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", self.old, self.approach, self.kind)
    }
}

impl fmt::Display for DefectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = match self {
            Self::Failed(failure) => return failure.fmt(f),
            Self::Differs { mismatches, first } => {
                write!(f, "{mismatches} calls differ from the system calls")?;
                first
            }
            Self::LosesThreads { worst, first } => {
                let Counts {
                    wrong,
                    crashed,
                    hung,
                    ..
                } = worst;
                write!(
                    f,
                    "threads are lost at {} boundaries ({wrong} wrong, {crashed} crashed, {hung} hung)",
                    wrong + crashed + hung
                )?;
                first
            }
        };
        match first {
            Some(first) => write!(f, "; the first: {first}"),
            None => Ok(()),
        }
    }
}

impl Comparison {
    /// Whether none of our approaches got anything wrong.
    pub fn is_good(&self) -> bool {
        self.failures().is_empty()
    }

    /// What our approaches got wrong. Others are there to be compared with, and what they get wrong
    /// is a result. Where the linker refuses an image nothing is wrong either, nor where a thread
    /// is stuck: nothing was written then.
    pub fn failures(&self) -> Vec<Defect> {
        let rows = self
            .olds
            .iter()
            .flat_map(|old| old.rows.iter().map(move |row| (&old.name, row)));
        let ours = rows.filter(|(_, row)| row.approach.is_ours());
        let defects = ours.flat_map(|(old, row)| {
            row.defects().into_iter().map(|kind| Defect {
                old: old.clone(),
                approach: row.approach,
                kind,
            })
        });
        defects.collect()
    }
}

impl Row {
    fn defects(&self) -> Vec<DefectKind> {
        let failed = self.failure.clone().filter(|failure| !failure.is_refusal());
        let differs = (self.mismatches > 0).then(|| DefectKind::Differs {
            mismatches: self.mismatches,
            first: self.first_mismatch.clone(),
        });
        failed
            .map(DefectKind::Failed)
            .into_iter()
            .chain(differs)
            .chain(self.lost_threads())
            .collect()
    }

    /// Stepping out is documented to leave contexts in signal frames as they are, so only threads
    /// count that were stopped themselves.
    fn lost_threads(&self) -> Option<DefectKind> {
        let flight = self.in_flight.as_ref()?;
        let worst = match self.approach {
            Approach::StepOut => *flight.direct()?,
            _ => flight.worst,
        };
        // Where contexts in signal frames stay as they are, the first failure may be one of those.
        let mut firsts = flight
            .functions
            .iter()
            .filter(|_| self.approach.carries_threads());
        let lost = worst.wrong + worst.crashed + worst.hung;
        (lost > 0).then(|| DefectKind::LosesThreads {
            worst,
            first: firsts.find_map(|function| function.first_failure.clone()),
        })
    }
}
