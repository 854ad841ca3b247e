//! Runs a linked image on the running kernel's vvar and compares every call with the system call.
//!
//! | module | does |
//! |---|---|
//! | `child` | a process that may crash or hang, and says where it is |
//! | `process` | what setting that process apart needs from the operating system |
//! | `time_namespace` | shifted clocks |
//! | `features` | which alternatives a kernel would apply on this processor |
//! | `address_space` | room near the kernel's mappings, and memory that is never writable and executable at once |
//! | `linked` | an old image, linked and mapped there |
//! | `entry` | its functions, typed |
//! | `system` | the same functions as system calls |
//! | `calls` | the comparison |
//!
//! Nothing that was linked runs in the calling process, unless a benchmark asks for it: [`crate::compare::InProcess`].

mod address_space;
pub(crate) mod calls;
pub(crate) mod child;
pub(crate) mod entry;
mod features;
pub(crate) mod linked;
mod process;
mod strategy_name;
mod system;
mod time_namespace;

use std::time::Duration;

use elf_tools::image::Image;
use elf_tools::symtab::Symtab;
use serde::{Deserialize, Serialize};

use crate::plan::{FunctionPlan, Policy, Strategy};
use crate::{Error, Result};

use calls::{Subject, Tally};
use child::{Conditions, Progress};
use linked::{Mapped, Prepared};

/// The `what` of the [`Error::Io`] that says that the system refuses a time namespace.
pub const TIME_NAMESPACE: &str = "a time namespace";

/// The kernel that is running.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its vDSO. It must be the one that is mapped in this process.
    pub image: Image,
    /// The symbols of its vvar, if they are known. Without them nothing can be relocated.
    pub symtab: Option<Symtab>,
}

/// What is verified, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which strategies may be used.
    pub policy: Policy,
    /// Whether to run in a time namespace of its own, with shifted clocks.
    pub time_namespace: bool,
    /// Calls for each combination of function and arguments.
    pub rounds: u32,
    /// When the child is taken to hang. It should be generous: a machine may be busy.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::Auto,
            time_namespace: false,
            rounds: 100,
            deadline: Duration::from_secs(120),
        }
    }
}

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
    /// What linking did to it.
    #[serde(with = "strategy_name")]
    pub strategy: Strategy,
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
    /// The first difference, in words.
    pub first_mismatch: Option<String>,
}

impl FunctionOutcome {
    /// The outcome of a function that was called.
    fn called(plan: &FunctionPlan, tally: Tally) -> Self {
        Self {
            name: plan.name().to_owned(),
            aliases: plan.names.iter().skip(1).cloned().collect(),
            strategy: plan.strategy,
            reason: plan.reason.clone(),
            calls: tally.calls,
            mismatches: tally.mismatches,
            repeated: tally.repeated,
            like_native: tally.like_native,
            first_mismatch: tally.first_mismatch,
        }
    }

    /// What was counted.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            calls: self.calls,
            mismatches: self.mismatches,
            repeated: self.repeated,
            like_native: self.like_native,
            first_mismatch: self.first_mismatch.clone(),
        }
    }

    /// The outcome of a function that there is nothing to compare with.
    fn not_called(plan: &FunctionPlan) -> Self {
        let reason = format!("{}; not called: no system call does the same", plan.reason);
        Self {
            reason,
            ..Self::called(plan, Tally::default())
        }
    }
}

/// Links `old` to the running kernel, runs it in a child process and compares every call with the system call.
///
/// Differences are counted in the outcome. Errors: the image cannot be linked; the child crashed, hung or failed
/// ([`Error::Child`]); the system refuses a time namespace ([`is_time_namespace_refusal`]).
pub fn verify(old: &Image, running: &Running, options: &Options) -> Result<Outcome> {
    run(&Prepared::new(old, running)?, options)
}

fn run(prepared: &Prepared<'_>, options: &Options) -> Result<Outcome> {
    let size = prepared.try_link(options.policy)?;
    let conditions = Conditions {
        time_namespace: options.time_namespace,
        deadline: options.deadline,
    };
    child::run(conditions, |progress| {
        progress.at("mapping the linked image");
        let mapped = prepared.map(options.policy, size)?;
        let functions = check_functions(prepared, &mapped, &|_| true, options.rounds, progress)?;
        Ok(Outcome { functions })
    })
}

/// Checks every function that can be checked and came out as a strategy that is wanted.
pub(crate) fn check_functions(
    prepared: &Prepared<'_>,
    mapped: &Mapped,
    wanted: &dyn Fn(Strategy) -> bool,
    rounds: u32,
    progress: &mut Progress,
) -> Result<Vec<FunctionOutcome>> {
    let native = prepared.native()?;
    let check = |plan: &FunctionPlan| {
        let Some(entry) = mapped.entry(plan) else {
            return Ok(FunctionOutcome::not_called(plan));
        };
        if !wanted(plan.strategy) {
            return Ok(FunctionOutcome::called(plan, Tally::default()));
        }
        let is_stub = plan.strategy == Strategy::Syscall;
        let native = native.entry(&plan.names);
        let subject = Subject {
            name: plan.name(),
            entry,
            native,
            is_stub,
            rounds,
        };
        Ok(FunctionOutcome::called(
            plan,
            calls::check(&subject, progress)?,
        ))
    };
    mapped.functions.iter().map(check).collect()
}

/// Whether an error says that the system refuses a time namespace, rather than that something is wrong with an image.
pub fn is_time_namespace_refusal(error: &Error) -> bool {
    matches!(error, Error::Io { what, .. } if what == TIME_NAMESPACE)
}

/// Finds out whether this system lets a process enter a time namespace of its own.
pub fn probe_time_namespace() -> Result<()> {
    child::run(
        Conditions {
            time_namespace: true,
            deadline: Duration::from_secs(20),
        },
        |_| Ok(()),
    )
}

#[cfg(test)]
pub(crate) mod tests;
