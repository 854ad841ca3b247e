//! The process that experiments are made with.

#![allow(
    unsafe_code,
    reason = "a process is forked, and handlers of signals are code of our own that no function type describes"
)]

use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{ForkResult, fork};

use super::stage::Stage;
use crate::arch::{LandingPad, SignalAction};
use crate::process;
use crate::time_namespace::{self, Offsets};
use crate::{Error, Result};
use relocator_process::tracing::{Stop, Tracee};

/// Interrupts on the stack that the thread is on.
pub(super) const ON_STACK: libc::c_int = libc::SIGUSR1;
/// Interrupts on the alternate stack.
pub(super) const ON_ALTERNATE_STACK: libc::c_int = libc::SIGUSR2;

/// How long the process may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Exit status of a process that could not enter a time namespace.
const NO_TIME_NAMESPACE: i32 = 40;
/// Exit status of a process that could not be made ready in another way.
const NOT_READY: i32 = 41;

/// Forks a process that sees the stage, with handlers of signals and, if asked for, in a time
/// namespace of its own.
///
/// It stands still when this returns, and does nothing but what it is made to do.
pub(super) fn spawn(stage: &Stage, time_namespace: bool) -> Result<Tracee> {
    // SAFETY: this process has one thread, and the child never returns from here.
    let forked = unsafe { fork() };
    let child = match forked.map_err(|errno| Error::io("a traced process")(errno.into()))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let status = match prepare(stage, time_namespace) {
                Ok(()) => NOT_READY,
                Err(status) => status,
            };
            process::exit_with(status)
        }
    };
    let mut tracee = Tracee::of_child(child);
    match tracee.wait(PATIENCE)? {
        Some(Stop::Signal(libc::SIGSTOP)) => {}
        Some(Stop::Exited(NO_TIME_NAMESPACE)) => {
            return Err(failed("could not enter a time namespace"));
        }
        Some(stop) => return Err(failed(&format!("could not be made ready: {stop}"))),
        None => return Err(failed("was not ready in time")),
    }
    tracee.set_options(libc::PTRACE_O_EXITKILL)?;
    Ok(tracee)
}

fn failed(what: &str) -> Error {
    Error::Child {
        what: format!("has a traced process that {what}"),
    }
}

/// What the child does before it stands still. Only returns if it is let go on, or with a status to
/// exit with.
fn prepare(stage: &Stage, time_namespace: bool) -> Result<(), i32> {
    let not_ready = |_| NOT_READY;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(not_ready)?;
    nix::sys::ptrace::traceme().map_err(not_ready)?;
    if time_namespace {
        time_namespace::enter(Offsets::RESTORED).map_err(|_| NO_TIME_NAMESPACE)?;
    }
    let stack = stage.alternate_stack();
    let alternate = libc::stack_t {
        ss_sp: std::ptr::with_exposed_provenance_mut(stack.start.0 as usize),
        ss_flags: 0,
        ss_size: stack.end.distance_from(stack.start) as usize,
    };
    // SAFETY: the kernel reads the structure; the memory that it names stays, and nothing else uses
    // it.
    if unsafe { libc::sigaltstack(&raw const alternate, std::ptr::null_mut()) } != 0 {
        return Err(NOT_READY);
    }
    handle(stage, ON_STACK, 0)?;
    handle(stage, ON_ALTERNATE_STACK, libc::SA_ONSTACK as u64)?;
    raise(Signal::SIGSTOP).map_err(not_ready)
}

fn handle(stage: &Stage, signal: libc::c_int, flags: u64) -> Result<(), i32> {
    let handler = stage.landing_pad(LandingPad::Handler);
    let restorer = stage.landing_pad(LandingPad::Restorer);
    let action = SignalAction::new(handler, restorer, flags);
    let nothing = std::ptr::null_mut::<SignalAction>();
    let (number, size) = (libc::SYS_rt_sigaction, size_of::<u64>());
    // SAFETY: the kernel reads the structure. The handler is code that traps and returns, and the
    // restorer ends it.
    match unsafe { libc::syscall(number, signal, &raw const action, nothing, size) } {
        0 => Ok(()),
        _ => Err(NOT_READY),
    }
}
