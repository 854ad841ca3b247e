//! A process: whether its threads can be traced at all, and where its vDSOs are.

use std::io;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::mapping_name;
use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;
use procfs::ProcError;
use procfs::process::{Process, StatFlags, Status};

use super::{ProcessMemory, is_gone, restorer};
use crate::targets::Mapping;
use crate::{Error, Refusal, Result, arch, maps};
use relocator::threads::Memory;

/// The largest mapping that counts as a vDSO.
const MAX_VDSO: u64 = 1 << 20;

/// How long a process may take to end when one of its threads is gone.
const FAREWELL: Duration = Duration::from_millis(200);

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
}

impl TraceableProcess {
    /// Looks at a process. Errors: [`Error::Refused`] if its threads cannot be traced;
    /// [`Error::NoSuchProcess`] and [`Error::NotAProcess`].
    pub fn open(pid: i32) -> Result<Self> {
        let pid = Pid::from_raw(pid);
        if pid == Pid::this() {
            return Err(Error::refused(pid, Refusal::OwnProcess));
        }
        let process = Process::new(pid.as_raw()).map_err(|error| proc_error(pid, error))?;
        let subject = Self { pid, process };
        subject.check()?;
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

    fn check(&self) -> Result<()> {
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
        } else if status.tracerpid != 0 {
            traced(&status)
        } else {
            return self.check_width(&self.vdsos()?);
        };
        Err(self.refused(reason))
    }

    /// The vDSO shows which kind of process it is, since the kernel maps the one that fits. A
    /// process that executes another program may become one of the other kind.
    pub fn check_width(&self, vdsos: &[Range<Avma>]) -> Result<()> {
        for range in vdsos {
            if let Some(image) = self.image(range)
                && !arch::is_native(&image)
            {
                let shown_by = format!("its vDSO is for {}", image.machine());
                return Err(self.refused(Refusal::OtherMachine { shown_by }));
            }
        }
        Ok(())
    }

    /// The error, unless the process has ended: that explains most.
    pub fn explain(&self, error: Error) -> Error {
        // A process that was killed ends a little later. Meanwhile the kernel refuses to trace it,
        // as if that was not permitted.
        let is_refused = matches!(&error, Error::Io { source, .. }
            if source.raw_os_error() == Some(Errno::EPERM as i32));
        let patience = match is_gone(&error) || is_refused {
            true => FAREWELL,
            false => Duration::ZERO,
        };
        let started = Instant::now();
        while !self.is_ending() {
            if started.elapsed() >= patience {
                return match &error {
                    Error::Io { source, .. }
                        if source.raw_os_error() == Some(Errno::EPERM as i32) =>
                    {
                        self.refused(Refusal::NotPermitted)
                    }
                    _ => error,
                };
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.ended()
    }

    /// Whether it has ended, or executes nothing any more.
    fn is_ending(&self) -> bool {
        self.process.stat().map_or(true, |stat| {
            let flags = StatFlags::from_bits_truncate(stat.flags);
            let is_last = stat.num_threads <= 1;
            matches!(stat.state, 'Z' | 'X' | 'x')
                || is_last && flags.contains(StatFlags::PF_EXITING)
        })
    }

    /// Mappings that are vDSOs, the kernel's own first: the one of that name, and the one that the
    /// auxiliary vector names, which a restore leaves where it was.
    pub fn vdsos(&self) -> Result<Vec<Range<Avma>>> {
        let by_auxv = auxv_vdso(&self.process);
        let maps = self.maps()?;
        let named = maps.iter().filter(|map| map.name == mapping_name::VDSO);
        let mut vdsos: Vec<_> = named.map(|map| map.range.clone()).collect();
        let others = maps.iter().filter(|map| Some(map.range.start) == by_auxv);
        for other in others.map(|map| &map.range) {
            if !vdsos.contains(other) && self.image(other).is_some() {
                vdsos.push(other.clone());
            }
        }
        Ok(vdsos)
    }

    /// Its mappings.
    pub fn maps(&self) -> Result<Vec<Mapping>> {
        maps::of(self.pid.as_raw()).map_err(|error| io_error(self.pid, error))
    }

    /// The image that is mapped there, if it is one.
    fn image(&self, range: &Range<Avma>) -> Option<Image> {
        let size = range.end.0.checked_sub(range.start.0)?;
        let mut bytes = vec![0; usize::try_from(size.min(MAX_VDSO)).ok()?];
        let read = ProcessMemory::of(self.pid).read(range.start, &mut bytes);
        Image::parse(&bytes).ok().filter(|_| read)
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

/// Why a thread that is traced cannot be. One that is being killed may still be traced by a tool
/// that has let go of the others.
pub(super) fn traced(status: &Status) -> Refusal {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let (thread, tracer) = (status.pid, status.tracerpid);
    if (status.sigpnd | status.shdpnd) & KILL != 0 {
        Refusal::Ended
    } else if restorer::is_criu(tracer) {
        Refusal::TracedByCriu { thread, tracer }
    } else {
        Refusal::Traced { thread, tracer }
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
