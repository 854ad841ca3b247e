//! Works on a live process until no thread is in the way, or until the deadline.

use std::ops::Range;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use nix::unistd::Pid;

use super::kernel::RunningKernel;
use super::outcome::{ApplyOutcome, ApplyTimes};
use super::precondition;
use super::survey::Survey;
use super::text::Known;
use super::transaction::{Crossed, Transaction};
use super::{ApplyOptions, DEADLINE, Work};
use crate::maps::Watch;
use crate::targets::live::{Live, Running, lead_back};
use crate::targets::{Mapping, StoppedTarget};
use crate::tracing::{StandingMemory, TraceableProcess, Undisturbed};
use crate::{Error, Obstacle, Refusal, Result};
use relocator::source::Source;
use relocator::threads::frames::Earlier;

/// How long a thread may take to stop, unless the deadline is longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shortest and the longest pause between attempts, in which threads get on and handlers can
/// return.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// How many instructions threads of a process that is stopped are stepped.
const STEPS: usize = 10_000;

/// How many instructions threads of one that goes on are stepped, and from which attempt on. There
/// may be but one thread, which is nearly always where it is in the way.
const STEPS_OF_RUNNING: (usize, u32) = (1000, 8);

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
    let deadline = Instant::now() + options.deadline.unwrap_or(DEADLINE);
    let process = TraceableProcess::open_until(pid, deadline)?;
    process.check_linkable()?;
    let done = attempts_on(&process, kernel, known, options, work, deadline);
    done.map_err(|error| process.explain(error))
}

/// The same, of a process that can be linked.
fn attempts_on(
    process: &TraceableProcess,
    kernel: &RunningKernel,
    known: Known<'_>,
    options: &ApplyOptions,
    work: Work,
    deadline: Instant,
) -> Result<ApplyOutcome> {
    let pid = process.pid().as_raw();
    let patience = patience(options);
    let mut target = Running::until(pid, deadline);
    let mut pause = PAUSE.0;
    let mut attempts = 0;
    let mut still = Still::default();
    let mut earlier = None;
    loop {
        attempts += 1;
        let is_stopped = process.is_stopped()?;
        target.look_again();
        let planned = Survey::of(&target, kernel, known).and_then(|survey| {
            let planned = work.plan(&target, &survey, kernel, options)?;
            Ok((survey, planned))
        });
        if let Some(at) = target.unanswered() {
            return Err(unserved(pid, at));
        }
        let tried = match planned {
            Ok((_, (None, outcome))) => return Ok(outcome),
            Ok((survey, (Some(transaction), mut outcome))) => {
                precondition::check(process, &survey, &transaction)?;
                let work = (&survey, &transaction);
                let budget = match is_stopped {
                    true => STEPS,
                    false if attempts < STEPS_OF_RUNNING.1 => 0,
                    false => STEPS_OF_RUNNING.0,
                };
                let done = attempt(
                    process,
                    (budget, patience),
                    kernel,
                    work,
                    &earlier,
                    &mut outcome,
                );
                if let Err(Error::Busy {
                    reason: Obstacle::Unsearched { ranges },
                    ..
                }) = &done
                {
                    let texts: Vec<Range<Avma>> = survey.occupied().collect();
                    earlier = Some(target.search(ranges, &texts)?);
                    continue;
                }
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
                return Err(match reason {
                    Obstacle::Absent { ranges } if !ranges.is_empty() => {
                        unserved(pid, ranges[0].start)
                    }
                    reason => Error::Busy { pid, reason },
                });
            }
            Err(Error::Busy {
                reason: Obstacle::Absent { ranges },
                ..
            }) => {
                // It comes while the process goes on, if it comes.
                if !target.bring(&ranges)
                    && let Some(at) = target.unanswered()
                {
                    return Err(unserved(pid, at));
                }
            }
            Err(Error::Busy { .. }) => {}
            Err(error) => return Err(error),
        }
        // What was found in stacks is only good for the next attempt.
        earlier = None;
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

/// Memory of a process that does not come.
fn unserved(pid: i32, at: Avma) -> Error {
    Error::refused(pid, Refusal::Unserved { at })
}

/// What the tool could not see of a process that has stopped.
fn absent(live: &Live) -> Option<Error> {
    let ranges = live.take_absent();
    (!ranges.is_empty()).then(|| Error::Busy {
        pid: live.pid().as_raw(),
        reason: Obstacle::Absent { ranges },
    })
}

/// What the tool has not searched, and can search while the process goes on.
fn unsearched(pid: Pid, crossed: &Crossed) -> Option<Error> {
    let ranges = crossed.left_out.clone();
    (!ranges.is_empty()).then(|| Error::Busy {
        pid: pid.as_raw(),
        reason: Obstacle::Unsearched { ranges },
    })
}

fn changing(pid: Pid) -> Error {
    Error::Busy {
        pid: pid.as_raw(),
        reason: Obstacle::ChangingMappings,
    }
}

/// Checks what only a stopped process shows, and that it still is what was surveyed; its mappings.
fn check_threads(
    process: &TraceableProcess,
    survey: &Survey,
    transaction: &Transaction,
    live: &mut Live,
) -> Result<Rc<Vec<Mapping>>> {
    for tracee in live.tracees() {
        let registers = tracee.registers()?;
        process.check_thread(tracee.pid(), &registers)?;
        let pc = registers.registers().pc;
        process.check_restored(tracee.pid(), pc, || tracee.signal_mask(), &survey.mappings)?;
        lead_back(tracee, &registers)?;
    }
    let held = survey.holds(live, &transaction.places())?;
    held.ok_or_else(|| absent(live).unwrap_or_else(|| changing(process.pid())))
}

/// Carries out a transaction. Threads that are in the way are stepped, `budget` instructions in all.
fn commit(
    (survey, transaction): (&Survey, &Transaction),
    kernel: &RunningKernel,
    live: &mut Live,
    mappings: &Rc<Vec<Mapping>>,
    (mut budget, searched): (usize, bool),
) -> Result<Crossed> {
    loop {
        let steps = transaction.steps(survey, kernel, &*live, mappings);
        let steps = absent(live).map_or(steps, Err);
        let steps = steps.and_then(|steps| match searched {
            false => unsearched(live.pid(), &steps.1).map_or(Ok(steps), Err),
            true => Ok(steps),
        });
        let done = steps.and_then(|(steps, crossed)| {
            live.carry_out(&steps)?;
            Ok(crossed)
        });
        let in_the_way = done.as_ref().err();
        let in_the_way = in_the_way.and_then(|error| in_the_way_of(error, survey, live));
        let Some(thread) = in_the_way else {
            return done;
        };
        // It goes out of the way by itself, but not in a process that is stopped.
        let _undisturbed = Undisturbed::begin();
        if budget == 0 || !live.step(thread)? {
            return done;
        }
        budget -= 1;
    }
}

/// Links a process that the calling thread traces already, and whose threads have all stopped.
pub(super) fn adopt(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &ApplyOptions,
) -> Result<ApplyOutcome> {
    let known = Known {
        sources: old,
        tables: &options.tables,
    };
    let deadline = Instant::now() + options.deadline.unwrap_or(DEADLINE);
    let process = TraceableProcess::open_traced(pid, deadline)?;
    process.check_linkable()?;
    let mut live = Live::adopt(process.pid())?;
    let survey = Survey::of(&live, kernel, known)?;
    let (transaction, mut outcome) = Work::Link.plan(&live, &survey, kernel, options)?;
    outcome.attempts = 1;
    let Some(transaction) = transaction else {
        return Ok(outcome);
    };
    precondition::check(&process, &survey, &transaction)?;
    let mappings = check_threads(&process, &survey, &transaction, &mut live)?;
    let work = (&survey, &transaction);
    outcome.crossed = commit(work, kernel, &mut live, &mappings, (STEPS, true))?;
    let commit = live.stopped_for();
    outcome.times = ApplyTimes {
        stop: Duration::ZERO,
        commit,
        total: commit,
    };
    Ok(outcome)
}

/// Does it, if the process is still what it was and no thread is in the way.
fn attempt(
    process: &TraceableProcess,
    (budget, patience): (usize, Duration),
    kernel: &RunningKernel,
    (survey, transaction): (&Survey, &Transaction),
    earlier: &Option<Earlier>,
    outcome: &mut ApplyOutcome,
) -> Result<()> {
    let pid = process.pid();
    let watch = match survey.has_states() {
        true => Watch::begin(pid.as_raw(), &survey.special.droppable),
        false => None,
    };
    let memory = StandingMemory::new(pid, &survey.mappings, &survey.special);
    let mut live = Live::stop(pid.as_raw(), patience)?;
    let stop = live.stopped_for();
    live.set_special(survey.special.clone());
    live.set_memory(memory);
    live.set_known(earlier.clone().unwrap_or_default(), watch);
    let mappings = check_threads(process, survey, transaction, &mut live)?;
    let searched = earlier.is_some();
    let crossed = commit(
        (survey, transaction),
        kernel,
        &mut live,
        &mappings,
        (budget, searched),
    )?;
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
