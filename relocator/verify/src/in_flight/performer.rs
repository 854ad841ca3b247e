//! The thread that is stopped and resumed, and the memory it lives in.

use std::ffi::c_int;
use std::time::Duration;

use elf_tools::Avma;
use nix::libc;
use nix::unistd::Pid;

use super::answer::Answer;
use super::call::Call;
use super::pads::Pad;
use super::stage::{OperandField, Stage};
use crate::{Error, Result};
use relocator_process::tracing::{Stop, Tracee, UserRegisters};

/// When a function is taken never to return. They take a microsecond.
const PATIENCE: Duration = Duration::from_millis(400);

/// How long a thread may take to do what can only be a moment, on a machine that is busy.
const LONG: Duration = Duration::from_secs(20);

/// What callee-saved registers hold: `rbx`, `rbp`, `r12` to `r15`.
const SAVED: [u64; 6] = [
    0x0b5e_0001_5a7e_d001,
    0x0b5e_0002_5a7e_d002,
    0x0b5e_0003_5a7e_d003,
    0x0b5e_0004_5a7e_d004,
    0x0b5e_0005_5a7e_d005,
    0x0b5e_0006_5a7e_d006,
];

/// `rflags` at a call: nothing but what is always set, and interrupts.
const FLAGS: u64 = 0x202;

/// How far below the top of a stack the first function is called.
const HEADROOM: i64 = 0x100;

/// How running to the end went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Run {
    /// It has met the trap of a pad.
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
    stack: u64,
}

/// Everything about the thread that an experiment may change.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) registers: UserRegisters,
    extended: Vec<u8>,
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
pub(super) struct Thread {
    tracee: Tracee,
    pub(super) stage: Stage,
    /// As it was when it was ready.
    idle: UserRegisters,
    extended: Vec<u8>,
    mask: u64,
}

impl Thread {
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

    /// Begins a call with its return address directly below `top`, which is a multiple of 16.
    pub(super) fn enter_at(
        &mut self,
        entry: Avma,
        call: Call,
        operand_field: OperandField,
        top: Avma,
    ) -> Result<Activation> {
        let stack = top.offset(-8);
        let back = self.stage.pad(Pad::Return).0.to_le_bytes();
        self.stage.write(stack, &back);
        self.stage.clear_slot(operand_field);
        let mut registers = self.idle;
        let [rdi, rsi, rdx, rcx, r8, r9] = call.arguments(&self.stage, operand_field);
        let user = &mut registers.0;
        (user.rdi, user.rsi, user.rdx) = (rdi, rsi, rdx);
        (user.rcx, user.r8, user.r9) = (rcx, r8, r9);
        (user.rax, user.r10, user.r11) = (0x7a, 0x7b, 0x7c);
        [user.rbx, user.rbp, user.r12, user.r13, user.r14, user.r15] = SAVED;
        (user.rsp, user.eflags) = (stack.0, FLAGS);
        registers.set_pc(entry);
        self.set_registers(&registers)?;
        Ok(Activation {
            call,
            operand_field,
            stack: stack.0,
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
        [Pad::Return, Pad::SystemCall, Pad::Handler]
            .iter()
            .any(|&pad| self.is_at(pad, registers))
    }

    /// Whether it has met the trap of this pad.
    pub(super) fn is_at(&self, pad: Pad, registers: &UserRegisters) -> bool {
        registers.pc() == self.stage.pad(pad).offset(pad.trapped())
    }

    /// What an activation has answered, now that the thread has returned from it; or how it has broken the rules.
    pub(super) fn answer(
        &self,
        activation: &Activation,
        registers: &UserRegisters,
    ) -> Result<Answer, String> {
        let user = &registers.0;
        if !self.is_at(Pad::Return, registers) {
            return Err(format!("it went to {}", registers.pc()));
        }
        let saved = [user.rbx, user.rbp, user.r12, user.r13, user.r14, user.r15];
        if saved != SAVED {
            return Err(format!("callee-saved registers were changed: {saved:#x?}"));
        }
        if user.rsp != activation.stack + 8 {
            let off = user.rsp.wrapping_sub(activation.stack + 8).cast_signed();
            return Err(format!("the stack pointer is off by {off}"));
        }
        if registers.direction() {
            return Err("the direction flag is set".to_owned());
        }
        let operand_field = self.stage.slot_bytes(activation.operand_field);
        Ok(activation.call.answer(user.rax, operand_field))
    }

    /// Makes a call from an entry to its end, and returns what it has answered or how it ended otherwise. The thread is
    /// then to be restored.
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
        self.enter(self.stage.pad(Pad::SystemCall), call, OperandField::Witness)?;
        let mut registers = self.registers()?;
        registers.0.rax = call.system_call().cast_unsigned();
        registers.0.r10 = registers.0.rcx;
        self.set_registers(&registers)?;
        match self.run()? {
            Run::Trapped(registers) if self.is_at(Pad::SystemCall, &registers) => {
                let operand_field = self.stage.slot_bytes(OperandField::Witness);
                Ok(call.answer(registers.0.rax, operand_field))
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
        self.tracee.set_signal_mask(self.mask)?;
        self.tracee.set_extended_state(&snapshot.extended)?;
        let mut registers = snapshot.registers;
        // A system call that the thread has returned from is not begun anew.
        registers.0.orig_rax = u64::MAX;
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
