//! Stops all threads of a process.
//!
//! The tool seizes threads (`PTRACE_SEIZE`) and then interrupts them: unlike a stop signal, that
//! leaves no trace in the process. It sets no option, so if the tracer dies, the threads go on by
//! themselves.

use std::collections::HashSet;
use std::ffi::c_int;
use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::{Stop, Tracee};
use crate::{Error, Refusal, Result};

/// How long to wait for a thread before looking at its state.
const GLANCE: Duration = Duration::from_millis(20);

/// How often a thread must be found in an uninterruptible system call to be left there.
const UNINTERRUPTIBLE: u32 = 5;

/// Whether a thread has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has stopped, and no signal is on its way to it.
    Still,
    /// It is in the kernel and cannot be interrupted there: `vfork`, or a device that does not
    /// answer. It will stop before it executes anything.
    InKernel,
    /// It has ended.
    Gone,
}

impl Tracee {
    /// Stops a thread that runs.
    ///
    /// A signal that was about to be delivered is: the thread then stands at the first instruction
    /// of its handler.
    pub fn stand_still(&mut self, patience: Duration) -> Result<Standing> {
        match self.interrupt() {
            Ok(()) => self.wait_still(patience),
            Err(error) if is_gone(&error) => Ok(Standing::Gone),
            Err(error) => Err(error),
        }
    }

    /// Waits for a thread that was interrupted.
    pub fn wait_still(&mut self, patience: Duration) -> Result<Standing> {
        let started = Instant::now();
        let mut asleep = 0;
        loop {
            let went_on = match self.wait(GLANCE.min(patience)) {
                Ok(Some(Stop::Group)) => return Ok(Standing::Still),
                Ok(Some(stop)) if stop.is_end() => return Ok(Standing::Gone),
                Ok(Some(Stop::Signal(signal))) => self.resume_interrupted(signal),
                Ok(Some(_)) => self.resume_interrupted(0),
                Ok(None) => {
                    asleep += u32::from(self.is_uninterruptible());
                    Ok(())
                }
                Err(error) => Err(error),
            };
            match went_on {
                Ok(()) => {}
                Err(error) if is_gone(&error) => return Ok(Standing::Gone),
                Err(error) => return Err(error),
            }
            if asleep >= UNINTERRUPTIBLE {
                return Ok(Standing::InKernel);
            }
            if started.elapsed() > patience {
                return Err(Error::refused(
                    self.pid(),
                    Refusal::DoesNotStop { patience },
                ));
            }
        }
    }

    /// Lets it run to the stop that it was interrupted for.
    ///
    /// That stop comes by itself only if the thread was interrupted while it stood. Any other stop
    /// takes the place of an interruption that came before it (`ptrace_stop` in the kernel clears
    /// `JOBCTL_TRAP_STOP`), as when it comes while the thread takes the signal of a timer out of
    /// its queue: the kernel lets go of its lock there.
    fn resume_interrupted(&mut self, signal: c_int) -> Result<()> {
        self.interrupt()?;
        self.resume(signal)
    }

    fn is_uninterruptible(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        stat.is_ok_and(|stat| state(&stat) == Some('D'))
    }
}

/// The state in a line of `/proc/PID/stat`: it follows the name, which may have brackets of its
/// own.
fn state(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

/// Whether an error says that a thread is no longer there.
pub fn is_gone(error: &Error) -> bool {
    let Error::Io { source, .. } = error else {
        return false;
    };
    let gone = [Errno::ESRCH, Errno::ECHILD, Errno::ENOENT];
    source
        .raw_os_error()
        .is_some_and(|number| gone.contains(&Errno::from_raw(number)))
}

/// A process whose threads have stopped. Dropping this lets them go on.
#[derive(Debug)]
pub struct Seized {
    pid: Pid,
    patience: Duration,
    still: Vec<Tracee>,
    in_kernel: Vec<Tracee>,
}

impl Seized {
    /// Stops all threads of a process, each within `patience`.
    pub fn stop(pid: Pid, patience: Duration) -> Result<Self> {
        let mut seized = Self {
            pid,
            patience,
            still: Vec::new(),
            in_kernel: Vec::new(),
        };
        while seized.catch_up()? {}
        Ok(seized)
    }

    /// All threads of a process that this thread traces already, and that have all stopped. They
    /// stay so when this is dropped.
    pub(crate) fn adopt(pid: Pid) -> Result<Self> {
        let threads = threads_of(pid)?.into_iter();
        let alive = threads.filter(|&thread| !has_ended(thread));
        Ok(Self {
            pid,
            patience: GLANCE,
            still: alive.map(Tracee::adopt).collect(),
            in_kernel: Vec::new(),
        })
    }

    /// The threads that have stopped.
    pub fn threads(&mut self) -> &mut Vec<Tracee> {
        &mut self.still
    }

    /// The threads that have stopped, to read from.
    pub fn standing(&self) -> &[Tracee] {
        &self.still
    }

    /// The threads that are in the kernel, and will stop before they execute anything.
    pub fn in_kernel(&self) -> &[Tracee] {
        &self.in_kernel
    }

    /// Stops threads that have begun meanwhile; whether there were any.
    ///
    /// All are interrupted before any is waited for, so that they stop at about the same time.
    pub fn catch_up(&mut self) -> Result<bool> {
        let mut new = Vec::new();
        let known = self.known();
        for thread in threads_of(self.pid)? {
            if !known.contains(&thread) {
                new.extend(seize(thread)?);
            }
        }
        let found = !new.is_empty();
        for mut thread in new {
            match thread.wait_still(self.patience)? {
                Standing::Still => self.still.push(thread),
                Standing::InKernel => self.in_kernel.push(thread),
                Standing::Gone => {}
            }
        }
        Ok(found)
    }

    fn known(&self) -> HashSet<Pid> {
        let all = self.still.iter().chain(&self.in_kernel);
        all.map(Tracee::pid).collect()
    }
}

/// Threads in the kernel are let go when this thread ends: before they stop, the kernel does not
/// let go of them.
impl Drop for Seized {
    fn drop(&mut self) {
        for thread in self.in_kernel.drain(..) {
            std::mem::forget(thread);
        }
    }
}

/// Seizes and interrupts a thread; `None` if it has ended.
fn seize(thread: Pid) -> Result<Option<Tracee>> {
    let seized = Tracee::seize(thread).and_then(|tracee| tracee.interrupt().map(|()| tracee));
    match seized {
        Ok(tracee) => Ok(Some(tracee)),
        Err(error) if is_gone(&error) => Ok(None),
        // One that ends is refused.
        Err(_) if has_ended(thread) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Threads of a process, with such as have ended.
fn threads_of(pid: Pid) -> Result<Vec<Pid>> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).map_err(Error::path(&path))?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.map(Pid::from_raw).collect())
}

/// Whether a thread has ended, or is about to and executes nothing any more. The first thread of a
/// process is listed until all others have ended, too.
fn has_ended(thread: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{thread}/stat"));
    stat.map_or(true, |stat| {
        state(&stat).is_none_or(|state| matches!(state, 'Z' | 'X' | 'x')) || is_exiting(&stat)
    })
}

/// `PF_EXITING` among the flags, the sixth number behind the state. Such a thread may have no
/// memory any more, and the kernel refuses to trace it.
fn is_exiting(stat: &str) -> bool {
    const EXITING: u32 = 4;
    let behind = stat.rsplit_once(')').map(|(_, rest)| rest);
    let flags = behind.and_then(|rest| rest.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & EXITING != 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use nix::libc;
    use nix::sys::signal::{Signal, kill};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn();
        let child = child.unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid)
    }

    #[test]
    fn a_signal_that_stopped_a_thread_arrives_when_it_is_let_go() {
        use std::os::unix::process::ExitStatusExt;
        let (mut child, pid) = sleeper();
        let mut tracee = Tracee::seize(pid).unwrap();
        kill(pid, Signal::SIGTERM).unwrap();
        let stop = tracee.wait(PATIENCE).unwrap();
        assert_eq!(stop, Some(Stop::Signal(libc::SIGTERM)));
        drop(tracee);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn all_threads_stand_still_and_go_on() {
        let (mut child, pid) = sleeper();
        let mut seized = Seized::stop(pid, PATIENCE).unwrap();
        assert_eq!(seized.threads().len(), 1);
        assert!(!seized.catch_up().unwrap());
        assert_eq!(seized.in_kernel().len(), 0);
        seized.threads()[0].registers().unwrap();
        drop(seized);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("TracerPid:\t0\n"), "{status}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&Tracee::seize(pid).unwrap_err()));
    }

    #[test]
    fn a_thread_that_is_not_interrupted_does_not_stop() {
        let (mut child, pid) = sleeper();
        let mut tracee = Tracee::seize(pid).unwrap();
        let patience = Duration::from_millis(50);
        let error = tracee.wait_still(patience).unwrap_err();
        assert_eq!(error.refusal(), Some(&Refusal::DoesNotStop { patience }));
        drop(tracee);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_state_is_behind_the_name() {
        assert_eq!(state("1 (a) R) b) S 0 1"), Some('S'));
        assert_eq!(state("1 (a"), None);
        assert_eq!(state("1 (a)"), None);
        assert!(is_exiting("1 (a) 2) R 0 1 1 0 -1 4194308 0"));
        assert!(!is_exiting("1 (a) 2) R 4 4 4 4 4 4194304 4"));
    }
}
