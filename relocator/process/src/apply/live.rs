//! Works on a live process until no thread is in the way, or until the deadline.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::kernel::RunningKernel;
use super::outcome::{ApplyOutcome, ApplyTimes};
use super::survey::Survey;
use super::text::Known;
use super::transaction::Transaction;
use super::{ApplyOptions, DEADLINE, Work};
use crate::maps::SpecialMemory;
use crate::targets::live::{Live, Running, lead_back};
use crate::targets::{StoppedTarget, Target};
use crate::tracing::{TraceableProcess, Undisturbed};
use crate::{Error, Obstacle, Result};
use relocator::source::Source;

/// How long a thread may take to stop, unless the deadline is longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shortest and the longest pause between attempts, in which threads get on and handlers can
/// return.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// How many instructions threads of a process that is stopped are stepped.
const STEPS: usize = 10_000;

/// How often a process that is stopped has the same in the way until the tool gives up: nothing
/// changes there by itself, unless the process is about to go on.
const UNCHANGED: u32 = 5;

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
    let patience = patience(options);
    let mut pause = PAUSE.0;
    let mut attempts = 0;
    let mut still = Still::default();
    loop {
        attempts += 1;
        let is_stopped = process.is_stopped()?;
        let target = Running::of(pid);
        let planned = Survey::of(&target, kernel, known).and_then(|survey| {
            let planned = work.plan(&target, &survey, kernel, options)?;
            Ok((survey, planned))
        });
        let tried = match planned {
            Ok((_, (None, outcome))) => return Ok(outcome),
            Ok((survey, (Some(transaction), mut outcome))) => {
                let work = (&survey, &transaction);
                let stopped = (is_stopped, patience);
                let done = attempt(&process, stopped, kernel, work, &mut outcome);
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
            Err(Error::Busy { pid, reason })
                if still.is_for_ever(is_stopped, &reason) || Instant::now() >= deadline =>
            {
                return Err(process.explain(Error::Busy { pid, reason }));
            }
            Err(Error::Busy { .. }) => {}
            Err(error) => return Err(process.explain(error)),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// How long a thread may take to stop. Where many processes wait for few processors, a thread may
/// not come to its stop for seconds; a caller that gives a longer deadline knows that.
fn patience(options: &ApplyOptions) -> Duration {
    options.deadline.unwrap_or(PATIENCE).max(PATIENCE)
}

/// A thread that is in the way and would go out of the way by itself.
fn in_the_way_of(error: &Error, survey: &Survey, live: &Live) -> Option<i32> {
    let Error::Busy { pid, reason } = error else {
        return None;
    };
    match reason {
        Obstacle::Inside { goes_on: true, .. } => Some(*pid),
        // One that leaves the new vDSO while that moves cannot make the calls that move it.
        Obstacle::NoThreadForCalls => {
            let vdso = survey.found.kernel.as_ref()?.vdso()?;
            let threads = live.threads().ok()?;
            let inside = threads
                .iter()
                .find(|thread| vdso.range.contains(&thread.registers.pc));
            inside.map(|thread| thread.id)
        }
        _ => None,
    }
}

/// What was in the way at the last attempts.
#[derive(Default)]
struct Still {
    obstacle: Option<Obstacle>,
    times: u32,
}

impl Still {
    /// Whether waiting for this to change is pointless.
    fn is_for_ever(&mut self, is_stopped: bool, obstacle: &Obstacle) -> bool {
        let is_same = is_stopped && self.obstacle.as_ref() == Some(obstacle);
        self.times = if is_same { self.times + 1 } else { 1 };
        self.obstacle = Some(obstacle.clone());
        is_stopped && self.times >= UNCHANGED
    }
}

fn changing(pid: Pid) -> Error {
    Error::Busy {
        pid: pid.as_raw(),
        reason: Obstacle::ChangingMappings,
    }
}

/// Reads the special memory of a process that stands still, beside the search for contexts, which
/// takes as long. A reading whose result nobody wants ends by itself.
struct SpecialReading {
    go: Sender<()>,
    reader: JoinHandle<Option<Result<SpecialMemory>>>,
}

impl SpecialReading {
    /// The thread that reads is there before the process stops.
    fn prepare(pid: Pid) -> Self {
        let (go, wait) = channel();
        let read = move || {
            wait.recv()
                .ok()
                .map(|()| Running::of(pid.as_raw()).special())
        };
        Self {
            go,
            reader: thread::spawn(read),
        }
    }

    fn begin(&self) {
        // It waits for that and for nothing else.
        let _ = self.go.send(());
    }

    fn end(self, pid: Pid) -> Result<SpecialMemory> {
        drop(self.go);
        let read = self.reader.join().ok().flatten();
        read.unwrap_or_else(|| Err(changing(pid)))
    }
}

/// Does it, if the process is still what it was and no thread is in the way.
fn attempt(
    process: &TraceableProcess,
    (is_stopped, patience): (bool, Duration),
    kernel: &RunningKernel,
    (survey, transaction): (&Survey, &Transaction),
    outcome: &mut ApplyOutcome,
) -> Result<()> {
    let pid = process.pid();
    let mut states = survey.drops_states().then(|| SpecialReading::prepare(pid));
    let mut live = Live::stop(pid.as_raw(), patience)?;
    let stop = live.stopped_for();
    states.iter().for_each(SpecialReading::begin);
    live.set_special(survey.special.clone());
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
    let mut budget = if is_stopped { STEPS } else { 0 };
    let crossed = loop {
        let steps = transaction.steps(survey, kernel, &live, &mappings);
        let done = steps.and_then(|(steps, crossed)| {
            if let Some(reading) = states.take()
                && !survey.holds_states(&reading.end(pid)?)
            {
                return Err(changing(pid));
            }
            live.carry_out(&steps)?;
            Ok(crossed)
        });
        let in_the_way = done.as_ref().err();
        let in_the_way = in_the_way.and_then(|error| in_the_way_of(error, survey, &live));
        let Some(thread) = in_the_way else {
            break done?;
        };
        // It goes out of the way by itself, but not in a process that is stopped.
        let _undisturbed = Undisturbed::begin();
        if budget == 0 || !live.step(thread)? {
            break done?;
        }
        budget -= 1;
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_deadline_gives_threads_longer_to_stop() {
        let with = |deadline: Option<u64>| {
            patience(&ApplyOptions {
                deadline: deadline.map(Duration::from_secs),
                ..ApplyOptions::default()
            })
        };
        assert_eq!(with(None), PATIENCE);
        assert_eq!(with(Some(1)), PATIENCE);
        assert_eq!(with(Some(60)), Duration::from_secs(60));
    }
}
