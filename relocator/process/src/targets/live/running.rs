//! A live process that runs while the tool looks at it.

use std::cell::OnceCell;
use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use nix::unistd::Pid;
use procfs::process::{LimitValue, Process};

use super::auxv_vdso;
use crate::maps::SpecialMemory;
use crate::targets::{Growth, Mapping, Target, Whereabouts, mapping_of, subtract};
use crate::tracing::{Pagemap, ProcessMemory, Reader, StandingMemory, read_now, read_unserved};
use crate::{Error, Result, maps};
use relocator::threads::frames::Earlier;
use relocator::threads::{Memory, Populated};

/// A live process that runs while the tool looks at it. Surveys read this, so that the stop is as
/// short as possible.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    /// As they were when they were first asked for.
    mappings: OnceCell<Vec<Mapping>>,
    pagemap: Option<Pagemap>,
    reader: Reader,
}

/// How long somebody may take to bring memory, where no deadline was given.
const PATIENCE: Duration = Duration::from_secs(5);

impl Running {
    /// A process.
    pub fn of(pid: i32) -> Self {
        Self::until(pid, Instant::now() + PATIENCE)
    }

    /// A process whose memory, where somebody has to bring it, is waited for until a deadline.
    pub fn until(pid: i32, deadline: Instant) -> Self {
        let pid = Pid::from_raw(pid);
        Self {
            pid,
            mappings: OnceCell::new(),
            pagemap: Pagemap::open(pid).ok(),
            reader: Reader::until(pid, deadline),
        }
    }

    /// Forgets its mappings, which are read again when they are asked for.
    pub(crate) fn look_again(&mut self) {
        self.mappings.take();
    }

    /// Has memory brought; whether that was answered in time.
    pub(crate) fn bring(&self, ranges: &[Range<Avma>]) -> bool {
        self.reader.bring(ranges)
    }

    /// Memory that did not come in time, if there is any.
    pub(crate) fn unanswered(&self) -> Option<Avma> {
        self.reader.unanswered()
    }

    /// Searches stacks while it goes on. What cannot be read then is left out.
    pub(crate) fn search(&self, ranges: &[Range<Avma>], texts: &[Range<Avma>]) -> Result<Earlier> {
        let mappings = mappings(self.pid)?;
        let memory = StandingMemory::new(self.pid, &mappings, &self.special()?);
        let (ranges, texts) = (ranges.to_vec(), texts.to_vec());
        let search = move || Earlier::search(&ranges, &texts, &memory);
        Ok(self.reader.within(search).unwrap_or_default())
    }

    /// The mapping that an address is in.
    fn mapping(&self, at: Avma) -> Option<Mapping> {
        if self.mappings.get().is_none() {
            self.mappings().ok()?;
        }
        mapping_of(self.mappings.get()?, at).cloned()
    }

    fn is_file(&self, at: Avma) -> bool {
        let mapping = self.mapping(at);
        mapping.is_some_and(|mapping| !mapping.is_anonymous())
    }

    /// Whether something is mapped there that is not the kernel's, which cannot be read.
    fn is_mapped(&self, at: Avma) -> bool {
        let mapping = self.mapping(at);
        mapping
            .is_some_and(|mapping| mapping.protection.read && maps::kernel_name(&mapping).is_none())
    }

    fn is_present(&self, range: Range<Avma>) -> bool {
        let pagemap = self.pagemap.as_ref();
        let missing = pagemap.and_then(|pagemap| pagemap.missing(range).ok());
        missing.is_none_or(|missing| missing.is_empty())
    }

    /// Whether its mappings are others now. One that has ended has not changed.
    pub fn has_changed(&self) -> bool {
        let known = self.mappings.get();
        known.is_some_and(|known| maps::of(self.id()).is_ok_and(|now| now != *known))
    }
}

impl Memory for Running {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        if self.is_present(at..Avma(at.0.saturating_add(bytes.len() as u64))) {
            return ProcessMemory::of(self.pid).read(at, bytes);
        }
        if self.is_file(at) {
            return read_unserved(self.pid, at, bytes);
        }
        // That fails where a `userfaultfd` is to bring it.
        read_now(self.pid, at, bytes) || self.is_mapped(at) && self.reader.read(at, bytes)
    }

    /// What is not present may be anything: the process goes on.
    fn populated(&self, range: Range<Avma>, _: u64) -> Populated {
        let pagemap = self.pagemap.as_ref();
        let missing = pagemap.and_then(|pagemap| pagemap.missing(range.clone()).ok());
        let absent = missing.unwrap_or_default();
        Populated {
            parts: subtract(vec![range.clone()], absent.iter().cloned()),
            absent,
            end: range.end,
            at_guard: false,
        }
    }
}

impl Target for Running {
    fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    fn mappings(&self) -> Result<Vec<Mapping>> {
        if let Some(known) = self.mappings.get() {
            return Ok(known.clone());
        }
        let read = mappings(self.pid)?;
        Ok(self.mappings.get_or_init(|| read).clone())
    }

    fn auxv_vdso(&self) -> Option<Avma> {
        auxv_vdso(self.pid)
    }

    fn special(&self) -> Result<SpecialMemory> {
        special(self.pid)
    }

    fn growth(&self) -> Growth {
        growth(self.pid)
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

/// The mappings of a process.
pub(super) fn mappings(pid: Pid) -> Result<Vec<Mapping>> {
    maps::of(pid.as_raw()).map_err(Error::io(format!("mappings of process {pid}")))
}

/// What `/proc` says about limits and the heap of a process.
pub(super) fn growth(pid: Pid) -> Growth {
    let process = Process::new(pid.as_raw()).ok();
    let limit = |process: &Process| match process.limits().ok()?.max_stack_size.soft_limit {
        LimitValue::Value(limit) => Some(limit),
        LimitValue::Unlimited => Some(u64::MAX),
    };
    let heap = |process: &Process| {
        let start = process.stat().ok()?.start_brk?;
        usize::try_from(start).ok().filter(|start| *start > 0)
    };
    Growth {
        stack: process.as_ref().and_then(limit),
        heap: process
            .as_ref()
            .and_then(heap)
            .map(|start| Avma(start as u64)),
    }
}

pub(super) fn special(pid: Pid) -> Result<SpecialMemory> {
    maps::special(pid.as_raw()).map_err(Error::io(format!("mappings of process {pid}")))
}
