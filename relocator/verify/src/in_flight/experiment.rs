//! One experiment: the thread is inside, the kernel is swapped, the thread goes on.
//!
//! What happens before the swap is the same whatever is done then. So the thread is stopped once,
//! and put back to where it was stopped for each approach.

use std::ffi::c_int;

use elf_tools::Avma;

use super::answer::Answer;
use super::outcome::{Ending, Variant};
use super::spawn::{ON_ALTERNATE_STACK, ON_STACK};
use super::stage::OperandField;
use super::swap::Swap;
use super::traced_thread::{Activation, Run, Snapshot, TracedThread};
use crate::Approach;
use crate::arch::{LandingPad, registers};
use crate::{Error, Result};
use relocator_process::tracing::UserRegisters;

/// How far below a handler's stack pointer the function is called that the handler calls.
const BELOW_HANDLER: u64 = 0x200;

/// What an activation came to, in words where it has broken the rules.
pub(super) type Landing = Result<Answer, String>;

/// How the thread came out.
#[derive(Debug)]
pub(super) enum ExperimentOutcome {
    /// All activations have returned.
    Landed(Vec<Landing>),
    /// They have not; what was found instead.
    Ended(Ending, String),
}

/// A thread that stands where the kernel is to be swapped under it.
pub(super) struct Stopped {
    variant: Variant,
    /// The thread there.
    pub(super) snapshot: Snapshot,
    /// What it was doing at the boundary.
    outer: Activation,
    inner: Option<Inner>,
}

/// A function that a signal handler has called.
struct Inner {
    activation: Activation,
    /// The thread in the handler.
    handler: UserRegisters,
    /// Whether another signal interrupts it before the kernel is swapped.
    is_interrupted: bool,
}

/// Ends an experiment early.
macro_rules! expect {
    ($run:expr, $thread:expr, $pad:expr) => {
        match $run {
            Run::Trapped(registers) if $thread.is_at($pad, &registers) => registers,
            other => return Ok(ended(other)),
        }
    };
}

/// Stops a thread that is at a boundary in `outer`, on the old kernel; or says how it has ended
/// instead. The function begins at `entry`, and executes `depth` instructions where a handler calls
/// it.
pub(super) fn stop(
    thread: &mut TracedThread,
    (boundary, outer): (&Snapshot, Activation),
    variant: Variant,
    (entry, depth): (Avma, usize),
) -> Result<Result<Stopped, ExperimentOutcome>> {
    let (snapshot, inner) = match variant {
        Variant::Direct => (boundary.clone(), None),
        Variant::Frame => (interrupted(thread, ON_STACK)?, None),
        Variant::AlternateStack => (interrupted(thread, ON_ALTERNATE_STACK)?, None),
        Variant::Nested => match nested(thread, outer, entry, depth)? {
            Ok((snapshot, inner)) => (snapshot, Some(inner)),
            Err(outcome) => return Ok(Err(outcome)),
        },
    };
    Ok(Ok(Stopped {
        variant,
        snapshot,
        outer,
        inner,
    }))
}

fn interrupted(thread: &mut TracedThread, signal: c_int) -> Result<Snapshot> {
    let handler = interrupt(thread, signal)?;
    thread.snapshot(handler)
}

/// Interrupts the thread by a signal: it is in the handler then.
fn interrupt(thread: &mut TracedThread, signal: c_int) -> Result<UserRegisters> {
    match thread.run_with(signal)? {
        Run::Trapped(registers) if thread.is_at(LandingPad::Handler, &registers) => Ok(registers),
        other => Err(Error::Child {
            what: format!("has a thread that signals do not interrupt: {other:?}"),
        }),
    }
}

/// Interrupts the thread, calls the function in the handler, and stops the thread in that.
fn nested(
    thread: &mut TracedThread,
    outer: Activation,
    entry: Avma,
    depth: usize,
) -> Result<Result<(Snapshot, Inner), ExperimentOutcome>> {
    let handler = interrupt(thread, ON_STACK)?;
    let top = Avma((registers::stack_pointer(&handler).0 - BELOW_HANDLER) & !0xf);
    let activation = thread.enter_at(entry, outer.call, OperandField::Inner, top)?;
    let mut registers = thread.registers()?;
    for _ in 0..depth {
        if !thread.stage.text().contains(&registers.pc()) {
            break;
        }
        registers = match thread.step()? {
            Some(next) => next,
            None => {
                let what = "a step met a trap".to_owned();
                return Ok(Err(ExperimentOutcome::Ended(Ending::Crashed, what)));
            }
        };
    }
    let inner = Inner {
        activation,
        handler,
        is_interrupted: depth % 2 == 1,
    };
    Ok(Ok((thread.snapshot(registers)?, inner)))
}

/// A stopped thread, and what is to become of it.
pub(super) struct Experiment<'a, 'b> {
    pub(super) thread: &'a mut TracedThread,
    pub(super) swap: &'a Swap<'b>,
    pub(super) stopped: &'a Stopped,
}

impl Experiment<'_, '_> {
    /// Makes it. The thread is where it was stopped; it is to be restored afterwards.
    pub(super) fn make(&mut self) -> Result<ExperimentOutcome> {
        let steps_out = self.swap.approach() == Approach::StepOut;
        let registers = self.stopped.snapshot.registers;
        match (&self.stopped.inner, self.stopped.variant) {
            (Some(inner), _) => self.nested(inner, steps_out),
            (None, Variant::Direct) if steps_out => Ok(match self.step_out()? {
                Ok(registers) => {
                    ExperimentOutcome::Landed(vec![self.land(self.stopped.outer, &registers)])
                }
                Err(ended) => ended,
            }),
            (None, _) => {
                if let Some(outcome) = self.swap(&registers)? {
                    return Ok(outcome);
                }
                let run = self.thread.run()?;
                let registers = expect!(run, self.thread, LandingPad::Return);
                let landing = self.land(self.stopped.outer, &registers);
                Ok(ExperimentOutcome::Landed(vec![landing]))
            }
        }
    }

    /// Lets the thread return on the old kernel, and swaps the kernel then.
    fn step_out(&mut self) -> Result<Result<UserRegisters, ExperimentOutcome>> {
        let run = self.thread.run()?;
        let outcome = match run {
            Run::Trapped(registers) if self.thread.is_at(LandingPad::Return, &registers) => {
                match self.swap(&registers)? {
                    None => Ok(registers),
                    Some(outcome) => Err(outcome),
                }
            }
            Run::Hung(registers) => {
                let what = format!("it does not come out, and is at {}", registers.pc());
                Err(ExperimentOutcome::Ended(Ending::Stuck, what))
            }
            other => Err(ended(other)),
        };
        Ok(outcome)
    }

    /// Swaps the kernel under a thread with these registers, and carries it across. How it ends if
    /// it cannot be.
    fn swap(&mut self, registers: &UserRegisters) -> Result<Option<ExperimentOutcome>> {
        let fix_up = match self.swap.fix_up(registers, &self.thread.stage) {
            Ok(fix_up) => fix_up,
            Err(reason) => return Ok(Some(ExperimentOutcome::Ended(Ending::Stuck, reason))),
        };
        self.swap.put(&mut self.thread.stage);
        if !self.thread.stage.write_all(&fix_up.writes) {
            let what = "memory was to be written that is not the thread's".to_owned();
            return Ok(Some(ExperimentOutcome::Ended(Ending::Wrong, what)));
        }
        if let Some(moved) = fix_up.registers {
            self.thread.set_registers(&moved)?;
        }
        Ok(None)
    }

    fn land(&self, activation: Activation, registers: &UserRegisters) -> Landing {
        self.thread.answer(&activation, registers)
    }

    /// Swaps the kernel while the thread is in the function that the handler has called; or, where
    /// another signal interrupts that, in the second handler.
    fn nested(&mut self, inner: &Inner, steps_out: bool) -> Result<ExperimentOutcome> {
        let landed = if steps_out {
            match self.step_out()? {
                Ok(registers) => registers,
                Err(outcome) => return Ok(outcome),
            }
        } else {
            let registers = match inner.is_interrupted {
                true => interrupt(self.thread, ON_ALTERNATE_STACK)?,
                false => self.stopped.snapshot.registers,
            };
            if let Some(outcome) = self.swap(&registers)? {
                return Ok(outcome);
            }
            let run = self.thread.run()?;
            expect!(run, self.thread, LandingPad::Return)
        };
        let first = self.land(inner.activation, &landed);
        self.thread.set_registers(&inner.handler)?;
        let run = self.thread.run()?;
        let registers = expect!(run, self.thread, LandingPad::Return);
        Ok(ExperimentOutcome::Landed(vec![
            first,
            self.land(self.stopped.outer, &registers),
        ]))
    }
}

fn ended(run: Run) -> ExperimentOutcome {
    match run {
        Run::Trapped(registers) => {
            let what = format!("it met a trap at {} that is not its own", registers.pc());
            ExperimentOutcome::Ended(Ending::Crashed, what)
        }
        Run::Crashed(stop, registers) => {
            let what = format!("{stop} at {}", registers.pc());
            ExperimentOutcome::Ended(Ending::Crashed, what)
        }
        Run::Hung(registers) => {
            let what = format!("still at {}", registers.pc());
            ExperimentOutcome::Ended(Ending::Hung, what)
        }
    }
}
