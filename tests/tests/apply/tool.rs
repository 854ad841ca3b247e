//! The tool as a process of its own that is traced, so that it can be looked at, and killed, before
//! and after each of its system calls.
//!
//! Either it is the command, or a fork of this process that calls the library: the command takes
//! half a second for what does not touch the process yet, and there are hundreds of moments at
//! which it can be killed.

#![allow(unsafe_code, reason = "a fork, and what is done before it is traced")]

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::libc;
use nix::unistd::Pid;
use relocator_process::tracing::{Stop, Tracee};
use relocator_tests::running::in_words;

/// How long it may run without a system call.
const PATIENCE: Duration = Duration::from_secs(60);

/// `PTRACE_SEIZE`: with it the tool begins to touch the process.
const SEIZE: u64 = libc::PTRACE_SEIZE as u64;

/// `ENOSYS`, which the kernel shows as the result of a system call that has just begun.
const BEGUN: i64 = -(libc::ENOSYS as i64);

/// The status of a tool that has panicked.
pub(crate) const PANICKED: i32 = 101;

/// The tool, stopped where a system call begins or ends. Dropping this kills it; it is gone then.
pub(crate) struct Tool {
    tracee: Tracee,
    output: File,
    /// Whether the next stop is where a system call begins.
    begins: bool,
    has_touched: bool,
    /// The last system call that was counted.
    last: i64,
}

/// What the tool is about to do, or has just done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// The system call.
    pub(crate) call: i64,
    /// Its first argument.
    pub(crate) first: u64,
    /// What it returned; `None` where it has not been made yet.
    pub(crate) result: Option<i64>,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, first, .. } = self;
        match self.result {
            None => write!(f, "before system call {call}({first:#x}, …)"),
            Some(result) => write!(f, "after system call {call}({first:#x}, …) = {result:#x}"),
        }
    }
}

/// How a tool has ended that was not killed.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status.
    pub(crate) status: i32,
    /// What it said.
    pub(crate) said: String,
}

impl Tool {
    /// A fork of this process that does `work`, and says what that returns.
    pub(crate) fn fork(work: impl FnOnce() -> Result<String, String>) -> Result<Self, String> {
        let output = tempfile::tempfile().map_err(|error| in_words(&error))?;
        // SAFETY: libc's allocator works in a child that was forked by one of several threads, and
        // nothing else that other threads of this process may hold is used there.
        match unsafe { libc::fork() } {
            -1 => Err(in_words(&std::io::Error::last_os_error())),
            0 => be_tool(output, work),
            child => Self::begin(child, output, Stop::Signal(libc::SIGSTOP)),
        }
    }

    /// The command.
    pub(crate) fn execute(mut command: Command) -> Result<Self, String> {
        let output = tempfile::tempfile().map_err(|error| in_words(&error))?;
        let copy = || output.try_clone().map_err(|error| in_words(&error));
        command.stdout(Stdio::from(copy()?));
        command.stderr(Stdio::from(copy()?));
        // SAFETY: it makes system calls alone.
        unsafe { command.pre_exec(ask_to_be_traced) };
        let child = command.spawn().map_err(|error| in_words(&error))?;
        Self::begin(child.id().cast_signed(), output, Stop::TRAP)
    }

    /// Waits for the stop that a child is traced from.
    fn begin(child: i32, output: File, first: Stop) -> Result<Self, String> {
        let mut tracee = Tracee::of_child(Pid::from_raw(child));
        match tracee.wait(PATIENCE).map_err(|error| in_words(&error))? {
            Some(stop) if stop == first => {}
            other => return Err(format!("the tool does not begin: {other:?}")),
        }
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        tracee
            .set_options(options)
            .map_err(|error| in_words(&error))?;
        Ok(Self {
            tracee,
            output,
            begins: true,
            has_touched: false,
            last: -1,
        })
    }

    /// Lets it go on to the next moment, from its first request to trace on. All of them are told;
    /// or how it has ended.
    pub(crate) fn next(&mut self) -> Result<Result<Moment, Ended>, String> {
        loop {
            match self.step()? {
                Ok(moment) if self.has_touched => return Ok(Ok(moment)),
                Ok(_) => {}
                Err(ended) => return Ok(Err(ended)),
            }
        }
    }

    /// The same without those that only wait: the tool asks again and again, so their number says
    /// nothing.
    pub(crate) fn next_of_interest(&mut self) -> Result<Result<Moment, Ended>, String> {
        loop {
            let moment = match self.next()? {
                Ok(moment) => moment,
                Err(ended) => return Ok(Err(ended)),
            };
            let is_of_interest = match (moment.call, moment.result) {
                (libc::SYS_sched_yield | libc::SYS_clock_nanosleep, _) => false,
                (libc::SYS_wait4, Some(result)) => result > 0,
                (libc::SYS_wait4, None) => self.last != libc::SYS_wait4,
                _ => true,
            };
            if is_of_interest {
                self.last = moment.call;
                return Ok(Ok(moment));
            }
        }
    }

    /// Lets it run to its end.
    pub(crate) fn finish(mut self) -> Result<Ended, String> {
        loop {
            if let Err(ended) = self.next()? {
                return Ok(ended);
            }
        }
    }

    fn step(&mut self) -> Result<Result<Moment, Ended>, String> {
        let mut signal = 0;
        loop {
            let resumed = self.tracee.run_to_system_call(signal);
            resumed.map_err(|error| in_words(&error))?;
            let stop = self
                .tracee
                .wait(PATIENCE)
                .map_err(|error| in_words(&error))?;
            signal = match stop {
                Some(Stop::SystemCall) => return self.moment().map(Ok),
                Some(Stop::Exited(status)) => {
                    let said = self.said();
                    return Ok(Err(Ended { status, said }));
                }
                Some(Stop::Signal(signal)) => signal,
                other => return Err(format!("the tool: {other:?}: {}", self.said())),
            };
        }
    }

    fn moment(&mut self) -> Result<Moment, String> {
        let registers = self.tracee.registers().map_err(|error| in_words(&error))?.0;
        let result = registers.rax.cast_signed();
        if self.begins && result != BEGUN {
            return Err(format!("a system call begins with the result {result}"));
        }
        let moment = Moment {
            call: registers.orig_rax.cast_signed(),
            first: registers.rdi,
            result: (!self.begins).then_some(result),
        };
        self.begins = !self.begins;
        self.has_touched |= moment.call == libc::SYS_ptrace && moment.first == SEIZE;
        match moment.call {
            libc::SYS_clone | libc::SYS_clone3 if self.has_touched => {
                Err("the tool begins a thread, which would not be killed at its own calls".into())
            }
            _ => Ok(moment),
        }
    }

    fn said(&mut self) -> String {
        let mut said = Vec::new();
        let read = self
            .output
            .rewind()
            .and_then(|()| self.output.read_to_end(&mut said));
        match read {
            Ok(_) => String::from_utf8_lossy(&said).into_owned(),
            Err(error) => format!("what it said cannot be read: {error}"),
        }
    }
}

fn ask_to_be_traced() -> std::io::Result<()> {
    // SAFETY: both are plain system calls with numbers.
    let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: as above.
    let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    match (done, traced) {
        (0, 0) => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// What the fork does. It never comes back to where it was forked.
fn be_tool(mut output: File, work: impl FnOnce() -> Result<String, String>) -> ! {
    let worked = catch_unwind(AssertUnwindSafe(|| {
        ask_to_be_traced().map_err(|error| in_words(&error))?;
        // SAFETY: it stops this process, until its parent goes on with it.
        unsafe { libc::raise(libc::SIGSTOP) };
        work()
    }));
    let (status, said) = match worked {
        Ok(Ok(said)) => (0, said),
        Ok(Err(said)) => (1, said),
        Err(_) => (PANICKED, "it has panicked".to_owned()),
    };
    let _ = output.write_all(said.as_bytes());
    // SAFETY: nothing of the process that it was forked from is to be run.
    unsafe { libc::_exit(status) }
}
