//! A live process that runs while the tool looks at it.

use std::cell::OnceCell;
use std::fs;

use elf_tools::Avma;
use nix::unistd::Pid;

use super::auxv_vdso;
use crate::maps::SpecialMemory;
use crate::targets::{Mapping, Target, Whereabouts};
use crate::tracing::ProcessMemory;
use crate::{Error, Result, maps};
use relocator::threads::Memory;

/// A live process that runs while the tool looks at it. Surveys read this, so that the stop is as
/// short as possible.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    /// As they were when they were first asked for.
    mappings: OnceCell<Vec<Mapping>>,
}

impl Running {
    /// A process. Nothing is opened before it is asked for.
    pub fn of(pid: i32) -> Self {
        Self {
            pid: Pid::from_raw(pid),
            mappings: OnceCell::new(),
        }
    }

    /// Whether its mappings are others now. One that has ended has not changed.
    pub fn has_changed(&self) -> bool {
        let known = self.mappings.get();
        known.is_some_and(|known| maps::of(self.id()).is_ok_and(|now| now != *known))
    }
}

impl Memory for Running {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        ProcessMemory::of(self.pid).read(at, bytes)
    }
}

impl Target for Running {
    fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    fn mappings(&self) -> Result<Vec<Mapping>> {
        cached(&self.mappings, self.pid)
    }

    fn auxv_vdso(&self) -> Option<Avma> {
        auxv_vdso(self.pid)
    }

    fn special(&self) -> Result<SpecialMemory> {
        special(self.pid)
    }

    /// By `/proc/PID/task/TID/syscall`, which has the program counter of a thread that waits in the
    /// kernel.
    fn whereabouts(&self) -> Result<Vec<Whereabouts>> {
        let path = format!("/proc/{}/task", self.pid);
        let entries = fs::read_dir(&path).map_err(Error::path(&path))?;
        let threads = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut all: Vec<Whereabouts> = threads
            .map(|thread| Whereabouts {
                thread,
                pc: blocked_at(Pid::from_raw(thread)),
            })
            .collect();
        all.sort_by_key(|one| one.thread);
        Ok(all)
    }
}

/// Where a thread that waits in the kernel called it; `None` if it runs, or if its process may not
/// be traced.
pub(crate) fn blocked_at(thread: Pid) -> Option<Avma> {
    let line = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let digits = line.split_whitespace().last()?.strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok().map(Avma)
}

/// The mappings of a process, read once.
pub(super) fn cached(known: &OnceCell<Vec<Mapping>>, pid: Pid) -> Result<Vec<Mapping>> {
    if let Some(known) = known.get() {
        return Ok(known.clone());
    }
    let read = maps::of(pid.as_raw());
    let read = read.map_err(Error::io(format!("mappings of process {pid}")))?;
    Ok(known.get_or_init(|| read).clone())
}

pub(super) fn special(pid: Pid) -> Result<SpecialMemory> {
    maps::special(pid.as_raw()).map_err(Error::io(format!("mappings of process {pid}")))
}
