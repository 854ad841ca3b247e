//! The thread that is stopped and resumed, and the memory it lives in.

use std::ffi::c_int;
use std::time::Duration;

use elf_tools::Avma;
use nix::libc;
use nix::unistd::Pid;

use super::answer::Answer;
use super::call::Call;
use super::stage::{OperandField, Stage};
use crate::arch::{LandingPad, registers};
use crate::{Error, Result};
use relocator_process::tracing::{Stop, Tracee, UserRegisters};

/// When a function is taken never to return. They take a microsecond.
const PATIENCE: Duration = Duration::from_millis(400);

/// How long a thread may take to do what can only be a moment, on a machine that is busy.
const LONG: Duration = Duration::from_secs(20);

/// How far below the top of a stack the first function is called.
const HEADROOM: i64 = 0x100;

/// How running to the end went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Run {
    /// It has met the trap of a landing pad.
    Trapped(UserRegisters),
    /// Something else has stopped it.
    Crashed(Stop, UserRegisters),
    /// It goes on for ever.
    Hung(UserRegisters),
}

/// A call that was begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activation {
    pub(super) call: Call,
    pub(super) operand_field: OperandField,
    /// The stack pointer at the entry.
    stack: Avma,
}

/// Everything about the thread that an experiment may change.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) registers: UserRegisters,
    extended: Vec<u8>,
    mask: u64,
    pages: Vec<u8>,
    writable: Vec<u8>,
}

impl Snapshot {
    /// What the old kernel's pages hold.
    pub(super) fn pages(&self) -> &[u8] {
        &self.pages
    }
}

/// The thread.
#[derive(Debug)]
pub(super) struct TracedThread {
    tracee: Tracee,
    pub(super) stage: Stage,
    /// As it was when it was ready.
    idle: UserRegisters,
    extended: Vec<u8>,
    mask: u64,
}

impl TracedThread {
    /// A thread that was spawned for a stage.
    pub(super) fn new(tracee: Tracee, stage: Stage) -> Result<Self> {
        let idle = tracee.registers()?;
        let extended = tracee.extended_state()?;
        let mask = tracee.signal_mask()?;
        Ok(Self {
            tracee,
            stage,
            idle,
            extended,
            mask,
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.tracee.pid()
    }

    pub(super) fn registers(&self) -> Result<UserRegisters> {
        Ok(self.tracee.registers()?)
    }

    pub(super) fn set_registers(&self, registers: &UserRegisters) -> Result<()> {
        Ok(self.tracee.set_registers(registers)?)
    }

    /// Begins a call on the usual stack: the thread is at the entry.
    pub(super) fn enter(
        &mut self,
        entry: Avma,
        call: Call,
        operand_field: OperandField,
    ) -> Result<Activation> {
        let top = self.stage.stack().end.offset(-HEADROOM);
        self.enter_at(entry, call, operand_field, top)
    }

    /// Begins a call by a caller whose stack ends at `top`, which is a multiple of 16.
    pub(super) fn enter_at(
        &mut self,
        entry: Avma,
        call: Call,
        operand_field: OperandField,
        top: Avma,
    ) -> Result<Activation> {
        let mut registers = self.idle;
        let back = self.stage.landing_pad(LandingPad::Return);
        let arguments = call.arguments(&self.stage, operand_field);
        let begun = registers::begin_call(&mut registers, (entry, back), arguments, top);
        self.stage.write(begun.stack, &begun.bytes);
        self.stage.clear_slot(operand_field);
        self.set_registers(&registers)?;
        Ok(Activation {
            call,
            operand_field,
            stack: begun.stack,
        })
    }

    /// Executes one instruction; `None` if a trap or a signal was met instead.
    pub(super) fn step(&mut self) -> Result<Option<UserRegisters>> {
        self.tracee.step(0)?;
        let stop = self.tracee.wait(LONG)?;
        let stop = stop.ok_or_else(|| died("does not come back from a step"))?;
        let registers = self.living(stop)?;
        Ok((stop == Stop::TRAP).then_some(registers))
    }

    /// Runs until something stops it.
    pub(super) fn run(&mut self) -> Result<Run> {
        self.run_with(0)
    }

    /// The same, with a signal that is delivered first.
    pub(super) fn run_with(&mut self, signal: c_int) -> Result<Run> {
        self.tracee.resume(signal)?;
        if let Some(stop) = self.tracee.wait(PATIENCE)? {
            let registers = self.living(stop)?;
            return Ok(match stop {
                Stop::TRAP if self.is_at_a_trap(&registers) => Run::Trapped(registers),
                stop => Run::Crashed(stop, registers),
            });
        }
        self.tracee.halt()?;
        let stop = self.tracee.wait(LONG)?;
        let stop = stop.ok_or_else(|| died("does not stop"))?;
        let registers = self.living(stop)?;
        if stop != Stop::Signal(libc::SIGSTOP) {
            // It has stopped for itself at the last moment, and the signal is still to come.
            self.tracee.resume(0)?;
            let stop = self.tracee.wait(LONG)?;
            self.living(stop.ok_or_else(|| died("does not stop"))?)?;
        }
        Ok(Run::Hung(registers))
    }

    fn living(&self, stop: Stop) -> Result<UserRegisters> {
        match stop.is_end() {
            true => Err(died(&format!("was lost: {stop}"))),
            false => Ok(self.tracee.registers()?),
        }
    }

    fn is_at_a_trap(&self, registers: &UserRegisters) -> bool {
        [
            LandingPad::Return,
            LandingPad::SystemCall,
            LandingPad::Handler,
        ]
        .iter()
        .any(|&pad| self.is_at(pad, registers))
    }

    /// Whether it has met the trap of this pad.
    pub(super) fn is_at(&self, pad: LandingPad, registers: &UserRegisters) -> bool {
        registers.pc() == self.stage.landing_pad(pad).offset(pad.trapped())
    }

    /// What an activation has answered, now that the thread has returned from it; or how it has
    /// broken the rules.
    pub(super) fn answer(
        &self,
        activation: &Activation,
        registers: &UserRegisters,
    ) -> Result<Answer, String> {
        if !self.is_at(LandingPad::Return, registers) {
            return Err(format!("it went to {}", registers.pc()));
        }
        registers::check_return(registers, activation.stack)?;
        let operand_field = self.stage.slot_bytes(activation.operand_field);
        Ok(activation
            .call
            .answer(registers::result(registers), operand_field))
    }

    /// Makes a call from an entry to its end, and returns what it has answered or how it ended
    /// otherwise. The thread is then to be restored.
    pub(super) fn call(
        &mut self,
        entry: Avma,
        call: Call,
        operand_field: OperandField,
    ) -> Result<Result<Answer, String>> {
        let activation = self.enter(entry, call, operand_field)?;
        Ok(match self.run()? {
            Run::Trapped(registers) => self.answer(&activation, &registers),
            Run::Crashed(stop, registers) => Err(format!("{stop} at {}", registers.pc())),
            Run::Hung(registers) => Err(format!("it hangs at {}", registers.pc())),
        })
    }

    /// Has the thread make the system call that does the same. The thread is then to be restored.
    pub(super) fn system_call(&mut self, call: Call) -> Result<Answer> {
        let pad = self.stage.landing_pad(LandingPad::SystemCall);
        self.enter(pad, call, OperandField::Witness)?;
        let mut registers = self.registers()?;
        registers::begin_system_call(&mut registers, call.system_call());
        self.set_registers(&registers)?;
        match self.run()? {
            Run::Trapped(registers) if self.is_at(LandingPad::SystemCall, &registers) => {
                let operand_field = self.stage.slot_bytes(OperandField::Witness);
                Ok(call.answer(registers::result(&registers), operand_field))
            }
            other => Err(died(&format!("cannot make a system call: {other:?}"))),
        }
    }

    /// Everything that an experiment may change, with these registers.
    pub(super) fn snapshot(&self, registers: UserRegisters) -> Result<Snapshot> {
        let layout = self.stage.layout();
        Ok(Snapshot {
            registers,
            extended: self.tracee.extended_state()?,
            mask: self.tracee.signal_mask()?,
            pages: self.stage.bytes(layout.pages.clone()),
            writable: self.stage.bytes(layout.writable.clone()),
        })
    }

    /// Puts it back.
    pub(super) fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let layout = self.stage.layout();
        let (pages, writable) = (layout.pages.start, layout.writable.start);
        self.stage.put(pages, &snapshot.pages);
        self.stage.put(writable, &snapshot.writable);
        self.tracee.set_signal_mask(snapshot.mask)?;
        self.tracee.set_extended_state(&snapshot.extended)?;
        let mut registers = snapshot.registers;
        // The kernel does not restart a system call that the thread has returned from.
        registers.set_pc(registers.pc());
        self.set_registers(&registers)
    }

    /// Makes memory and vector registers as they were when nothing had ever run.
    pub(super) fn reset(&mut self) -> Result<()> {
        self.stage.clear();
        self.tracee.set_signal_mask(self.mask)?;
        Ok(self.tracee.set_extended_state(&self.extended)?)
    }
}

fn died(what: &str) -> Error {
    Error::Child {
        what: format!("has a thread that {what}"),
    }
}
