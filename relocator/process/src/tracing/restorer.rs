//! A process that CRIU has not finished restoring.
//!
//! CRIU's *restorer* is code without a file that each thread executes until its registers are put
//! back. Its mapping goes when the restore is complete. Between the stages of a restore all threads
//! wait there, with all signals blocked: `post-restore` scripts find them so. If a tool stopped or
//! changed such a process, CRIU would wait for it for ever. At `pre-resume`, CRIU traces all
//! threads.

use std::fs;

use elf_tools::Avma;
use nix::unistd::Pid;

use super::{StandingMemory, TraceableProcess};
use crate::maps::{self, SpecialMemory};
use crate::targets::live::blocked_at;
use crate::targets::{Mapping, mapping_of};
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

    /// The same for a thread that has stopped at `pc`, in a process with these mappings, lowest
    /// first.
    pub fn check_restored(
        &self,
        thread: Pid,
        pc: Avma,
        mask: impl FnOnce() -> Result<u64>,
        mappings: &[Mapping],
    ) -> Result<()> {
        let inside = mapping_of(mappings, pc).filter(|mapping| is_nameless_code(mapping));
        let Some(mapping) = inside else {
            return Ok(());
        };
        if mask()? != ALL_SIGNALS || holds_image(self.pid(), mapping) {
            return Ok(());
        }
        let thread = thread.as_raw();
        Err(self.refused(Refusal::BeingRestored { thread }))
    }

    fn is_restorer(&self, pc: Avma) -> bool {
        let mappings = maps::of(self.pid().as_raw()).unwrap_or_default();
        let mapping = mapping_of(&mappings, pc);
        mapping
            .is_some_and(|mapping| is_nameless_code(mapping) && !holds_image(self.pid(), mapping))
    }
}

/// Whether a mapping is code without a file, no more than a restorer has.
fn is_nameless_code(mapping: &Mapping) -> bool {
    let protection = mapping.protection;
    let is_code = protection.execute && !protection.shared && mapping.name.is_empty();
    is_code && mapping.size() <= MAX_RESTORER
}

/// Whether a mapping holds an image, as that of an old vDSO does, from which threads make system
/// calls as well.
fn holds_image(pid: Pid, mapping: &Mapping) -> bool {
    const ELF: [u8; 4] = *b"\x7fELF";
    let memory = StandingMemory::new(
        pid,
        std::slice::from_ref(mapping),
        &SpecialMemory::default(),
    );
    let pages = (mapping.range.start.0..mapping.range.end.0).step_by(PAGE as usize);
    pages.map(Avma).any(|page| {
        let mut magic = [0; ELF.len()];
        memory.read(page, &mut magic) && magic == ELF
    })
}
