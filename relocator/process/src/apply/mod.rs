//! Linking a process, with all its threads, and undoing it.
//!
//! | module | does |
//! |---|---|
//! | `recognise` | what in a process is a vDSO |
//! | `text` | an old text, and what it was before anybody changed it |
//! | `chunk` | memory of it |
//! | `kernel` | the kernel that runs now |
//! | `survey` | all of that, read while the process runs |
//! | `place` | where the kernel's mappings go |
//! | `layout` | the text as it will be |
//! | `interim` | what its entries are while it is put in place |
//! | `recovery` | what a tool has left that was killed, by which the next one knows what was there |
//! | `record` | what the process keeps of it |
//! | `link`, `undo` | what is to be done, as far as it can be said before threads stand still |
//! | `transaction` | the rest: threads, and all steps in their order |
//! | `outcome` | what was done, for commands |
//!
//! A process is surveyed and everything is computed while it runs. Then all its threads stand still; if it is no longer what it was, or
//! if a thread cannot be carried across where it is, the process goes on and it is tried again. Nothing has been commit then.
//! The order of the steps is such that the process could go on after each of them without this tool:
//!
//! 1. Threads in old texts go back to entries of functions, which is right before and afterwards.
//! 2. The linked text, with its record, is made, but not in its place. The entries of the old text make system calls.
//! 3. The linked text is put in place at once. Its entries make system calls as well.
//! 4. Threads in the new vDSO go to these entries.
//! 5. The kernel's mappings are moved. Nobody uses them.
//! 6. Each entry becomes that of the linked function.

mod chunk;
mod interim;
mod kernel;
mod layout;
mod link;
pub mod outcome;
pub mod place;
pub mod recognise;
pub mod record;
mod recovery;
mod survey;
mod text;
pub(crate) mod transaction;
mod undo;

use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::targets::Target;
use crate::targets::live::{Live, lead_back, maps};
use crate::tracing::TraceableProcess;
use crate::{Error, Result};
pub use kernel::RunningKernel;
use outcome::{ApplyOutcome, ApplyTimes};
use relocator::plan::Policy;
use relocator::source::Source;
use relocator::tables;
use survey::Survey;
use text::Known;
use transaction::Transaction;

/// How a process is treated.
#[derive(Debug, Clone, Default)]
pub struct ApplyOptions {
    /// Which strategies may be used.
    pub policy: Policy,
    /// Where old tables may be.
    pub tables: tables::Options,
    /// How long it is tried to find all threads where they can be carried across; [`DEADLINE`] if not given.
    pub deadline: Option<Duration>,
}

/// How long it is tried.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// How long a thread is given to stand still.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shortest and the longest pause between attempts, in which threads get on and handlers can return.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Links a process to the kernel that runs.
///
/// `old` are images that may be found in it, with the symbols of their kernels. A process that is linked already is left alone.
/// Errors: [`Error::Process`] if it is none that can be worked on, [`Error::Busy`] if threads could not be carried across within
/// the deadline; the process is as it was then.
pub fn apply(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    attempts(pid, kernel, old, options, &|survey, pid| {
        link::plan(survey, pid, kernel, options.policy)
    })
}

/// Makes a process what it was before it was linked.
pub fn rollback(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    attempts(pid, kernel, old, options, &|survey, pid| {
        undo::plan(survey, pid, kernel.build_id())
    })
}

/// What is to be done, and what to say about it.
type Planned = (Option<Transaction>, ApplyOutcome);

fn attempts(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
    plan: &dyn Fn(&Survey, Pid) -> Result<Planned>,
) -> Result<ApplyOutcome> {
    let known = Known {
        sources: old,
        tables: &options.tables,
    };
    let subject = TraceableProcess::open(pid)?;
    subject.check_linkable()?;
    let pid = subject.pid();
    let deadline = Instant::now() + options.deadline.unwrap_or(DEADLINE);
    let mut pause = PAUSE.0;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mappings = maps::mappings(pid).map_err(|error| subject.explain(error))?;
        let planned = Survey::of(pid, &mappings, kernel, known)
            .and_then(|survey| plan(&survey, pid).map(|planned| (survey, planned)));
        let tried = match planned {
            Ok((_, (None, outcome))) => return Ok(outcome),
            Ok((survey, (Some(transaction), mut outcome))) => {
                attempt(&subject, kernel, &survey, &transaction, &mut outcome).map(|()| outcome)
            }
            // What could not be made out may have been on its way.
            Err(_) if maps::mappings(pid).is_ok_and(|now| now != mappings) => Err(changing(pid)),
            Err(error) => Err(error),
        };
        match tried {
            Ok(outcome) => {
                return Ok(ApplyOutcome {
                    attempts,
                    ..outcome
                });
            }
            Err(Error::Busy { .. }) if Instant::now() < deadline => {}
            Err(error) => return Err(subject.explain(error)),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn changing(pid: Pid) -> Error {
    Error::Busy {
        pid: pid.as_raw(),
        reason: "changes its mappings all the time".to_owned(),
    }
}

/// Does it, if the process is still what it was and no thread is in the way.
fn attempt(
    subject: &TraceableProcess,
    kernel: &RunningKernel,
    survey: &Survey,
    transaction: &Transaction,
    outcome: &mut ApplyOutcome,
) -> Result<()> {
    let pid = subject.pid();
    let mut live = Live::stop(pid.as_raw(), PATIENCE)?;
    let stop = live.stopped_for();
    for tracee in live.tracees() {
        let registers = tracee.registers()?;
        subject.check_thread(tracee.pid(), &registers)?;
        lead_back(tracee, &registers)?;
    }
    let Some(mappings) = survey.holds(&live, &transaction.places())? else {
        return Err(changing(pid));
    };
    let (steps, crossed) = transaction.steps(survey, kernel, &live, &mappings)?;
    live.carry_out(&steps)?;
    let commit = live.stopped_for();
    let total = live.release();
    outcome.crossed = crossed;
    outcome.times = ApplyTimes {
        stop,
        commit,
        total,
    };
    Ok(())
}
