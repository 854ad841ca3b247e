//! What a process must be to be changed, beyond that its threads can be
//! [stopped](TraceableProcess::open).
//!
//! The tool checks all of this before it stops anything. Some conditions only show in stopped
//! threads, or only the process itself can answer them. For those, callers use
//! [`TraceableProcess::check_thread`] and [`TraceableProcess::undumpable`] later.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;
use nix::unistd::Pid;
use procfs::process::{Process, Stat, StatFlags, Task};

use super::process::traced;
use super::{TraceableProcess, UserRegisters, request, served};
use crate::arch;
use crate::{Error, Refusal, Result};

/// `e_ident` and what follows, to `e_machine`.
const IDENTITY: usize = 20;

impl TraceableProcess {
    /// Refuses a process that cannot be linked: [`Error::Refused`]. It is untouched.
    pub fn check_linkable(&self) -> Result<()> {
        let checked = self
            .check_life()
            .and_then(|()| self.check_dumpable())
            .and_then(|()| self.check_threads())
            .and_then(|()| self.check_program())
            .and_then(|()| self.check_memory());
        checked.map_err(|error| self.explain(error))
    }

    /// Refuses a stopped thread that executes 32-bit code at the moment.
    pub fn check_thread(&self, thread: Pid, registers: &UserRegisters) -> Result<()> {
        match registers.other_code() {
            None => Ok(()),
            Some(shown_by) => Err(self.refused(Refusal::OtherCode {
                thread: thread.as_raw(),
                shown_by,
            })),
        }
    }

    /// The refusal of a process that answers `prctl(PR_GET_DUMPABLE)` with another number than 1.
    /// Only the process itself can ask.
    pub fn undumpable(&self) -> Error {
        self.refused(Refusal::NotDumpable)
    }

    /// Its memory is seen by way of its first thread, which can end before the others.
    fn check_life(&self) -> Result<()> {
        let stat = self.process().stat();
        let stat = stat.map_err(|error| self.failed(error))?;
        match self.without_first_thread() {
            Some(reason) => Err(self.refused(reason)),
            None if stat.vsize == 0 => Err(self.refused(Refusal::NoMemory)),
            None => Ok(()),
        }
    }

    /// The files of a process in `/proc` are root's while it is not dumpable. That shows nothing
    /// about one of root's.
    fn check_dumpable(&self) -> Result<()> {
        let status = self.process().status();
        let status = status.map_err(|error| self.failed(error))?;
        let path = format!("/proc/{}/stat", self.pid());
        let owner = fs::metadata(&path).map_err(Error::path(path))?.uid();
        match owner == status.euid {
            true => Ok(()),
            false => Err(self.undumpable()),
        }
    }

    fn check_threads(&self) -> Result<()> {
        let tasks = self.process().tasks();
        let tasks = tasks.map_err(|error| self.failed(error))?;
        // Those that have ended meanwhile are of no interest.
        tasks
            .filter_map(Result::ok)
            .try_for_each(|task| self.check_task(&task))
    }

    fn check_task(&self, task: &Task) -> Result<()> {
        let Ok(status) = task.status() else {
            return Ok(());
        };
        let thread = task.tid;
        if self.is_traced_otherwise(&status) {
            // One that has ended stays until its tracer takes notice.
            return match task.stat().is_ok_and(|stat| !is_exiting(&stat)) {
                true => Err(self.refused(traced(&status))),
                false => Ok(()),
            };
        }
        self.check_restorer(thread, status.sigblk)?;
        match status.seccomp {
            None | Some(0) => Ok(()),
            // Filters can be suspended while a thread is traced.
            Some(_) if self.is_ours() => Ok(()),
            Some(_) => Err(self.refused(Refusal::Seccomp { thread })),
        }
    }

    fn check_program(&self) -> Result<()> {
        let path = format!("/proc/{}/exe", self.pid());
        if served::is_served_file(self.pid(), Path::new(&path)) {
            // The vDSO shows as much.
            return Ok(());
        }
        let identity = match identity(&path) {
            Ok(identity) => identity,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(self.not_permitted());
            }
            Err(error) => return Err(Error::path(path)(error)),
        };
        match arch::is_native_header(&identity) {
            true => Ok(()),
            false => Err(self.refused(Refusal::OtherMachine {
                shown_by: "its program is for another machine".to_owned(),
            })),
        }
    }

    fn not_permitted(&self) -> Error {
        self.refused(Refusal::NotPermitted)
    }

    /// A change in one of two processes with one memory changes the other, too, which the tool
    /// would not stop.
    fn check_memory(&self) -> Result<()> {
        self.can_be_compared()?;
        let all = procfs::process::all_processes();
        let all = all.map_err(|error| self.failed(error))?;
        for other in all.filter_map(Result::ok) {
            let number = Pid::from_raw(other.pid);
            if number == self.pid() {
                continue;
            }
            let is_certain = match request::shares_memory(self.pid(), number) {
                Ok(false) => continue,
                Ok(true) => true,
                Err(error) if is(&error, libc::ESRCH) => continue,
                Err(_) if !self.is_as_large_as(&other) => continue,
                Err(_) => false,
            };
            return Err(self.refused(Refusal::SharedMemory {
                with: other.pid,
                is_certain,
            }));
        }
        Ok(())
    }

    /// Whether it may be compared with others: it is with itself.
    fn can_be_compared(&self) -> Result<()> {
        match request::shares_memory(self.pid(), self.pid()) {
            Err(error) if is(&error, libc::EPERM) => Err(self.not_permitted()),
            Err(error) if is(&error, libc::ESRCH) => Err(self.ended()),
            // A kernel without this system call.
            _ => Ok(()),
        }
    }

    /// Whether another process has as much memory, and as much of it present: if not, it is not the
    /// same memory. This can be seen of all processes.
    fn is_as_large_as(&self, other: &Process) -> bool {
        let size = |process: &Process| {
            let stat = process.stat().ok()?;
            Some((stat.vsize, stat.rss)).filter(|size| size.0 != 0)
        };
        let own = size(self.process());
        own.is_some() && own == size(other)
    }
}

/// The first bytes of a file.
fn identity(path: &str) -> std::io::Result<[u8; IDENTITY]> {
    let mut identity = [0; IDENTITY];
    File::open(path)?.read_exact(&mut identity)?;
    Ok(identity)
}

/// Whether a thread has ended, or executes nothing any more.
fn is_exiting(stat: &Stat) -> bool {
    let flags = StatFlags::from_bits_truncate(stat.flags);
    matches!(stat.state, 'Z' | 'X' | 'x') || flags.contains(StatFlags::PF_EXITING)
}

fn is(error: &std::io::Error, number: i32) -> bool {
    error.raw_os_error() == Some(number)
}
