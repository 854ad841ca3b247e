//! Why a thread stopped, by the status that the kernel reports.

use std::ffi::c_int;
use std::fmt;

use nix::libc;
use nix::sys::signal::Signal;

/// What `PTRACE_O_TRACESYSGOOD` has instead of a signal.
const SYSTEM_CALL: c_int = libc::SIGTRAP | 0x80;

/// Why a thread does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A signal is about to be delivered; or a step is done, or a trap was met, which are
    /// [`Stop::TRAP`]. Numbers are those of `signal(7)`, real-time ones included.
    Signal(c_int),
    /// `PTRACE_EVENT_*`: an event that was asked for.
    Event(c_int),
    /// A stop signal has stopped the whole process (a group stop), or the tracer has interrupted
    /// the thread.
    Group,
    /// A system call begins or ends, which was asked for ([`super::Tracee::run_to_system_call`]).
    SystemCall,
    /// It has exited with that status.
    Exited(c_int),
    /// A signal has ended it.
    Killed(c_int),
}

impl Stop {
    /// A step or a breakpoint.
    pub const TRAP: Self = Self::Signal(libc::SIGTRAP);

    /// From a status of `waitpid`; `None` where the thread runs.
    pub(super) fn from_status(status: c_int) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Self::Killed(libc::WTERMSIG(status)))
        } else if libc::WIFSTOPPED(status) {
            Some(match status >> 16 {
                0 if libc::WSTOPSIG(status) == SYSTEM_CALL => Self::SystemCall,
                0 => Self::Signal(libc::WSTOPSIG(status)),
                libc::PTRACE_EVENT_STOP => Self::Group,
                event => Self::Event(event),
            })
        } else {
            None
        }
    }

    /// The signal that would be lost if the thread went on without it, or 0. Traps are for the
    /// tracer.
    pub fn due(self) -> c_int {
        match self {
            Self::TRAP => 0,
            Self::Signal(signal) => signal,
            _ => 0,
        }
    }

    /// Whether the thread is gone.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Exited(_) | Self::Killed(_))
    }
}

/// The name of a signal, or its number.
fn name(signal: c_int) -> String {
    match Signal::try_from(signal) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {signal}"),
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Signal(signal) => f.write_str(&name(signal)),
            Self::Event(event) => write!(f, "event {event}"),
            Self::SystemCall => f.write_str("a system call"),
            Self::Group => f.write_str("a stop of its process"),
            Self::Exited(status) => write!(f, "exit with status {status}"),
            Self::Killed(signal) => write!(f, "death by {}", name(signal)),
        }
    }
}
