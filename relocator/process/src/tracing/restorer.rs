//! A process that CRIU has not finished restoring.
//!
//! CRIU's *restorer* is code without a file that each thread executes until its registers are put
//! back. Its mapping goes when the restore is complete. Between the stages of a restore all threads
//! wait there, with all signals blocked: `post-restore` scripts find them so. If a tool stopped or
//! changed such a process, CRIU would wait for it for ever. At `pre-resume`, CRIU traces all
//! threads.

use std::fs;
use std::ops::Range;

use elf_tools::Avma;
use nix::unistd::Pid;

use super::{ProcessMemory, TraceableProcess};
use crate::maps;
use crate::targets::Mapping;
use crate::targets::live::blocked_at;
use crate::{Refusal, Result};
use relocator::placement::PAGE;
use relocator::threads::Memory;

/// All signals that can be blocked: all but `SIGKILL` and `SIGSTOP`.
const ALL_SIGNALS: u64 = !(1 << (nix::libc::SIGKILL - 1) | 1 << (nix::libc::SIGSTOP - 1));

/// The largest mapping that may be the restorer. That of CRIU 4.3 has 14 pages.
const MAX_RESTORER: u64 = 1 << 20;

/// What the first thread of CRIU is called.
const CRIU: &str = "criu";

/// Whether a process is CRIU, which traces what it restores.
pub(crate) fn is_criu(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim_end() == CRIU)
}

impl TraceableProcess {
    /// Refuses a process with a thread in CRIU's restorer. `mask` has the signals that the thread
    /// blocks.
    pub(super) fn check_restorer(&self, thread: i32, mask: u64) -> Result<()> {
        if mask != ALL_SIGNALS {
            return Ok(());
        }
        let place = blocked_at(Pid::from_raw(thread));
        match place.is_some_and(|pc| self.is_restorer(pc)) {
            true => Err(self.refused(Refusal::BeingRestored { thread })),
            false => Ok(()),
        }
    }

    /// The same for a thread that has stopped at `pc`.
    pub fn check_restored(
        &self,
        thread: Pid,
        pc: Avma,
        mask: impl FnOnce() -> Result<u64>,
        candidates: &[Range<Avma>],
    ) -> Result<()> {
        let is_inside = candidates.iter().any(|range| range.contains(&pc));
        if !is_inside || mask()? != ALL_SIGNALS {
            return Ok(());
        }
        let thread = thread.as_raw();
        Err(self.refused(Refusal::BeingRestored { thread }))
    }

    /// Mappings that may be a restorer.
    pub fn restorers(&self, mappings: &[Mapping]) -> Vec<Range<Avma>> {
        let mappings = mappings.iter();
        let ranges = mappings.filter(|mapping| self.may_be_restorer(mapping));
        ranges.map(|mapping| mapping.range.clone()).collect()
    }

    fn is_restorer(&self, pc: Avma) -> bool {
        let mappings = maps::of(self.pid().as_raw()).unwrap_or_default();
        let mut mappings = mappings.iter();
        let mapping = mappings.find(|mapping| mapping.range.contains(&pc));
        mapping.is_some_and(|mapping| self.may_be_restorer(mapping))
    }

    /// Whether a mapping is code without a file and holds no image, as an old vDSO does, from which
    /// threads make system calls as well.
    fn may_be_restorer(&self, mapping: &Mapping) -> bool {
        const ELF: [u8; 4] = *b"\x7fELF";
        let protection = mapping.protection;
        let is_code = protection.execute && !protection.shared && mapping.name.is_empty();
        if !is_code || mapping.size() > MAX_RESTORER {
            return false;
        }
        let memory = ProcessMemory::of(self.pid());
        let pages = (mapping.range.start.0..mapping.range.end.0).step_by(PAGE as usize);
        !pages.map(Avma).any(|page| {
            let mut magic = [0; ELF.len()];
            memory.read(page, &mut magic) && magic == ELF
        })
    }
}
