//! Puts the strategies side by side: by correctness first, and by cost second.
//!
//! For each old image one child process holds it linked in every way, checks each as [`crate::verify`] does, and then
//! times all of them in turns, so that whatever else the machine does meanwhile meets them alike.

mod code;
mod cost;
mod flight;
mod in_process;
mod measure;
mod row;
mod unlinked;

use std::time::Duration;

use elf_tools::symtab::Symtab;

use crate::Running;
use crate::calls::{self, Subject};
use crate::child::{self, Conditions, Progress};
use crate::linked::{Mapped, Prepared};
use crate::{Approach, Error, Result};
use relocator::in_words;
use relocator::link::Old;
use relocator::plan::Policy;

use code::Code;
use measure::Measured;
use unlinked::Unlinked;

pub use crate::calls::Tally;
pub use crate::calls::timing::TimedCall;
pub use crate::in_flight::{Counts, Ending, Namespaces, Variant};
pub use cost::Cost;
pub use flight::{Flight, FunctionFlight};
pub use in_process::{InProcess, side_by_side};
pub use row::{Check, Comparison, OldComparison, Row, Timing};

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
    /// Combinations of time namespaces for threads in flight; none, and threads are left out.
    pub in_flight: Vec<Namespaces>,
    /// How often each image is linked in memory. The median is reported.
    pub links: u32,
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
            in_flight: vec![Namespaces::ALL[0]],
            links: 51,
            deadline,
        }
    }
}

impl Options {
    fn conditions(&self) -> Conditions {
        Conditions {
            time_namespace: self.time_namespace,
            deadline: self.deadline,
        }
    }
}

/// An old image, and what is known of the kernel that it is of.
#[derive(Debug, Clone)]
pub struct OldKernel {
    /// What it is called in the report.
    pub name: String,
    /// The image, with the relocation table that was found for it.
    pub old: Old,
    /// The symbols of its kernel's vvar. Without them that kernel cannot be emulated, so that no thread can be stopped on it.
    pub home: Option<Symtab>,
    /// Why threads in flight are to be left out, if they are.
    pub no_in_flight: Option<String>,
}

/// Compares the strategies for each old image on the running kernel.
///
/// What cannot be linked in some way, or crashes, is reported as such and does not keep the others from being compared.
/// Errors: an image cannot be read; the system refuses a time namespace.
pub fn compare(
    olds: &[OldKernel],
    running: &Running,
    options: &Options,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Comparison> {
    let compare = |kernel: &OldKernel| {
        progress(&format!("calls of {}", kernel.name));
        let prepared = Prepared::new((&kernel.old).into(), running)?;
        let mut rows = compare_one(&prepared, kernel.home.as_ref(), options)?;
        for row in &mut rows {
            apply_cost(&prepared, row, options)?;
        }
        Ok(OldComparison {
            name: kernel.name.clone(),
            rows,
        })
    };
    let mut compared: Vec<OldComparison> = olds.iter().map(compare).collect::<Result<_>>()?;
    // When nothing is timed any more, all processors can be used.
    flight::measure(olds, &mut compared, running, options, progress)?;
    Ok(Comparison { olds: compared })
}

/// Every way of one old image, called and timed.
fn compare_one(
    prepared: &Prepared<'_>,
    home: Option<&Symtab>,
    options: &Options,
) -> Result<Vec<Row>> {
    let functions = prepared.callable();
    let empty = |approach, reason| Row::empty(approach, functions.len(), reason);
    let plans = Approach::ALL.map(|approach| Planned::of(approach, prepared, home, options));
    let rows = child::run(options.conditions(), |progress| {
        let mut measured = Vec::with_capacity(Approach::ALL.len());
        for (approach, plan) in Approach::ALL.into_iter().zip(&plans) {
            progress.at(format!("mapping the image for {approach}"));
            measured.push(match plan {
                Planned::Linked(policy, size) => {
                    let mapped = prepared.map(*policy, *size)?;
                    linked(prepared, &mapped, empty(approach, None), options, progress)?
                }
                Planned::Unlinked { jumps, row } => {
                    let functions = Unlinked::new(prepared, home, *jumps).map()?;
                    Measured {
                        row: Row::clone(row),
                        entries: functions
                            .into_iter()
                            .map(|function| function.entry)
                            .collect(),
                    }
                }
                Planned::Native => native(prepared, &functions, options, progress)?,
                Planned::As(other) => Measured::none(Row {
                    code_of: Some(*other),
                    ..empty(approach, None)
                }),
                Planned::Not(reason) => Measured::none(empty(approach, Some(reason.clone()))),
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
            Ok(Approach::ALL
                .map(|approach| empty(approach, Some(reason.clone())))
                .into())
        }
        rows => rows.map(share_code),
    }
}

/// What will be done for a way, as far as that can be known before.
enum Planned {
    /// Link, and map that many bytes.
    Linked(Policy, usize),
    /// Map on zeros what has not crashed; it was checked, in a process of its own.
    Unlinked { jumps: bool, row: Box<Row> },
    /// Nothing: the code is that of another way.
    As(Approach),
    /// Call the running kernel's.
    Native,
    /// It cannot be.
    Not(String),
}

impl Planned {
    fn of(
        approach: Approach,
        prepared: &Prepared<'_>,
        home: Option<&Symtab>,
        options: &Options,
    ) -> Self {
        if let Some(other) = approach.code_of() {
            return Self::As(other);
        }
        match approach.into() {
            Code::Linked(policy) => match prepared.try_link(policy) {
                Ok(size) => Self::Linked(policy, size),
                Err(error) => Self::Not(in_words(&error)),
            },
            Code::Unlinked { jumps } => {
                let unlinked = Unlinked::new(prepared, home, jumps);
                let row = Row::empty(approach, prepared.callable().len(), None);
                match check_unlinked(prepared, &unlinked, row, options) {
                    Ok(row) => Self::Unlinked {
                        jumps,
                        row: Box::new(row),
                    },
                    Err(Error::Child { what }) => Self::Not(format!("the process {what}")),
                    Err(error) => Self::Not(in_words(&error)),
                }
            }
            Code::Native => Self::Native,
        }
    }
}

/// Checks code that nobody promises anything of.
fn check_unlinked(
    prepared: &Prepared<'_>,
    unlinked: &Unlinked<'_>,
    row: Row,
    options: &Options,
) -> Result<Row> {
    child::run(options.conditions(), |progress| {
        let mut row = row;
        progress.at("mapping the image on zeros");
        let live = prepared.native()?;
        for function in unlinked.map()? {
            let name = function.names.first().map_or("", String::as_str);
            let subject = Subject {
                home: None,
                name,
                entry: function.entry,
                native: live.entry(&function.names),
                is_stub: false,
                rounds: options.rounds,
            };
            row.add(name, function.jumps, calls::check(&subject, progress)?);
        }
        row.reason = Some(
            match row.approach {
                Approach::Criu => "other functions than the four that CRIU knows run on zeros",
                _ => "everything runs on zeros",
            }
            .to_owned(),
        );
        Ok(row)
    })
}

/// Ways that have the code of another one cover what that covers.
fn share_code(mut rows: Vec<Row>) -> Vec<Row> {
    let covered: Vec<(Approach, usize, Option<String>)> = rows
        .iter()
        .map(|row| (row.approach, row.covered, row.reason.clone()))
        .collect();
    for row in &mut rows {
        let other = covered.iter().find(|other| Some(other.0) == row.code_of);
        if let Some((_, covered, reason)) = other {
            row.covered = *covered;
            row.reason.clone_from(reason);
        }
    }
    rows
}

/// What it costs to apply a way; nothing where that failed, which the row has the reason for.
fn apply_cost(prepared: &Prepared<'_>, row: &mut Row, options: &Options) -> Result<()> {
    if row.reason.is_none() || row.calls > 0 || row.covered > 0 {
        row.cost = cost::of(prepared, row.approach.into(), options.links)?;
    }
    Ok(())
}

/// Checks an image that was linked in one way, and collects what of it can be timed.
fn linked(
    prepared: &Prepared<'_>,
    mapped: &Mapped,
    row: Row,
    options: &Options,
    progress: &mut Progress,
) -> Result<Measured> {
    let approach = row.approach;
    let mut measured = Measured::none(row);
    let wanted = |strategy| approach.covers(strategy);
    let outcomes = crate::check_functions(prepared, mapped, &wanted, options.rounds, progress)?;
    for (outcome, plan) in outcomes.into_iter().zip(&mapped.functions) {
        let Some(entry) = mapped.entry(plan) else {
            continue;
        };
        if approach.covers(plan.strategy) {
            measured.row.add(&outcome.name, true, outcome.tally());
            measured.entries.push(entry);
        } else {
            measured.row.reason.get_or_insert_with(|| {
                format!("{} is {}: {}", outcome.name, plan.strategy, outcome.reason)
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
    let mut measured = Measured::none(Row::empty(Approach::Native, functions.len(), None));
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
        measured.row.add(name, true, tally);
        measured.entries.push(entry);
    }
    Ok(measured)
}

#[cfg(test)]
mod tests;
