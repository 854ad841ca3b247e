//! The worker: a thread of the process that makes system calls for us.
//!
//! Its registers and its mask must come back whatever happens: the tool restores them if it lives,
//! and the [`injected_call`] otherwise. That decides the order. Registers lead into the injected
//! call before signals are blocked, and signals are unblocked before registers are restored, so
//! that the thread is right at any moment. The tool never steps the worker: the kernel does not
//! take the trap flag from a thread whose tracer has died.

use std::ffi::c_int;
use std::time::Duration;

use elf_tools::Avma;
use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use super::injected_call::{self, Interrupted};
use crate::arch::call;
use crate::tracing::{Stop, Tracee, UserRegisters};
use crate::{Error, Refusal, Result};

/// How long an injected call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A system call that does nothing.
const NOTHING: i64 = libc::SYS_getpid;

/// All signals that can be blocked.
const ALL: u64 = u64::MAX;

/// A thread that the tool has taken. Dropping this puts it back and lets it go.
pub(super) struct Worker {
    pid: Pid,
    /// `None` when it was given back.
    tracee: Option<Tracee>,
    whole: UserRegisters,
    thread: Interrupted,
    code: Avma,
}

impl Worker {
    /// Takes a stopped thread, and writes the code of injected calls to `code`.
    pub(super) fn take(tracee: Tracee, code: Avma) -> Result<Self> {
        tracee.set_options(libc::PTRACE_O_TRACESYSGOOD)?;
        Self::take_as_it_is(tracee, code)
    }

    /// The same, of a thread whose system calls are filtered. The kernel suspends its filters as long
    /// as it is traced. That takes `CAP_SYS_ADMIN`.
    pub(super) fn take_unfiltered(tracee: Tracee, code: Avma) -> Result<Self> {
        /// `PTRACE_O_SUSPEND_SECCOMP`
        const SUSPEND_FILTERS: c_int = 1 << 21;
        let thread = tracee.pid();
        if tracee
            .set_options(libc::PTRACE_O_TRACESYSGOOD | SUSPEND_FILTERS)
            .is_err()
        {
            let reason = Refusal::Seccomp {
                thread: thread.as_raw(),
            };
            return Err(Error::refused(thread, reason));
        }
        Self::take_as_it_is(tracee, code)
    }

    fn take_as_it_is(tracee: Tracee, code: Avma) -> Result<Self> {
        let whole = tracee.registers()?;
        let thread = Interrupted {
            registers: whole.registers(),
            mask: tracee.signal_mask()?,
        };
        tracee.poke(code, &injected_call::code(&thread, code))?;
        let mut worker = Self {
            pid: tracee.pid(),
            tracee: Some(tracee),
            whole,
            thread,
            code,
        };
        worker.aim(NOTHING, &[])?;
        worker.tracee()?.set_signal_mask(ALL)?;
        Ok(worker)
    }

    /// Where the code of injected calls is.
    pub(super) fn place(&self) -> Avma {
        self.code
    }

    /// That code.
    pub(super) fn code(&self) -> [u8; injected_call::SIZE] {
        injected_call::code(&self.thread, self.code)
    }

    /// The thread.
    pub(super) fn tracee(&mut self) -> Result<&mut Tracee> {
        let pid = self.pid;
        let ended = || Error::refused(pid, Refusal::Ended);
        self.tracee.as_mut().ok_or_else(ended)
    }

    /// Makes a system call. The outer error is that it could not be made, the inner one what it
    /// said.
    pub(super) fn call(
        &mut self,
        number: i64,
        arguments: &[u64],
    ) -> Result<std::result::Result<u64, Errno>> {
        self.aim(number, arguments)?;
        self.run_to_border()?;
        self.run_to_border()?;
        let registers = self.tracee()?.registers()?.registers();
        Ok(match call::result(&registers) {
            code @ -4095..=-1 => Err(Errno::from_raw(-code as c_int)),
            result => Ok(result.cast_unsigned()),
        })
    }

    /// Puts the thread back, and returns it.
    pub(super) fn release(mut self) -> Result<Tracee> {
        self.put_back()?;
        let tracee = self.tracee.take();
        tracee.ok_or_else(|| Error::refused(self.pid, Refusal::Ended))
    }

    fn aim(&mut self, number: i64, arguments: &[u64]) -> Result<()> {
        let registers = injected_call::calling(&self.thread, self.code, number, arguments);
        let whole = self.whole.with(&registers);
        self.tracee()?.set_registers(&whole)
    }

    /// Runs to the beginning or the end of a system call. Signals are blocked but for those that
    /// cannot be.
    fn run_to_border(&mut self) -> Result<()> {
        let tracee = self.tracee()?;
        let mut signal = 0;
        loop {
            tracee.run_to_system_call(signal)?;
            signal = match tracee.wait(PATIENCE)? {
                Some(Stop::SystemCall) => return Ok(()),
                // The process is stopped. This thread takes part in that when it is let go.
                Some(Stop::Group) => 0,
                Some(Stop::Signal(libc::SIGSTOP)) => libc::SIGSTOP,
                other => return Err(unexpected(tracee, other)),
            };
        }
    }

    /// The kernel only sees to it that an interrupted system call is repeated when a thread comes
    /// from a stop as for a signal. So it is stopped once more before it executes anything, and
    /// gets its registers there.
    fn put_back(&mut self) -> Result<()> {
        let (mask, whole) = (self.thread.mask, self.whole);
        let tracee = self.tracee()?;
        tracee.interrupt()?;
        let mut signal = 0;
        loop {
            tracee.resume(signal)?;
            signal = match tracee.wait(PATIENCE)? {
                Some(Stop::Group) => break,
                Some(Stop::Signal(libc::SIGSTOP)) => libc::SIGSTOP,
                other => return Err(unexpected(tracee, other)),
            };
        }
        tracee.set_signal_mask(mask)?;
        tracee.set_registers(&whole)
    }
}

fn unexpected(tracee: &Tracee, stop: Option<Stop>) -> Error {
    let reason = match stop {
        Some(stop) if stop.is_end() => Refusal::Ended,
        Some(stop) => Refusal::UnexpectedStop { stop },
        None => Refusal::CallDoesNotEnd { patience: PATIENCE },
    };
    Error::refused(tracee.pid(), reason)
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.tracee.is_some() {
            // What fails here fails because the thread has ended.
            let _ = self.put_back();
        }
    }
}
