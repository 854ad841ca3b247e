//! One experiment: the thread is inside, the kernel is swapped, the thread goes on.

use std::ffi::c_int;

use elf_tools::Avma;

use super::answer::Answer;
use super::outcome::{Ending, Variant};
use super::pads::Pad;
use super::performer::{Activation, Run, Snapshot, Thread};
use super::spawn::{ON_ALTERNATE_STACK, ON_STACK};
use super::stage::OperandField;
use super::swap::Swap;
use crate::Approach;
use crate::{Error, Result};
use relocator_process::tracing::UserRegisters;

/// How far below a handler's stack pointer the function is called that the handler calls.
const BELOW_HANDLER: u64 = 0x200;

/// What an activation came to, in words where it has broken the rules.
pub(super) type Landing = Result<Answer, String>;

/// How the thread came out.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All activations have returned.
    Landed(Vec<Landing>),
    /// They have not; what was found instead.
    Ended(Ending, String),
}

/// A thread that stands at a boundary, and what is to become of it.
pub(super) struct Experiment<'a, 'b> {
    pub(super) thread: &'a mut Thread,
    pub(super) swap: &'a Swap<'b>,
    /// Where functions begin.
    pub(super) entry: Avma,
    /// What it was doing.
    pub(super) activation: Activation,
    /// The thread at the boundary.
    pub(super) snapshot: &'a Snapshot,
    /// How many instructions a function executes that a handler calls, before it is stopped.
    pub(super) depth: usize,
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

impl Experiment<'_, '_> {
    /// Makes it. The thread is where it was stopped last; it is to be restored.
    pub(super) fn make(&mut self, variant: Variant) -> Result<Outcome> {
        match variant {
            Variant::Direct => self.direct(),
            Variant::Frame => self.interrupted(ON_STACK),
            Variant::AlternateStack => self.interrupted(ON_ALTERNATE_STACK),
            Variant::Nested => self.nested(),
        }
    }

    fn direct(&mut self) -> Result<Outcome> {
        if self.swap.approach() == Approach::StepOut {
            return Ok(match self.step_out()? {
                Ok(registers) => Outcome::Landed(vec![self.land(self.activation, &registers)]),
                Err(ended) => ended,
            });
        }
        if let Some(outcome) = self.swap(&self.snapshot.registers.clone())? {
            return Ok(outcome);
        }
        let run = self.thread.run()?;
        let registers = expect!(run, self.thread, Pad::Return);
        Ok(Outcome::Landed(vec![
            self.land(self.activation, &registers),
        ]))
    }

    /// Lets the thread return on the old kernel, and swaps the kernel then.
    fn step_out(&mut self) -> Result<Result<UserRegisters, Outcome>> {
        let run = self.thread.run()?;
        let outcome = match run {
            Run::Trapped(registers) if self.thread.is_at(Pad::Return, &registers) => {
                match self.swap(&registers)? {
                    None => Ok(registers),
                    Some(outcome) => Err(outcome),
                }
            }
            Run::Hung(registers) => {
                let what = format!("it does not come out, and is at {}", registers.pc());
                Err(Outcome::Ended(Ending::Stuck, what))
            }
            other => Err(ended(other)),
        };
        Ok(outcome)
    }

    /// Swaps the kernel under a thread with these registers, and carries it across. How it ends if it cannot be.
    fn swap(&mut self, registers: &UserRegisters) -> Result<Option<Outcome>> {
        let fix_up = match self.swap.fix_up(registers, &self.thread.stage) {
            Ok(fix_up) => fix_up,
            Err(reason) => return Ok(Some(Outcome::Ended(Ending::Stuck, reason))),
        };
        self.swap.put(&mut self.thread.stage);
        if !self.thread.stage.write_all(&fix_up.writes) {
            let what = "memory was to be written that is not the thread's".to_owned();
            return Ok(Some(Outcome::Ended(Ending::Wrong, what)));
        }
        if let Some(moved) = fix_up.registers {
            self.thread.set_registers(&moved)?;
        }
        Ok(None)
    }

    fn land(&self, activation: Activation, registers: &UserRegisters) -> Landing {
        self.thread.answer(&activation, registers)
    }

    /// Has a signal interrupt the thread: it is in the handler then.
    fn interrupt(&mut self, signal: c_int) -> Result<UserRegisters> {
        match self.thread.run_with(signal)? {
            Run::Trapped(registers) if self.thread.is_at(Pad::Handler, &registers) => Ok(registers),
            other => Err(Error::Child {
                what: format!("has a thread that signals do not interrupt: {other:?}"),
            }),
        }
    }

    fn interrupted(&mut self, signal: c_int) -> Result<Outcome> {
        let handler = self.interrupt(signal)?;
        if let Some(outcome) = self.swap(&handler)? {
            return Ok(outcome);
        }
        let run = self.thread.run()?;
        let registers = expect!(run, self.thread, Pad::Return);
        Ok(Outcome::Landed(vec![
            self.land(self.activation, &registers),
        ]))
    }

    /// Has the handler call the function, and stops the thread in that; or, with an odd depth, has another signal interrupt
    /// it there, and stops the thread in the second handler.
    fn nested(&mut self) -> Result<Outcome> {
        let handler = self.interrupt(ON_STACK)?;
        let top = Avma((handler.0.rsp - BELOW_HANDLER) & !0xf);
        let inner =
            self.thread
                .enter_at(self.entry, self.activation.call, OperandField::Inner, top)?;
        let mut registers = self.thread.registers()?;
        for _ in 0..self.depth {
            if !self.thread.stage.text().contains(&registers.pc()) {
                break;
            }
            registers = match self.thread.step()? {
                Some(next) => next,
                None => {
                    return Ok(Outcome::Ended(
                        Ending::Crashed,
                        "a step met a trap".to_owned(),
                    ));
                }
            };
        }
        let landed = if self.swap.approach() == Approach::StepOut {
            match self.step_out()? {
                Ok(registers) => registers,
                Err(outcome) => return Ok(outcome),
            }
        } else {
            if self.depth % 2 == 1 {
                registers = self.interrupt(ON_ALTERNATE_STACK)?;
            }
            if let Some(outcome) = self.swap(&registers)? {
                return Ok(outcome);
            }
            let run = self.thread.run()?;
            expect!(run, self.thread, Pad::Return)
        };
        let first = self.land(inner, &landed);
        self.thread.set_registers(&handler)?;
        let run = self.thread.run()?;
        let registers = expect!(run, self.thread, Pad::Return);
        Ok(Outcome::Landed(vec![
            first,
            self.land(self.activation, &registers),
        ]))
    }
}

fn ended(run: Run) -> Outcome {
    match run {
        Run::Trapped(registers) => {
            let what = format!("it met a trap at {} that is not its own", registers.pc());
            Outcome::Ended(Ending::Crashed, what)
        }
        Run::Crashed(stop, registers) => {
            let what = format!("{stop} at {}", registers.pc());
            Outcome::Ended(Ending::Crashed, what)
        }
        Run::Hung(registers) => {
            let what = format!("still at {}", registers.pc());
            Outcome::Ended(Ending::Hung, what)
        }
    }
}
