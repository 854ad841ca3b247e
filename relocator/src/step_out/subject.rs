//! The process whose threads are to leave: whether it can be worked on, where its vDSOs are, and how it is left.

use std::fs;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::image::Image;
use elf_tools::{Avma, Class, Machine};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::ProcError;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process, StatFlags};

use crate::threads::Memory;
use crate::tracing::{ProcessMemory, Seized};
use crate::{Error, Result};

/// Where programs are told that their vDSO is. After a restore that is not where the kernel's own is.
const AT_SYSINFO_EHDR: u64 = 33;

/// The largest mapping that is taken for a vDSO.
const MAX_VDSO: u64 = 1 << 20;

/// How long a process is given to be stopped once all of its threads were told.
const STOPPING: Duration = Duration::from_secs(5);

/// The error for a process that is no longer there.
pub(super) fn ended(pid: Pid) -> Error {
    refused(pid, "has ended meanwhile")
}

fn refused(pid: Pid, reason: impl Into<String>) -> Error {
    Error::Process {
        pid: pid.as_raw(),
        reason: reason.into(),
    }
}

/// Where a thread that waits in the kernel called it.
pub(super) fn blocked_at(thread: Pid) -> Option<Avma> {
    let line = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let digits = line.split_whitespace().last()?.strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok().map(Avma)
}

/// Whether a thread's process ignores any of these signals.
pub(super) fn ignores(thread: Pid, mask: u64) -> Result<bool> {
    let status = Process::new(thread.as_raw()).and_then(|process| process.status());
    let status = status.map_err(|error| proc_error(thread, error))?;
    Ok(status.sigign & mask != 0)
}

fn proc_error(pid: Pid, error: ProcError) -> Error {
    match error {
        ProcError::NotFound(_) => refused(pid, "does not exist"),
        ProcError::PermissionDenied(_) => refused(pid, "may not be looked at"),
        other => Error::io(format!("process {pid}"))(std::io::Error::other(other)),
    }
}

/// A process that can be worked on.
pub(super) struct Subject {
    pid: Pid,
    process: Process,
}

impl Subject {
    /// Looks at a process, and refuses what cannot be worked on.
    pub(super) fn open(pid: i32) -> Result<Self> {
        let pid = Pid::from_raw(pid);
        if pid == Pid::this() {
            return Err(refused(pid, "is this one"));
        }
        let process = Process::new(pid.as_raw()).map_err(|error| proc_error(pid, error))?;
        let subject = Self { pid, process };
        subject.check()?;
        Ok(subject)
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    fn check(&self) -> Result<()> {
        let status = self.process.status();
        let status = status.map_err(|error| proc_error(self.pid, error))?;
        let stat = self.process.stat();
        let stat = stat.map_err(|error| proc_error(self.pid, error))?;
        let flags = StatFlags::from_bits_truncate(stat.flags);
        let reason = if status.tgid != self.pid.as_raw() {
            format!("is a thread of process {}", status.tgid)
        } else if flags.contains(StatFlags::PF_KTHREAD) {
            "is a thread of the kernel".to_owned()
        } else if matches!(stat.state, 'Z' | 'X' | 'x') && stat.num_threads <= 1 {
            "has ended, and its parent has not taken notice".to_owned()
        } else if status.tracerpid != 0 {
            format!("is traced already, by {}", status.tracerpid)
        } else {
            return self.check_width(&self.vdsos()?);
        };
        Err(refused(self.pid, reason))
    }

    /// The vDSO shows which kind of process it is, since the kernel maps the one that fits. A process that executes another
    /// program may become one of the other kind.
    pub(super) fn check_width(&self, vdsos: &[Range<Avma>]) -> Result<()> {
        for range in vdsos {
            if let Some(image) = self.image(range)
                && (image.class() != Class::Elf64 || image.machine() != Machine::X86_64)
            {
                let reason = format!("is no 64-bit one: its vDSO is for {}", image.machine());
                return Err(refused(self.pid, reason));
            }
        }
        Ok(())
    }

    /// Whether it was stopped by a signal. It may be about to be, so that only some of its threads are.
    pub(super) fn is_stopped(&self) -> Result<bool> {
        Ok(self.states()?.contains(&'T'))
    }

    /// An error, or that the process has ended, which explains most.
    pub(super) fn explain(&self, error: Error) -> Error {
        let state = self.process.stat().map(|stat| stat.state);
        match (state, &error) {
            (Err(_) | Ok('Z' | 'X' | 'x'), _) => ended(self.pid),
            (Ok(_), Error::Io { source, .. })
                if source.raw_os_error() == Some(Errno::EPERM as i32) =>
            {
                refused(self.pid, "may not be traced")
            }
            (Ok(_), _) => error,
        }
    }

    /// Mappings that are vDSOs, the kernel's own first: the one of that name, and what the program takes for it, which a
    /// restore leaves where it was.
    pub(super) fn vdsos(&self) -> Result<Vec<Range<Avma>>> {
        let told = self.process.auxv().ok();
        let told = told.and_then(|vector| vector.get(&AT_SYSINFO_EHDR).copied());
        let maps = self.maps()?;
        let named = maps.iter().filter(|map| map.pathname == MMapPath::Vdso);
        let mut vdsos: Vec<_> = named.map(range).collect();
        let others = maps.iter().filter(|map| Some(map.address.0) == told);
        for other in others.map(range) {
            if !vdsos.contains(&other) && self.image(&other).is_some() {
                vdsos.push(other);
            }
        }
        Ok(vdsos)
    }

    /// What can be written of its memory, as its stacks can be.
    pub(super) fn writable(&self) -> Result<Vec<Range<Avma>>> {
        let wanted = MMPermissions::READ | MMPermissions::WRITE;
        let maps = self.maps()?;
        let writable = maps.iter().filter(|map| map.perms.contains(wanted));
        Ok(writable.map(range).collect())
    }

    fn maps(&self) -> Result<Vec<MemoryMap>> {
        let maps = self.process.maps();
        let maps = maps.map_err(|error| proc_error(self.pid, error))?;
        Ok(maps.into_iter().collect())
    }

    /// The image that is mapped there, if it is one.
    fn image(&self, range: &Range<Avma>) -> Option<Image> {
        let size = range.end.0.checked_sub(range.start.0)?;
        let mut bytes = vec![0; usize::try_from(size.min(MAX_VDSO)).ok()?];
        let read = ProcessMemory::of(self.pid).read(range.start, &mut bytes);
        Image::parse(&bytes).ok().filter(|_| read)
    }

    /// Lets all threads go, stopped unless they are to go on; whether they are stopped.
    ///
    /// The signal waits in the process while they stand still, so that the first one that is let go takes it, and all of
    /// them take part before they execute anything.
    pub(super) fn part(&self, seized: Seized, was_stopped: bool, resume: bool) -> Result<bool> {
        if !resume && !was_stopped {
            kill(self.pid, Signal::SIGSTOP).map_err(|errno| match errno {
                Errno::ESRCH => ended(self.pid),
                errno => Error::io(format!("stopping process {}", self.pid))(errno.into()),
            })?;
        }
        drop(seized);
        let stops = was_stopped || !resume;
        let started = Instant::now();
        while stops && !self.all_stopped()? && started.elapsed() < STOPPING {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(stops && self.all_stopped()?)
    }

    /// Whether no thread executes anything. Those in the kernel that cannot be interrupted stop when they return.
    fn all_stopped(&self) -> Result<bool> {
        let stands = |state| matches!(state, 'T' | 'D' | 'Z' | 'X' | 'x');
        Ok(self.states()?.into_iter().all(stands))
    }

    /// The states of its threads.
    fn states(&self) -> Result<Vec<char>> {
        let tasks = self.process.tasks();
        let tasks = tasks.map_err(|error| proc_error(self.pid, error))?;
        let states = tasks.filter_map(|task| Some(task.ok()?.stat().ok()?.state));
        Ok(states.collect())
    }
}

fn range(map: &MemoryMap) -> Range<Avma> {
    Avma(map.address.0)..Avma(map.address.1)
}
