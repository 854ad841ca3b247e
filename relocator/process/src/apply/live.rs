//! Works on a live process until no thread is in the way, or until the deadline.

use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::kernel::RunningKernel;
use super::outcome::{ApplyOutcome, ApplyTimes};
use super::survey::Survey;
use super::text::Known;
use super::transaction::Transaction;
use super::{ApplyOptions, DEADLINE, Work};
use crate::targets::StoppedTarget;
use crate::targets::live::{Live, Running, lead_back};
use crate::tracing::TraceableProcess;
use crate::{Error, Obstacle, Result};
use relocator::source::Source;

/// How long a thread may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shortest and the longest pause between attempts, in which threads get on and handlers can
/// return.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Tries it until the deadline.
pub(super) fn attempts(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
    work: Work,
) -> Result<ApplyOutcome> {
    let known = Known {
        sources: old,
        tables: &options.tables,
    };
    let process = TraceableProcess::open(pid)?;
    process.check_linkable()?;
    let deadline = Instant::now() + options.deadline.unwrap_or(DEADLINE);
    let mut pause = PAUSE.0;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let target = Running::of(pid);
        let planned = Survey::of(&target, kernel, known).and_then(|survey| {
            let planned = work.plan(&target, &survey, kernel, options)?;
            Ok((survey, planned))
        });
        let tried = match planned {
            Ok((_, (None, outcome))) => return Ok(outcome),
            Ok((survey, (Some(transaction), mut outcome))) => {
                let done = attempt(&process, kernel, &survey, &transaction, &mut outcome);
                done.map(|()| outcome)
            }
            // What could not be made out may have been on its way.
            Err(_) if target.has_changed() => Err(changing(process.pid())),
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
            Err(error) => return Err(process.explain(error)),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn changing(pid: Pid) -> Error {
    Error::Busy {
        pid: pid.as_raw(),
        reason: Obstacle::ChangingMappings,
    }
}

/// Does it, if the process is still what it was and no thread is in the way.
fn attempt(
    process: &TraceableProcess,
    kernel: &RunningKernel,
    survey: &Survey,
    transaction: &Transaction,
    outcome: &mut ApplyOutcome,
) -> Result<()> {
    let pid = process.pid();
    let mut live = Live::stop(pid.as_raw(), PATIENCE)?;
    let stop = live.stopped_for();
    let restorers = process.restorers(&survey.mappings);
    for tracee in live.tracees() {
        let registers = tracee.registers()?;
        process.check_thread(tracee.pid(), &registers)?;
        let pc = registers.registers().pc;
        process.check_restored(tracee.pid(), pc, || tracee.signal_mask(), &restorers)?;
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
