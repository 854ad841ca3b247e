//! A process that runs, as a dump at this moment would have it.
//!
//! No thread is stopped, since a stop alone ends some waits early. So where threads are is known as
//! far as the kernel tells without it, and their registers are not.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name;
use relocator::criu::Mark;
use relocator::threads::Memory;
use relocator_process::maps::SpecialMemory;
use relocator_process::targets::live::Running;
use relocator_process::targets::{Mapping, Target};

use crate::Result;
use crate::mapping::{DumpedMapping, Role};
use crate::task::{Content, Task};

impl Task {
    /// A process of this machine.
    ///
    /// Errors: what the operating system says of a process that cannot be looked at.
    pub fn of_process(pid: i32) -> Result<Self> {
        let target = Running::of(pid);
        let mappings = target.mappings()?;
        let special = target.special()?;
        let mark = mark(&mappings, &target);
        let dumped = mappings.iter().map(|one| dumped(one, &special, mark));
        let dumped: Vec<DumpedMapping> = joined(dumped.flatten());
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(Self {
            pid,
            parent: 0,
            name: name.trim_end().to_owned(),
            has_ended: false,
            threads: Vec::new(),
            seen: Some(target.whereabouts()?),
            mappings: dumped,
            guards: Vec::new(),
            auxv_vdso: target.auxv_vdso(),
            growth: target.growth(),
            content: Content::Live(target),
        })
    }
}

/// CRIU's mark in the kernel's vDSO, which a dump leaves out with its data.
fn mark(mappings: &[Mapping], memory: &dyn Memory) -> Option<Mark> {
    let mut all = mappings.iter();
    let vdso = all.find(|one| one.name == mapping_name::VDSO)?;
    let mut header = [0; Mark::SIZE];
    let was_read = memory.read(vdso.range.start, &mut header);
    was_read.then(|| Mark::read(&header)).flatten()
}

/// A mapping as a dump has it, if it has it.
fn dumped(mapping: &Mapping, special: &SpecialMemory, mark: Option<Mark>) -> Option<DumpedMapping> {
    let start = mapping.range.start;
    let is_data = matches!(
        mapping.name.as_str(),
        mapping_name::VVAR | mapping_name::VVAR_VCLOCK
    );
    let role = match (mapping.name.as_str(), mark) {
        (mapping_name::VDSO, Some(_)) => return None,
        (_, Some(_)) if is_data => return None,
        (_, Some(mark)) if mark.old_vdso == start => Role::Vdso,
        (_, Some(mark)) if mark.old_vvar == start => Role::Vvar,
        (mapping_name::VDSO, None) => Role::Vdso,
        (_, None) if is_data => Role::Vvar,
        ("[vsyscall]", _) => Role::Vsyscall,
        _ => Role::Memory,
    };
    let is_plain = matches!(role, Role::Memory | Role::Vsyscall);
    let has = |ranges: &[Range<Avma>]| ranges.contains(&mapping.range);
    Some(DumpedMapping {
        range: mapping.range.clone(),
        protection: mapping.protection,
        role,
        name: if is_plain {
            mapping.name.clone()
        } else {
            String::new()
        },
        has_file: mapping.name.starts_with('/') && !has(&special.shared),
        is_droppable: has(&special.droppable),
        is_undumped: has(&special.undumped),
    })
}

/// Mappings, of which those of the kernel's data are one, as CRIU makes them.
fn joined(all: impl Iterator<Item = DumpedMapping>) -> Vec<DumpedMapping> {
    let mut joined: Vec<DumpedMapping> = Vec::new();
    for mapping in all {
        match joined.last_mut() {
            Some(last)
                if (last.role, mapping.role) == (Role::Vvar, Role::Vvar)
                    && last.range.end == mapping.range.start =>
            {
                last.range.end = mapping.range.end;
            }
            _ => joined.push(mapping),
        }
    }
    joined
}
