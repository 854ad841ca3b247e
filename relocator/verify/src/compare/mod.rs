//! Puts the strategies side by side: by correctness first, and by cost second.
//!
//! For each old image and each approach, a child process maps the code and checks it as
//! [`crate::verify`] does. Then one more child holds all of them and times them in turns, so that
//! whatever else the machine does meanwhile meets them alike. Threads in flight are swept last, all
//! approaches at once.

mod check;
mod code;
mod cost;
mod failure;
mod flight;
mod in_process;
mod in_turns;
mod measure;
mod row;
mod unlinked;

use std::time::Duration;

use elf_tools::symtab::Symtab;

use crate::Result;
use crate::Running;
use crate::child::Conditions;
use crate::linked::Prepared;
use relocator::link::Old;

pub use crate::calls::Tally;
pub use crate::calls::timing::TimedCall;
pub use crate::in_flight::{Counts, Ending, Namespaces, Variant};
pub use cost::Cost;
pub use failure::{Defect, DefectKind, Failure};
pub use flight::{Flight, FunctionFlight};
pub use in_process::{InProcess, side_by_side};
pub use row::{Check, Comparison, OldComparison, Row, Timing};

/// What is compared, and how thoroughly.
#[derive(Debug, Clone)]
pub struct CompareOptions {
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
    /// When a child is taken to hang: one that checks an approach, times all of them, or sweeps a
    /// function.
    pub deadline: Duration,
}

impl Default for CompareOptions {
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

impl CompareOptions {
    fn conditions(&self) -> Conditions {
        Conditions {
            time_namespace: self.time_namespace,
            deadline: self.deadline,
            processor_time: None,
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
    /// The symbols of its kernel's vvar. Without them that kernel cannot be emulated, so that no
    /// thread can be stopped on it.
    pub home: Option<Symtab>,
    /// Why threads in flight are to be left out, if they are.
    pub no_in_flight: Option<String>,
}

/// Compares the strategies for each old image on the running kernel.
///
/// What cannot be linked in some way, crashes or hangs, is a [`Failure`] of its own row and does
/// not keep the others from being compared. Errors: an image cannot be read; the system refuses a
/// time namespace.
pub fn compare(
    olds: &[OldKernel],
    running: &Running,
    options: &CompareOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Comparison> {
    let compare = |kernel: &OldKernel| {
        progress(&format!("calls of {}", kernel.name));
        let prepared = Prepared::new((&kernel.old).into(), running)?;
        let mut rows = check::check_all(&prepared, kernel.home.as_ref(), options)?;
        in_turns::time_all(&prepared, kernel.home.as_ref(), &mut rows, options)?;
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

/// What it costs to apply a way; nothing where that failed, which the row has the reason for.
fn apply_cost(prepared: &Prepared<'_>, row: &mut Row, options: &CompareOptions) -> Result<()> {
    if row.reason.is_none() || row.calls > 0 || row.covered > 0 {
        row.cost = cost::of(prepared, row.approach.into(), options.links)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
