//! A mapping in images.

use std::ops::Range;

use bytes::Bytes;
use elf_tools::Avma;
use prost::Message;
use relocator::placement::PAGE;
use relocator_process::targets::{Mapping, Protection};

use crate::Fault;
use crate::files::FileNames;
use crate::messages::MappingEntry;

/// What CRIU says of a mapping: `VMA_*` of its `include/image.h`.
mod status {
    pub(super) const VSYSCALL: u32 = 1 << 2;
    pub(super) const VDSO: u32 = 1 << 3;
    pub(super) const HEAP: u32 = 1 << 5;
    pub(super) const FILE_PRIVATE: u32 = 1 << 6;
    pub(super) const FILE_SHARED: u32 = 1 << 7;
    pub(super) const ANONYMOUS_SHARED: u32 = 1 << 8;
    pub(super) const ANONYMOUS_PRIVATE: u32 = 1 << 9;
    pub(super) const SYSTEM_V: u32 = 1 << 10;
    pub(super) const SOCKET: u32 = 1 << 11;
    pub(super) const VVAR: u32 = 1 << 12;
    pub(super) const MEMORY_FILE: u32 = 1 << 14;
    pub(super) const GUARD: u32 = 1 << 16;
}

/// Bits of protection: `PROT_*` of `asm-generic/mman-common.h`.
mod protection {
    pub(super) const READ: u32 = 1;
    pub(super) const WRITE: u32 = 2;
    pub(super) const EXECUTE: u32 = 4;
}

/// The kind of a mapping in its flags: `MAP_TYPE` and its values in `linux/mman.h`.
mod kind {
    pub(super) const MASK: u32 = 0xf;
    pub(super) const SHARED: u32 = 1;
    pub(super) const SHARED_CHECKED: u32 = 3;
    pub(super) const DROPPABLE: u32 = 8;
}

/// `MADV_DONTDUMP`, as a bit of advice.
const NOT_DUMPED: u64 = 1 << 16;

/// What a mapping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Memory of the program.
    Memory,
    /// The vDSO that the kernel had mapped; or the old one, if the process was restored before.
    Vdso,
    /// The data of that kernel, which is never dumped.
    Vvar,
    /// The page for system calls without a vDSO, which every kernel has at the same place.
    Vsyscall,
    /// No mapping: pages of others where each access fails ([`Task::guards`]).
    ///
    /// [`Task::guards`]: crate::task::Task::guards
    Guard,
}

/// A mapping as it was dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedMapping {
    /// Where.
    pub range: Range<Avma>,
    /// What could be done with it.
    pub protection: Protection,
    /// What it is.
    pub role: Role,
    /// What `/proc/PID/maps` calls it, as far as the images say. That of the kernel's vDSO and data
    /// is empty: after a restore they are memory like any other.
    pub name: String,
    /// Whether a file is behind it.
    pub has_file: bool,
    /// Whether the kernel may turn it into zeros at any time (`MAP_DROPPABLE`).
    pub is_droppable: bool,
    /// Whether it is left out of core dumps (`MADV_DONTDUMP`).
    pub is_undumped: bool,
}

impl DumpedMapping {
    pub(crate) fn read(bytes: Bytes, files: &FileNames) -> Result<Self, Fault> {
        let entry = MappingEntry::decode(bytes);
        let entry = entry.map_err(|error| Fault::Message(error.to_string()))?;
        let missing = Fault::Missing;
        let start = entry.start.ok_or(missing("start of a mapping"))?;
        let end = entry.end.ok_or(missing("end of a mapping"))?;
        let status = entry.status.ok_or(missing("status of a mapping"))?;
        let flags = entry.flags.ok_or(missing("flags of a mapping"))?;
        let bits = entry.protection.ok_or(missing("protection of a mapping"))?;
        let are_pages = start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE);
        let (start, end) = (Avma(start), Avma(end));
        if start >= end || !are_pages {
            return Err(Fault::Range { start, end });
        }
        let is = |bit: u32| status & bit != 0;
        let kind = flags & kind::MASK;
        let has_file = is(status::FILE_PRIVATE | status::FILE_SHARED);
        Ok(Self {
            range: start..end,
            protection: Protection {
                read: bits & protection::READ != 0,
                write: bits & protection::WRITE != 0,
                execute: bits & protection::EXECUTE != 0,
                shared: matches!(kind, kind::SHARED | kind::SHARED_CHECKED),
            },
            role: role(status),
            name: name(status, entry.backing.unwrap_or(0), files),
            has_file,
            is_droppable: kind == kind::DROPPABLE,
            is_undumped: entry.advice.unwrap_or(0) & NOT_DUMPED != 0,
        })
    }

    /// Whether pages of it can be in the images of its task: it is private memory.
    pub fn is_private(&self) -> bool {
        !self.protection.shared && !matches!(self.role, Role::Guard | Role::Vsyscall)
    }

    /// The mapping as the restored process has it.
    pub(crate) fn restored(&self) -> Mapping {
        Mapping {
            range: self.range.clone(),
            protection: self.protection,
            name: self.name.clone(),
        }
    }
}

fn role(status: u32) -> Role {
    let is = |bit: u32| status & bit != 0;
    if is(status::GUARD) {
        return Role::Guard;
    }
    if is(status::VDSO) {
        return Role::Vdso;
    }
    if is(status::VVAR) {
        return Role::Vvar;
    }
    match is(status::VSYSCALL) {
        true => Role::Vsyscall,
        false => Role::Memory,
    }
}

/// The name that the kernel gives to it.
fn name(status: u32, backing: u64, files: &FileNames) -> String {
    /// A file of which the images do not say the name, or that has none.
    const UNKNOWN: &str = "/unknown";
    let is = |bit: u32| status & bit != 0;
    let name = if is(status::VDSO | status::VVAR | status::GUARD) {
        ""
    } else if is(status::VSYSCALL) {
        "[vsyscall]"
    } else if is(status::HEAP) {
        "[heap]"
    } else if is(status::MEMORY_FILE) {
        "/memfd:"
    } else if is(status::SYSTEM_V) {
        "/SYSV"
    } else if is(status::ANONYMOUS_SHARED) {
        "/dev/zero (deleted)"
    } else if is(status::FILE_PRIVATE | status::FILE_SHARED) {
        files.get(backing).unwrap_or(UNKNOWN)
    } else if is(status::SOCKET) || !is(status::ANONYMOUS_PRIVATE) {
        UNKNOWN
    } else {
        ""
    };
    name.to_owned()
}
