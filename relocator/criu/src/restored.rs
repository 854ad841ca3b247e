//! A task as it will be on the new kernel after a restore, before any of its threads runs.
//!
//! CRIU maps what was dumped where it was. The old vDSO becomes memory like any other, and where the
//! old kernel's data was there are zeros. The new kernel's vDSO and data are in a low hole, where CRIU
//! has put them until all is restored; behind its restorer, whose size is not known here, so that
//! the addresses are others than these, and out of reach as well. CRIU's jumps are left out, since
//! whoever links a process takes them away first.
//!
//! Nothing is written. [`StoppedTarget::carry_out`] keeps the steps, and threads and memory read
//! afterwards as if the steps that change them had been done.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name::VDSO;
use relocator::placement::PAGE;
use relocator::source::LiveMapping;
use relocator::threads::{Memory, Populated, Thread, Write};
use relocator_process::Result;
use relocator_process::maps::SpecialMemory;
use relocator_process::targets::{
    Growth, Mapping, Protection, Step, StoppedTarget, Target, Whereabouts,
};

use crate::mapping::{DumpedMapping, Role};
use crate::pages::{Page, by_page};
use crate::task::Task;

/// From where on CRIU looks for a hole: the lowest address at which `vm.mmap_min_addr` lets it map
/// anything by default, and room for its restorer below.
const LOWEST: u64 = 0x3_0000;

/// What the new kernel maps into processes.
#[derive(Debug, Clone)]
pub struct NewUnit<'a> {
    /// Its mappings, lowest first: the last is the vDSO.
    pub mappings: &'a [LiveMapping],
    /// What the vDSO has in it.
    pub vdso: &'a [u8],
}

/// A task after a restore on another kernel.
#[derive(Debug)]
pub struct Restored<'a> {
    task: &'a Task,
    mappings: Vec<Mapping>,
    /// Where the new vDSO is, and what is in it.
    vdso: (Range<Avma>, &'a [u8]),
    /// Memory as steps have written it, the last one last.
    overlay: Vec<Write>,
    threads: Vec<Thread>,
    /// What [`StoppedTarget::carry_out`] was asked for.
    pub steps: Vec<Step>,
}

impl<'a> Restored<'a> {
    /// A task as it is restored on a kernel that maps `unit`.
    pub fn new(task: &'a Task, unit: &NewUnit<'a>) -> Self {
        let mapped = task.mappings.iter().map(DumpedMapping::restored);
        let mut mappings: Vec<Mapping> = mapped.collect();
        let size = unit.mappings.iter().map(|one| pages(one.size)).sum();
        let mut at = hole(&mappings, size);
        let mut vdso = at..at;
        for one in unit.mappings {
            let end = Avma(at.0.saturating_add(pages(one.size)));
            let is_vdso = one.name == VDSO;
            if is_vdso {
                vdso = at..end;
            }
            mappings.push(Mapping {
                range: at..end,
                protection: Protection {
                    read: true,
                    execute: is_vdso,
                    ..Protection::default()
                },
                name: one.name.clone(),
            });
            at = end;
        }
        mappings.sort_by_key(|mapping| mapping.range.start);
        Self {
            task,
            mappings,
            vdso: (vdso, unit.vdso),
            overlay: Vec::new(),
            threads: task.threads.iter().map(|one| after(one.thread)).collect(),
            steps: Vec::new(),
        }
    }

    /// Fills a part of one page.
    fn read_page(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let (range, content) = &self.vdso;
        if range.contains(&at) {
            let start = (at.0 - range.start.0) as usize;
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = content.get(start + index).copied().unwrap_or(0);
            }
            return true;
        }
        let Some(mapping) = self.task.mapping_of(at) else {
            return false;
        };
        let guard = self.task.guard_from(at);
        if !mapping.protection.read || guard.is_some_and(|guard| guard.contains(&at)) {
            return false;
        }
        let read = match mapping.role {
            Role::Vvar => Ok(Page::Absent),
            _ => self.task.content.read(at, bytes),
        };
        match read {
            Ok(Page::Read) => true,
            // What is in a file, or shared with others, is not in the images of the task.
            Ok(Page::Absent) if mapping.has_file || !mapping.is_private() => false,
            Ok(Page::Absent) => {
                bytes.fill(0);
                true
            }
            Ok(Page::Unreadable) | Err(_) => false,
        }
    }

    /// Puts what steps have written over what was read.
    fn overlay(&self, at: Avma, bytes: &mut [u8]) {
        let end = at.0.saturating_add(bytes.len() as u64);
        for write in &self.overlay {
            let from = write.at.0.max(at.0);
            let until = write.at.0.saturating_add(write.bytes.len() as u64).min(end);
            if from >= until {
                continue;
            }
            let size = (until - from) as usize;
            let (to, start) = ((from - at.0) as usize, (from - write.at.0) as usize);
            bytes[to..to + size].copy_from_slice(&write.bytes[start..start + size]);
        }
    }
}

/// A thread after `rt_sigreturn`, with which a restore ends: it is in no system call. One that was
/// in a call repeats it, or has been told that it was interrupted: CRIU has decided that at the dump.
fn after(mut thread: Thread) -> Thread {
    thread.registers.system_call = -1;
    thread
}

/// A size in whole pages.
fn pages(size: u64) -> u64 {
    size.checked_next_multiple_of(PAGE).unwrap_or(size)
}

/// The lowest hole between mappings, which are lowest first, that has a size.
fn hole(mappings: &[Mapping], size: u64) -> Avma {
    let mut at = LOWEST;
    for mapping in mappings {
        let Range { start, end } = &mapping.range;
        if end.0 <= at {
            continue;
        }
        if start.0 >= at && start.0 - at >= size {
            break;
        }
        at = end.0;
    }
    Avma(at)
}

impl Memory for Restored<'_> {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let end = at.0.checked_add(bytes.len() as u64);
        let Some(end) = end else {
            return false;
        };
        let mut done = 0;
        for part in by_page(at..Avma(end)) {
            let size = (part.end.0 - part.start.0) as usize;
            if !self.read_page(part.start, &mut bytes[done..done + size]) {
                return false;
            }
            done += size;
        }
        self.overlay(at, bytes);
        true
    }

    fn populated(&self, range: Range<Avma>, enough: u64) -> Populated {
        let guard = self.task.guard_from(range.start);
        let guard = guard.filter(|guard| guard.start < range.end);
        let guard = guard.map(|guard| guard.start.max(range.start));
        let end = guard.unwrap_or(range.end);
        let populated = self.task.content.populated(range.start..end, enough);
        let is_whole = populated.end == end;
        Populated {
            at_guard: populated.at_guard || guard.is_some() && is_whole,
            ..populated
        }
    }
}

impl Target for Restored<'_> {
    fn id(&self) -> i32 {
        self.task.pid
    }

    fn mappings(&self) -> Result<Vec<Mapping>> {
        Ok(self.mappings.clone())
    }

    fn auxv_vdso(&self) -> Option<Avma> {
        self.task.auxv_vdso
    }

    fn special(&self) -> Result<SpecialMemory> {
        let mut special = SpecialMemory::default();
        for mapping in &self.task.mappings {
            let range = mapping.range.clone();
            let is_own = mapping.protection.write && mapping.is_private() && !mapping.has_file;
            if mapping.is_droppable {
                special.droppable.push(range);
            } else if mapping.is_undumped && is_own {
                special.undumped.push(range);
            } else if mapping.protection.shared && !mapping.has_file {
                special.shared.push(range);
            }
        }
        Ok(special)
    }

    fn growth(&self) -> Growth {
        self.task.growth
    }

    fn whereabouts(&self) -> Result<Vec<Whereabouts>> {
        if let Some(seen) = &self.task.seen {
            return Ok(seen.clone());
        }
        let place = |thread: &Thread| Whereabouts {
            thread: thread.id,
            pc: Some(thread.registers.pc),
        };
        Ok(self.threads.iter().map(place).collect())
    }
}

impl StoppedTarget for Restored<'_> {
    fn threads(&self) -> Result<Vec<Thread>> {
        Ok(self.threads.clone())
    }

    fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            match step {
                Step::Registers(threads) => {
                    for thread in threads {
                        let mut known = self.threads.iter_mut();
                        if let Some(known) = known.find(|known| known.id == thread.id) {
                            *known = *thread;
                        }
                    }
                }
                Step::Write(write) => self.overlay.push(write.clone()),
                Step::Replace { at, bytes } => self.overlay.push(Write {
                    at: *at,
                    bytes: bytes.clone(),
                }),
                Step::RecoveryCopy(_)
                | Step::Move { .. }
                | Step::Placeholder(_)
                | Step::Unmap(_)
                | Step::Separate(_)
                | Step::Forget(_) => {}
            }
        }
        self.steps.extend_from_slice(steps);
        Ok(())
    }
}
