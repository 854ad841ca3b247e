//! The kernel as an ELF.

use object::elf;

use super::address_bits;
use crate::elf::View;
use crate::{Error, Machine, Result};

/// How much of a file it takes to see its program headers, which linkers put right behind the ELF
/// header.
const HEADERS: usize = 64 << 10;

/// Whether bytes start as an ELF does.
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(&elf::ELFMAG)
}

/// Whether bytes are a kernel ELF.
///
/// A kernel is told from programs and shared objects by its addresses: it is linked into the upper
/// half of the address space, where no user program can be. File type, sections and notes differ
/// too much between architectures and versions (arm64 kernels are `ET_DYN` and have a dynamic
/// section).
pub(super) fn is_vmlinux(bytes: &[u8]) -> bool {
    if !is_elf(bytes) {
        return false;
    }
    // A copy, since the reader refuses bytes that are not aligned in memory.
    let headers = bytes.get(..bytes.len().min(HEADERS)).unwrap_or_default();
    let headers = headers.to_vec();
    View::parse(&headers).is_ok_and(|view| {
        let half = 1_u64 << (address_bits(view.class) - 1);
        view.segments
            .iter()
            .any(|segment| segment.kind == elf::PT_LOAD.0 && segment.address >= half)
    })
}

/// The architecture a kernel ELF was built for.
pub(super) fn machine(kernel: &[u8]) -> Option<Machine> {
    Some(View::parse(kernel).ok()?.machine)
}

/// The offset and contents of a section, `None` if the kernel is no ELF or has no such section.
pub(super) fn section<'a>(kernel: &'a [u8], name: &str) -> Result<Option<(u64, &'a [u8])>> {
    if !is_elf(kernel) {
        return Ok(None);
    }
    let view = View::parse(kernel)?;
    // A damaged file must not pass for a kernel that was built without the section.
    if view.section_headers >= kernel.len() as u64 {
        return Err(Error::malformed(
            "vmlinux",
            view.section_headers,
            "the file ends before its section headers",
        ));
    }
    let Some(section) = view.section(name) else {
        return Ok(None);
    };
    let data = view.data(section)?;
    Ok((!data.is_empty()).then_some((section.offset, data)))
}
