//! Puts the strategies side by side: by correctness first, and by cost second.
//!
//! For each old image one child process holds it linked in every way, checks each as [`crate::verify`] does, and then
//! times all of them in turns, so that whatever else the machine does meanwhile meets them alike.

mod in_process;
mod measure;
mod table;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::in_words;
use crate::link::Old;
use crate::plan::{Policy, Strategy};
use crate::verify::calls::{self, Subject, Tally};
use crate::verify::child::{self, Conditions, Progress};
use crate::verify::linked::{Mapped, Prepared};
use crate::verify::{self, Running};
use crate::{Error, Result};

use measure::Measured;

pub use crate::verify::calls::timing::TimedCall;
pub use in_process::{InProcess, side_by_side};

/// What is compared, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether to run in a time namespace of its own, with shifted clocks.
    pub time_namespace: bool,
    /// Calls for each combination of function and arguments when checking.
    pub rounds: u32,
    /// Batches of each timed call of each strategy. The median is reported.
    pub batches: u32,
    /// Calls in a batch.
    pub batch: u32,
    /// When the child of one old image is taken to hang.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let deadline = Duration::from_secs(240);
        Self {
            time_namespace: false,
            rounds: 100,
            batches: 61,
            batch: 2000,
            deadline,
        }
    }
}

/// A way for an old process to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Old code on the new vvar: functions that were relocated or need no relocation.
    Relocate,
    /// Old entries that jump to the new vDSO.
    Proxy,
    /// Old entries that make the system call.
    Syscall,
    /// The new vDSO as a program that starts on the new kernel calls it: what the others are measured against.
    Native,
}

impl Way {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 4] = [Self::Relocate, Self::Proxy, Self::Syscall, Self::Native];

    /// The policy that links an image so, and whether a function of that strategy came out so.
    fn policy(self) -> Option<Policy> {
        match self {
            Self::Relocate => Some(Policy::Auto),
            Self::Proxy => Some(Policy::Proxy),
            Self::Syscall => Some(Policy::Syscall),
            Self::Native => None,
        }
    }

    fn covers(self, strategy: Strategy) -> bool {
        match self {
            Self::Relocate => matches!(strategy, Strategy::Relocate | Strategy::Keep),
            Self::Proxy => strategy == Strategy::Proxy,
            Self::Syscall => strategy == Strategy::Syscall,
            Self::Native => false,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relocate => "relocate",
            Self::Proxy => "proxy",
            Self::Syscall => "syscall",
            Self::Native => "native",
        })
    }
}

/// Every old image in every way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Comparison {
    /// By old image, as they were given.
    pub olds: Vec<OldComparison>,
}

/// One old image in every way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OldComparison {
    /// Its name.
    pub name: String,
    /// By way, in the order of [`Way::ALL`].
    pub rows: Vec<Row>,
}

/// One old image in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// Which.
    #[serde(rename = "strategy")]
    pub way: Way,
    /// Number of the old image's functions that can go on so.
    pub covered: usize,
    /// Number of the old image's distinct functions that there is a system call to compare with.
    pub functions: usize,
    /// Number of calls that were compared.
    pub calls: u64,
    /// Number of calls that differed from the system call.
    pub mismatches: u64,
    /// Number of calls that differed from the system call, but exactly as the running kernel's own vDSO does. They are
    /// not counted as mismatches.
    pub like_native: u64,
    /// The first difference, in words.
    pub first_mismatch: Option<String>,
    /// Cost by call, of those that are covered.
    pub timings: Vec<Timing>,
    /// Why functions are not covered, or nothing could be run at all.
    pub reason: Option<String>,
}

/// What one call costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Timing {
    /// Which, for example `clock_gettime(MONOTONIC)`.
    pub call: String,
    /// Nanoseconds a call, the median over batches.
    #[serde(rename = "ns")]
    pub nanoseconds: f64,
    /// The median over batches of the ratio to the native call of the same batch, where there is one.
    pub ratio: Option<f64>,
}

impl Row {
    fn empty(way: Way, functions: usize, reason: Option<String>) -> Self {
        Self {
            way,
            covered: 0,
            functions,
            calls: 0,
            mismatches: 0,
            like_native: 0,
            first_mismatch: None,
            timings: Vec::new(),
            reason,
        }
    }

    /// The cost of a call by its name.
    pub fn timing(&self, call: &str) -> Option<&Timing> {
        self.timings.iter().find(|timing| timing.call == call)
    }

    /// Adds a covered function that was checked.
    fn add(&mut self, name: &str, tally: Tally) {
        self.covered += 1;
        self.calls += tally.calls;
        self.mismatches += tally.mismatches;
        self.like_native += tally.like_native;
        let first = tally.first_mismatch.map(|what| format!("{name}, {what}"));
        self.first_mismatch = self.first_mismatch.take().or(first);
    }
}

impl Comparison {
    /// The comparison as text, for 120 columns.
    pub fn table(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.olds.iter().try_for_each(|old| table::write(f, old))
    }
}

/// Compares the strategies for each old image on the running kernel.
///
/// What cannot be linked in some way, or crashes, is reported as such and does not keep the others from being compared.
/// Errors: an image cannot be read; the system refuses a time namespace.
pub fn compare(olds: &[(String, Old)], running: &Running, options: &Options) -> Result<Comparison> {
    let compare = |(name, old): &(String, Old)| {
        let rows = compare_one(&Prepared::new(old.into(), running)?, options)?;
        Ok(OldComparison {
            name: name.clone(),
            rows,
        })
    };
    Ok(Comparison {
        olds: olds.iter().map(compare).collect::<Result<_>>()?,
    })
}

fn compare_one(prepared: &Prepared<'_>, options: &Options) -> Result<Vec<Row>> {
    let functions = prepared.callable();
    let sizes = Way::ALL.map(|way| {
        way.policy()
            .map(|policy| prepared.try_link(policy).map_err(|e| in_words(&e)))
    });
    let conditions = Conditions {
        time_namespace: options.time_namespace,
        deadline: options.deadline,
    };
    let rows = child::run(conditions, |progress| {
        let mut measured = Vec::with_capacity(Way::ALL.len());
        for (way, size) in Way::ALL.into_iter().zip(&sizes) {
            measured.push(match (way.policy(), size) {
                (Some(policy), Some(Ok(size))) => {
                    progress.at(format!("mapping the image for {way}"));
                    linked(
                        prepared,
                        &prepared.map(policy, *size)?,
                        (way, functions.len()),
                        options,
                        progress,
                    )?
                }
                (_, Some(Err(reason))) => {
                    Measured::none(Row::empty(way, functions.len(), Some(reason.clone())))
                }
                _ => native(prepared, &functions, options, progress)?,
            });
        }
        measure::interleaved(&mut measured, options, progress);
        Ok(measured
            .into_iter()
            .map(|measured| measured.row)
            .collect::<Vec<_>>())
    });
    match rows {
        Err(Error::Child { what }) => {
            let reason = format!("the process {what}");
            Ok(Way::ALL
                .map(|way| Row::empty(way, functions.len(), Some(reason.clone())))
                .into())
        }
        rows => rows,
    }
}

/// Checks an image that was linked in one way, and collects what of it can be timed.
fn linked(
    prepared: &Prepared<'_>,
    mapped: &Mapped,
    (way, functions): (Way, usize),
    options: &Options,
    progress: &mut Progress,
) -> Result<Measured> {
    let mut measured = Measured::none(Row::empty(way, functions, None));
    let wanted = |strategy| way.covers(strategy);
    let outcomes = verify::check_functions(prepared, mapped, &wanted, options.rounds, progress)?;
    for (outcome, plan) in outcomes.into_iter().zip(&mapped.functions) {
        let Some(entry) = mapped.entry(plan) else {
            continue;
        };
        if way.covers(plan.strategy) {
            measured.row.add(&outcome.name, outcome.tally());
            measured.entries.push(entry);
        } else {
            measured.row.reason.get_or_insert_with(|| {
                format!(
                    "{} is {}: {}",
                    outcome.name, outcome.strategy, outcome.reason
                )
            });
        }
    }
    Ok(measured)
}

/// Checks the running kernel's own functions, as far as the old image has them.
fn native(
    prepared: &Prepared<'_>,
    functions: &[Vec<String>],
    options: &Options,
    progress: &mut Progress,
) -> Result<Measured> {
    let mut measured = Measured::none(Row::empty(Way::Native, functions.len(), None));
    let live = prepared.native()?;
    for names in functions {
        let name = names.first().map_or("", String::as_str);
        let Some(entry) = live.entry(names) else {
            measured
                .row
                .reason
                .get_or_insert_with(|| format!("the running kernel has no {name}"));
            continue;
        };
        let subject = Subject {
            home: None,
            name,
            entry,
            native: Some(entry),
            is_stub: false,
            rounds: options.rounds,
        };
        let tally = calls::check(&subject, progress)?;
        measured.row.add(name, tally);
        measured.entries.push(entry);
    }
    Ok(measured)
}

#[cfg(test)]
mod tests;
