//! Runs an image on a kernel's vvar and compares every call with the system call.
//!
//! | module | does |
//! |---|---|
//! | `target` | the image to verify, and the kernel: the running one, or an emulated one |
//! | `child` | a child process that may crash or hang, and reports where it is |
//! | `process` | the system calls that isolate that process |
//! | `time_namespace` | shifted clocks |
//! | `address_space` | where the kernel's mappings are, and room near them |
//! | `linked` | an old image, linked and mapped there |
//! | `emulation` | an emulated kernel, and images on it |
//! | `call_shims` | calls that refresh an emulated kernel first |
//! | `concurrency` | calls while an emulated kernel is being updated |
//! | `entry` | the functions of a vDSO, typed |
//! | `system` | the same functions as system calls |
//! | `candidate` | a function to check |
//! | `calls` | the comparison |
//! | `outcome` | the result of the comparison |
//! | `approach` | what can be done with a whole process |
//! | `arch` | registers, instructions, signal handlers and clock modes of this architecture |
//! | [`in_flight`] | threads that are inside when the kernel is swapped |
//! | [`emulated`] | another kernel's mappings in this process, kept current from the running one's |
//! | [`memory`] | memory that code can be run in |
//! | [`bed`] | programs that run as a restore on another kernel leaves them |
//! | [`compare`] | the strategies side by side |
//!
//! Linked code never runs in the calling process, unless a benchmark asks for it:
//! [`compare::InProcess`].

pub(crate) mod address_space;
mod approach;
mod arch;
pub mod bed;
mod call_shims;
pub(crate) mod calls;
mod candidate;
pub(crate) mod child;
pub mod compare;
mod concurrency;
pub mod emulated;
mod emulation;
pub(crate) mod entry;
mod error;
pub mod in_flight;
pub(crate) mod linked;
pub mod memory;
mod outcome;
mod process;
mod system;
mod target;
mod time_namespace;

use std::time::Duration;

use calls::Tally;
use candidate::Candidate;
use child::{Conditions, Progress};
use linked::{Mapped, Prepared};

use elf_tools::processor::ProcessorFeatures;
use relocator::plan::{FunctionPlan, Policy, Strategy};

pub use approach::Approach;
pub use error::{Error, Result};

pub use emulated::ClockMode;
pub use outcome::{FunctionOutcome, VerifyOutcome};
pub use target::{Emulation, OldImage, Running, Target};

/// The `what` of the [`Error::Io`] that says that the system refuses a time namespace.
pub const TIME_NAMESPACE: &str = "a time namespace";

/// What is verified, and how thoroughly.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Which strategies may be used.
    pub policy: Policy,
    /// Whether to run in a time namespace of its own, with shifted clocks.
    pub time_namespace: bool,
    /// Calls for each combination of function and arguments.
    pub rounds: u32,
    /// The processor to link for, if it is not the one that runs. What that one lacks is not
    /// executed in any case.
    pub processor: Option<ProcessorFeatures>,
    /// How long the child may take. Be generous: a machine may be busy.
    pub deadline: Duration,
    /// How much processor time the child may take, if there is a limit. A child that spins is ended
    /// by it as soon as it can be told from one that works, and one that a busy machine keeps
    /// waiting is not. Finer than some milliseconds is not possible.
    pub processor_time: Option<Duration>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            policy: Policy::Auto,
            time_namespace: false,
            rounds: 100,
            processor: None,
            deadline: Duration::from_secs(120),
            processor_time: None,
        }
    }
}

impl VerifyOptions {
    fn conditions(&self) -> Conditions {
        Conditions {
            time_namespace: self.time_namespace,
            deadline: self.deadline,
            processor_time: self.processor_time,
        }
    }
}

/// Links `old` to a kernel, runs it in a child process and compares every call with the system
/// call.
///
/// On a kernel that is emulated, functions are also called while that one is being updated.
///
/// Differences are counted in the outcome. Errors: the image cannot be linked, or the kernel not be
/// emulated; the child crashed, hung or failed ([`Error::Child`]); the system refuses a time
/// namespace ([`is_time_namespace_refusal`]).
pub fn verify<'a>(
    old: impl Into<OldImage<'a>>,
    onto: impl Into<Target<'a>>,
    options: &VerifyOptions,
) -> Result<VerifyOutcome> {
    match onto.into() {
        Target::Running(running) => {
            let prepared = Prepared::new(old.into(), running)?;
            run(&prepared.on_processor(options.processor), options)
        }
        Target::Emulated(emulation) => emulation::linked(old.into(), &emulation, options),
    }
}

/// The same for the emulated kernel's own image, which is not linked: what it did at home. The
/// policy does not matter.
pub fn verify_at_home(emulation: &Emulation<'_>, options: &VerifyOptions) -> Result<VerifyOutcome> {
    emulation::at_home(emulation, options)
}

fn run(prepared: &Prepared<'_>, options: &VerifyOptions) -> Result<VerifyOutcome> {
    let size = prepared.try_link(options.policy)?;
    child::run(options.conditions(), |progress| {
        progress.at("mapping the linked image");
        let mapped = prepared.map(options.policy, size)?;
        let functions = check_functions(prepared, &mapped, &|_| true, options.rounds, progress)?;
        Ok(VerifyOutcome { functions })
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
        let native = native.entry(&plan.names);
        let candidate = Candidate::linked(plan, mapped.entry(plan), native);
        match candidate.entry.is_none() || wanted(plan.strategy) {
            true => candidate.check(rounds, progress),
            false => Ok(FunctionOutcome::called(&candidate, Tally::default())),
        }
    };
    mapped.functions.iter().map(check).collect()
}

/// Whether an error says that the system refuses a time namespace, rather than that something is
/// wrong with an image.
pub fn is_time_namespace_refusal(error: &Error) -> bool {
    matches!(error, Error::Io { what, .. } if what == TIME_NAMESPACE)
}

/// Finds out whether this system lets a process enter a time namespace of its own.
pub fn probe_time_namespace() -> Result<()> {
    child::run(
        Conditions {
            time_namespace: true,
            deadline: Duration::from_secs(20),
            processor_time: None,
        },
        |_| Ok(()),
    )
}

#[cfg(test)]
pub(crate) mod tests;
