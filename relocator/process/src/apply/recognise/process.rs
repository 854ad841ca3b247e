//! A process that runs: looked at from outside, without being stopped.

use std::ops::Range;

use elf_tools::Avma;
use nix::unistd::Pid;

use super::{FoundVdsos, Own, recognise, vvar_placeholder};
use crate::Result;
use crate::targets::Mapping;
use crate::targets::live::{auxv_vdso, maps};
use crate::tracing::ProcessMemory;

/// What was found in a process that may have changed since.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its mappings, lowest first.
    pub mappings: Vec<Mapping>,
    /// Its vDSOs.
    pub found: FoundVdsos,
    /// The pages of zeros directly below each old one.
    pub placeholders: Vec<Option<Range<Avma>>>,
}

/// Looks at a process.
pub fn process(pid: i32, own: &Own) -> Result<Seen> {
    let pid = Pid::from_raw(pid);
    let memory = ProcessMemory::of(pid);
    let mappings = maps::mappings(pid)?;
    let found = recognise(&mappings, auxv_vdso(pid), &memory, own)?;
    let below = |start| vvar_placeholder(&mappings, &memory, start);
    let old = found.old.iter();
    let placeholders = old.map(|text| below(text.mapping.start)).collect();
    Ok(Seen {
        mappings,
        found,
        placeholders,
    })
}
