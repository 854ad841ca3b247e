//! A process: whether its threads can be traced at all, and where its vDSOs are.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use elf_tools::arch::Machine;
use elf_tools::image::Image;
use elf_tools::symtab::mapping_name;
use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Pid, gettid};
use procfs::ProcError;
use procfs::process::{Process, StatFlags, Status};

use super::life::{FAREWELL, Lives};
use super::{StandingMemory, frozen, is_gone, life, restorer};
use crate::maps::SpecialMemory;
use crate::targets::Mapping;
use crate::targets::live::Running;
use crate::{Error, Refusal, Result, arch, maps};
use relocator::threads::Memory;

/// The largest mapping that counts as a vDSO.
const MAX_VDSO: u64 = 1 << 20;

/// How long memory may take to come that somebody has to bring, where no deadline is given.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the auxiliary vector of a process says that its vDSO is. After a restore that is not the
/// kernel's own.
pub(crate) fn auxv_vdso(process: &Process) -> Option<Avma> {
    let vector = process.auxv().ok()?;
    vector.get(&libc::AT_SYSINFO_EHDR).copied().map(Avma)
}

/// A process whose threads can be traced.
#[derive(Debug)]
pub struct TraceableProcess {
    pid: Pid,
    process: Process,
    /// Whether this thread traces it already, and all its threads have stopped.
    is_ours: bool,
    /// What has been seen to be mapped where a vDSO may be.
    seen: RefCell<Vec<(Range<Avma>, Seen)>>,
}

/// What is mapped where a vDSO may be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// It is no image, or cannot be read.
    Nothing,
    /// An image for this machine.
    Native,
    /// An image for another one.
    Other(Machine),
}

impl TraceableProcess {
    /// Looks at a process. Errors: [`Error::Refused`] if its threads cannot be traced;
    /// [`Error::NoSuchProcess`] and [`Error::NotAProcess`].
    pub fn open(pid: i32) -> Result<Self> {
        Self::open_until(pid, Instant::now() + PATIENCE)
    }

    /// The same. Memory of it that somebody has to bring is waited for until a deadline.
    pub fn open_until(pid: i32, deadline: Instant) -> Result<Self> {
        Self::open_as(pid, deadline, false)
    }

    /// Looks at a process that the calling thread traces already, and whose threads have all
    /// stopped. Errors are those of [`open`](Self::open); it may be traced by nobody else.
    pub fn open_traced(pid: i32, deadline: Instant) -> Result<Self> {
        Self::open_as(pid, deadline, true)
    }

    fn open_as(pid: i32, deadline: Instant, is_ours: bool) -> Result<Self> {
        let pid = Pid::from_raw(pid);
        Self::check_namespace()?;
        if pid == Pid::this() {
            return Err(Error::refused(pid, Refusal::OwnProcess));
        }
        let process = Process::new(pid.as_raw()).map_err(|error| proc_error(pid, error))?;
        let subject = Self {
            pid,
            process,
            is_ours,
            seen: RefCell::default(),
        };
        let checked = subject.check(deadline);
        checked.map_err(|error| subject.explain(error))?;
        Ok(subject)
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What `/proc` says about it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn check(&self, deadline: Instant) -> Result<()> {
        let status = self.process.status();
        let status = status.map_err(|error| proc_error(self.pid, error))?;
        let stat = self.process.stat();
        let stat = stat.map_err(|error| proc_error(self.pid, error))?;
        let flags = StatFlags::from_bits_truncate(stat.flags);
        if status.tgid != self.pid.as_raw() {
            return Err(Error::NotAProcess {
                thread: self.pid.as_raw(),
                process: status.tgid,
            });
        }
        let reason = if flags.contains(StatFlags::PF_KTHREAD) {
            Refusal::KernelThread
        } else if matches!(stat.state, 'Z' | 'X' | 'x') && stat.num_threads <= 1 {
            Refusal::Zombie
        } else if let Some(reason) = self.without_first_thread() {
            reason
        } else if self.is_traced_otherwise(&status) {
            traced(&status)
        } else if let Some(group) = frozen::frozen_by(self.pid) {
            Refusal::Frozen { group }
        } else {
            let running = Running::until(self.pid.as_raw(), deadline);
            let vdsos = self.vdsos_in(&self.maps()?, &running);
            return match running.unanswered() {
                Some(at) => Err(self.refused(Refusal::Unserved { at })),
                None => self.check_width(&vdsos),
            };
        };
        Err(self.refused(reason))
    }

    /// Whether this thread traces it already, and all its threads have stopped.
    pub(super) fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Whether one of its threads is traced by somebody who should not trace it.
    pub(super) fn is_traced_otherwise(&self, thread: &Status) -> bool {
        let expected = match self.is_ours {
            true => gettid().as_raw(),
            false => 0,
        };
        thread.tracerpid != expected
    }

    /// The vDSO shows which kind of process it is, since the kernel maps the one that fits. A
    /// process that executes another program may become one of the other kind.
    pub fn check_width(&self, vdsos: &[Range<Avma>]) -> Result<()> {
        for (range, seen) in self.seen.borrow().iter() {
            if let Seen::Other(machine) = seen
                && vdsos.contains(range)
            {
                let shown_by = format!("its vDSO is for {machine}");
                return Err(self.refused(Refusal::OtherMachine { shown_by }));
            }
        }
        Ok(())
    }

    /// Why it cannot be worked on, if its first thread has ended or is ending.
    pub(super) fn without_first_thread(&self) -> Option<Refusal> {
        match life::first_goes_on(&self.process) {
            true => None,
            false => Self::end(Lives::settled(&self.process, FAREWELL)),
        }
    }

    fn end(lives: Lives) -> Option<Refusal> {
        match (lives.first.goes_on(), lives.any.goes_on()) {
            (_, false) => Some(Refusal::Ended),
            (false, true) => Some(Refusal::NoFirstThread),
            (true, true) => None,
        }
    }

    /// The error, unless the process has ended or lost its first thread: that explains most.
    pub fn explain(&self, error: Error) -> Error {
        if is_explanation(&error) {
            return error;
        }
        let patience = match may_be_an_end(&error) {
            true => FAREWELL,
            false => Duration::ZERO,
        };
        if let Some(reason) = Self::end(Lives::settled(&self.process, patience)) {
            return self.refused(reason);
        }
        match &error {
            // It was frozen meanwhile.
            Error::Refused {
                reason: Refusal::DoesNotStop { .. } | Refusal::Uninterruptible { .. },
                ..
            } => match frozen::frozen_by(self.pid) {
                Some(group) => self.refused(Refusal::Frozen { group }),
                None => error,
            },
            Error::Io { source, .. } if source.raw_os_error() == Some(Errno::EPERM as i32) => {
                self.refused(Refusal::NotPermitted)
            }
            _ => error,
        }
    }

    /// Mappings that are vDSOs, the kernel's own first: the one of that name, and the one that the
    /// auxiliary vector names, which a restore leaves where it was. This waits for nothing: memory
    /// that somebody has to bring first, and that was not there earlier either, is none.
    pub fn vdsos(&self) -> Result<Vec<Range<Avma>>> {
        let maps = self.maps()?;
        let memory = StandingMemory::new(self.pid, &maps, &SpecialMemory::default());
        Ok(self.vdsos_in(&maps, &memory))
    }

    fn vdsos_in(&self, maps: &[Mapping], memory: &dyn Memory) -> Vec<Range<Avma>> {
        let by_auxv = auxv_vdso(&self.process);
        let named = maps.iter().filter(|map| map.name == mapping_name::VDSO);
        let mut vdsos: Vec<_> = named.map(|map| map.range.clone()).collect();
        for range in &vdsos {
            self.look(range, memory);
        }
        let others = maps.iter().filter(|map| Some(map.range.start) == by_auxv);
        for other in others.map(|map| &map.range) {
            if !vdsos.contains(other) && self.look(other, memory) != Seen::Nothing {
                vdsos.push(other.clone());
            }
        }
        vdsos
    }

    /// Its mappings.
    pub fn maps(&self) -> Result<Vec<Mapping>> {
        maps::of(self.pid.as_raw()).map_err(|error| io_error(self.pid, error))
    }

    /// What is mapped there. Where there was an image, it still is.
    fn look(&self, range: &Range<Avma>, memory: &dyn Memory) -> Seen {
        let known = |seen: &&(Range<Avma>, Seen)| seen.0 == *range;
        if let Some((_, seen)) = self.seen.borrow().iter().find(known) {
            return seen.clone();
        }
        let mut bytes = vec![0; range.end.0.saturating_sub(range.start.0).min(MAX_VDSO) as usize];
        let read = memory.read(range.start, &mut bytes);
        let image = Image::parse(&bytes).ok().filter(|_| read);
        let seen = match image {
            None => return Seen::Nothing,
            Some(image) if arch::is_native(&image) => Seen::Native,
            Some(image) => Seen::Other(image.machine()),
        };
        self.seen.borrow_mut().push((range.clone(), seen.clone()));
        seen
    }

    /// An error of the operating system about it.
    pub(super) fn failed(&self, error: ProcError) -> Error {
        proc_error(self.pid, error)
    }

    /// The refusal of it.
    pub(super) fn refused(&self, reason: Refusal) -> Error {
        Error::refused(self.pid, reason)
    }

    /// The error that it is no longer there.
    pub fn ended(&self) -> Error {
        self.refused(Refusal::Ended)
    }
}

/// Why a thread that is traced cannot be.
pub(super) fn traced(status: &Status) -> Refusal {
    let (thread, tracer) = (status.pid, status.tracerpid);
    match restorer::is_criu(tracer) {
        true => Refusal::TracedByCriu { thread, tracer },
        false => Refusal::Traced { thread, tracer },
    }
}

/// Whether an error already says what has become of a process, or that it is none.
fn is_explanation(error: &Error) -> bool {
    match error {
        Error::NotAProcess { .. } => true,
        Error::Refused { reason, .. } => matches!(
            reason,
            Refusal::Ended
                | Refusal::Zombie
                | Refusal::NoFirstThread
                | Refusal::OwnProcess
                | Refusal::KernelThread
        ),
        _ => false,
    }
}

/// Whether a process that is ending shows as this. The kernel refuses to trace it, as if that was
/// not permitted; its files in `/proc` are root's, and it has no memory, as other processes have
/// none; a tool that was killed may still trace some of its threads.
fn may_be_an_end(error: &Error) -> bool {
    match error {
        Error::NoSuchProcess { .. } => true,
        Error::Io { source, .. } => {
            let number = source.raw_os_error().map(Errno::from_raw);
            is_gone(error) || matches!(number, Some(Errno::EPERM | Errno::EACCES))
        }
        Error::Refused { reason, .. } => matches!(
            reason,
            Refusal::NotPermitted
                | Refusal::Traced { .. }
                | Refusal::TracedByCriu { .. }
                | Refusal::NotDumpable
                | Refusal::NoMemory
                | Refusal::SharedMemory { .. }
                | Refusal::Frozen { .. }
                | Refusal::DoesNotStop { .. }
                | Refusal::Uninterruptible { .. }
                | Refusal::UnexpectedStop { .. }
        ),
        _ => false,
    }
}

/// What an error of `/proc` means.
pub(crate) fn proc_error(pid: Pid, error: ProcError) -> Error {
    match error {
        ProcError::NotFound(_) => Error::NoSuchProcess { pid: pid.as_raw() },
        ProcError::PermissionDenied(_) => Error::refused(pid, Refusal::NotPermitted),
        other => Error::io(format!("process {pid}"))(io::Error::other(other)),
    }
}

/// What an error of a file of `/proc` means.
fn io_error(pid: Pid, error: io::Error) -> Error {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ESRCH) => Error::NoSuchProcess { pid: pid.as_raw() },
        Some(Errno::EACCES | Errno::EPERM) => Error::refused(pid, Refusal::NotPermitted),
        _ => Error::io(format!("process {pid}"))(error),
    }
}
