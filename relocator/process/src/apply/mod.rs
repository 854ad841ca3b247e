//! Links a process, with all its threads, and undoes that.
//!
//! | module | does |
//! |---|---|
//! | `recognise` | finds the vDSOs in a process |
//! | `text` | an old text, and what it was before any tool changed it |
//! | `chunk` | a piece of memory |
//! | `kernel` | the kernel that runs now |
//! | `survey` | all of that, read while the process runs |
//! | `precondition` | what a plan needs of a live process, beyond that it can be traced |
//! | `place` | where the kernel's mappings go |
//! | `layout` | the text as it will be |
//! | `interim` | its entries while it takes the place of another text |
//! | `dump` | what a dump by CRIU makes of the process |
//! | `prepare` | plans what makes a process ready for a dump |
//! | `stubs` | threads leave what is unmapped |
//! | `recovery` | what a killed tool has left, by which the next one knows what was there |
//! | `record` | what the process keeps of a link |
//! | `link`, `undo` | plan a link and a rollback, as far as that goes while threads run |
//! | `transaction` | the rest: threads, and all steps in their order |
//! | `live` | works on a live process until no thread is in the way |
//! | `outcome` | what was done, or would be, for commands |
//! | `originals` | old vDSOs as they were, for commands |
//!
//! The tool surveys a process and computes everything while it runs. Then it stops all threads. If
//! the process has changed since, or if a thread cannot be carried across from where it is, the
//! tool lets the process go on and tries again. It has written nothing then. The order of the steps
//! is such that the process could go on after each of them without this tool:
//!
//! 1. Threads in old texts go back to entries of functions, which are right places before and
//!    afterwards.
//! 2. The linked text, with its record, is prepared, but not in its place. The old text gets
//!    interim entries, which make system calls.
//! 3. The linked text takes its place at once. Its entries make system calls as well.
//! 4. Threads in the new vDSO go to these entries.
//! 5. The kernel's mappings move. No thread uses them.
//! 6. Each entry becomes that of the linked function.

mod chunk;
mod dump;
mod interim;
mod kernel;
mod layout;
mod link;
mod live;
mod named;
pub mod originals;
mod origins;
pub mod outcome;
pub mod place;
mod precondition;
mod prepare;
pub mod recognise;
pub mod record;
mod recovery;
mod stubs;
mod survey;
mod text;
pub(crate) mod transaction;
mod undo;

use std::time::Duration;

use crate::Result;
use crate::targets::{StoppedTarget, Target};
pub use kernel::RunningKernel;
use outcome::{ApplyOutcome, ThreadsSeen};
use relocator::plan::Policy;
use relocator::source::Source;
use relocator::tables;
use survey::Survey;
use text::Known;
use transaction::Transaction;

/// How to treat a process.
#[derive(Debug, Clone, Default)]
pub struct ApplyOptions {
    /// Which strategies may be used.
    pub policy: Policy,
    /// Where old tables may be.
    pub tables: tables::Options,
    /// How long to retry until every thread is at a safe point; [`DEADLINE`] if not given. A thread
    /// may take as long to stop, but not less than [`DEADLINE`].
    pub deadline: Option<Duration>,
    /// Whether to compute everything and change nothing.
    ///
    /// Nothing is written then, and no thread is stopped. The outcome has the fate of every
    /// function, and where the kernel's mappings would go. The outcome says where threads are, as
    /// far as that shows while they run ([`ThreadsSeen`]). What only a stopped process shows is not
    /// checked: whether each thread can be carried across, executes 64-bit code, and answers that
    /// its process is dumpable.
    pub dry_run: bool,
}

/// How long to retry until every thread is at a safe point.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Links a process to the kernel that runs.
///
/// `old` are images that may be found in it, with the symbols of their kernels. The tool leaves a
/// process alone that is linked already. Errors: [`crate::Error::Refused`] if the process cannot be
/// linked, [`crate::Error::Busy`] if threads could not be carried across within the deadline, and
/// others of [`crate::Error`]. The process is as it was then.
pub fn apply(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    live::attempts(pid, kernel, old, options, Work::Link)
}

/// Links a process that the calling thread traces already, and whose threads have all stopped, as
/// CRIU leaves those that it has restored for its plugins. They are still stopped and traced
/// afterwards; `PTRACE_O_*` options of one of them may have changed.
///
/// Errors are those of [`apply`]. A thread that is in the way now is in the way for ever, unless a
/// few steps lead it out. If filters of system calls cannot be suspended, a process that has any is
/// refused.
pub fn apply_traced(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    live::adopt(pid, kernel, old, options)
}

/// Makes a process what it was before it was linked. Errors are those of [`apply`].
pub fn rollback(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    live::attempts(pid, kernel, old, options, Work::Undo)
}

/// Makes a process ready for a dump: whatever restores it, on this kernel, on its home kernel or on
/// another, finds all threads at places that are right there. The process goes on, with system
/// calls in place of the functions of its old vDSO, and can be dumped at any moment. `apply` links
/// it again, and `rollback` makes it what it was before. Errors are those of [`apply`].
pub fn prepare(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    live::attempts(pid, kernel, old, options, Work::Prepare)
}

/// Makes a process whose threads do not run ready for a dump. Errors are those of [`apply_to`].
pub fn prepare_of(
    target: &mut impl StoppedTarget,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    at_rest(target, kernel, old, options, Work::Prepare)
}

/// Links a process whose threads do not run, such as one in images of a checkpoint, to a kernel.
///
/// Errors are those of [`apply`]; a thread that is in the way now is in the way for ever.
pub fn apply_to(
    target: &mut impl StoppedTarget,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    at_rest(target, kernel, old, options, Work::Link)
}

/// Makes a process whose threads do not run what it was before it was linked. Errors are those of
/// [`apply_to`].
pub fn rollback_of(
    target: &mut impl StoppedTarget,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    at_rest(target, kernel, old, options, Work::Undo)
}

fn at_rest(
    target: &mut impl StoppedTarget,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
    work: Work,
) -> Result<ApplyOutcome> {
    let known = Known {
        sources: old,
        tables: &options.tables,
    };
    let survey = Survey::of(target, kernel, known)?;
    let (transaction, mut outcome) = work.plan(target, &survey, kernel, options)?;
    outcome.attempts = 1;
    if let Some(transaction) = transaction {
        let (steps, crossed) = transaction.steps(&survey, kernel, target, &survey.mappings)?;
        target.carry_out(&steps)?;
        outcome.crossed = crossed;
    }
    Ok(outcome)
}

/// A transaction, if there is anything to do, and its outcome.
type Planned = (Option<Transaction>, ApplyOutcome);

/// What a process is to become.
#[derive(Debug, Clone, Copy)]
enum Work {
    Link,
    Undo,
    Prepare,
}

impl Work {
    /// Plans the changes to a process. A dry run has no transaction, and its outcome says what
    /// would be done.
    fn plan(
        self,
        target: &impl Target,
        survey: &Survey,
        kernel: &RunningKernel,
        options: &ApplyOptions,
    ) -> Result<Planned> {
        survey.check_texts()?;
        let (transaction, mut outcome) = match self {
            Self::Link => link::plan(target, survey, kernel, options.policy)?,
            Self::Prepare => prepare::plan(survey, kernel)?,
            Self::Undo => undo::plan(survey, kernel)?,
        };
        if !options.dry_run {
            return Ok((transaction, outcome));
        }
        outcome.state = outcome.state.only_planned();
        outcome.seen = Some(ThreadsSeen::of(target, survey)?);
        Ok((None, outcome))
    }
}

#[cfg(test)]
mod chains;
#[cfg(test)]
mod forged;
#[cfg(test)]
mod pretend;
#[cfg(test)]
mod tests;
