//! vDSO images inside a kernel, where they are data: whole ELF files between the kernel's own
//! variables.

use std::fmt;

use memchr::memmem;
use object::LittleEndian;
use object::elf;
use scroll::{Pread, SizeWith};

use crate::elf::{Section, Segment, View, string_at};
use crate::record;
use crate::{Class, Machine};

/// The largest image considered. Stock ones have 4 to 16 KiB.
const MAX_VDSO: usize = 256 << 10;

/// How many shared objects are looked at. Stock kernels have three at most; this bounds the work on
/// hostile files.
const MAX_CANDIDATES: usize = 4096;

/// What ELF headers of both classes begin with.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
struct Start {
    _identification: [u8; 16],
    kind: u16,
}

/// What the names of vDSOs start with: `linux-vdso.so.1`, `linux-vdso32.so.1`, `linux-vdso64.so.1`,
/// `linux-gate.so.1`.
const SONAMES: [&[u8]; 2] = [b"linux-vdso", b"linux-gate"];

/// What the names of functions that vDSOs export start with.
const EXPORTS: [&[u8]; 2] = [b"__vdso_", b"__kernel_"];

/// A vDSO image inside a kernel.
///
/// It is as the kernel's build made it: the kernel patches its copy when it boots (alternatives),
/// and maps it in whole pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedVdso {
    /// Where it is in [`KernelFile::vmlinux`](super::KernelFile::vmlinux).
    pub offset: u64,
    /// The word size of programs it is for.
    pub class: Class,
    /// The architecture of programs it is for.
    pub machine: Machine,
    /// The ELF file, without the padding to whole pages.
    pub bytes: Vec<u8>,
}

impl fmt::Display for EmbeddedVdso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, machine) = (self.class, self.machine);
        let (size, offset) = (self.bytes.len(), self.offset);
        write!(f, "{class} {machine} ({size} bytes at {offset:#x})")
    }
}

/// All vDSO images in a kernel.
///
/// They are page-aligned in memory, yet not searched for by alignment: what counts is the address
/// at run time, which a raw image or an ELF with other segment alignment does not show.
pub(super) fn find(kernel: &[u8]) -> Vec<EmbeddedVdso> {
    memmem::find_iter(kernel, &elf::ELFMAG)
        .filter(|position| is_shared_object(kernel, *position))
        .take(MAX_CANDIDATES)
        .filter_map(|position| cut(kernel, position))
        .collect()
}

/// Whether the ELF header at a position is that of a shared object.
fn is_shared_object(kernel: &[u8], position: usize) -> bool {
    let header: Option<Start> = record::get(kernel, position);
    header.is_some_and(|header| header.kind == elf::ET_DYN.0)
}

/// Whether bytes start with a vDSO image.
pub(super) fn is_vdso(bytes: &[u8]) -> bool {
    cut(bytes, 0).is_some()
}

/// The vDSO image that starts at a position, if there is one.
fn cut(kernel: &[u8], position: usize) -> Option<EmbeddedVdso> {
    let rest = kernel.get(position..)?;
    // A copy, since the reader refuses bytes that are not aligned in memory.
    let mut bytes = rest.get(..rest.len().min(MAX_VDSO))?.to_vec();
    let view = View::parse(&bytes).ok()?;
    let (class, machine) = (view.class, view.machine);
    let length = measure(&view)?;
    // What lies behind the image must not be taken for a part of it, so it is looked at on its own.
    let is_vdso = recognize(&View::parse(bytes.get(..length)?).ok()?);
    bytes.truncate(length);
    bytes.shrink_to_fit();
    is_vdso.then_some(EmbeddedVdso {
        offset: position as u64,
        class,
        machine,
        bytes,
    })
}

/// The length of an image: it ends with its section headers, or with its last segment if it has
/// none.
fn measure(view: &View<'_>) -> Option<usize> {
    let entry = match view.class {
        Class::Elf32 => size_of::<elf::SectionHeader32<LittleEndian>>(),
        Class::Elf64 => size_of::<elf::SectionHeader64<LittleEndian>>(),
    };
    let entries = view.sections.len().checked_mul(entry)?;
    let mut length = view.section_headers.checked_add(entries as u64)?;
    for segment in loads(view) {
        length = length.max(segment.offset.checked_add(segment.file_size)?);
    }
    usize::try_from(length).ok()
}

/// Whether a shared object is a vDSO: by its name, or else by what it exports.
fn recognize(view: &View<'_>) -> bool {
    if view.file_type != elf::ET_DYN.0 {
        return false;
    }
    let Ok(dynamic) = view.dynamic() else {
        return false;
    };
    !dynamic.is_empty()
        && (soname(view, &dynamic).is_some_and(|name| starts_with_any(name, &SONAMES))
            || exports_vdso_functions(view))
}

/// The name an image gives itself.
fn soname<'a>(view: &View<'a>, dynamic: &[(u64, u64)]) -> Option<&'a [u8]> {
    let value = |tag: elf::DynamicTag| {
        let (_, value) = dynamic.iter().find(|(found, _)| *found == tag.0 as u64)?;
        Some(*value)
    };
    let address = value(elf::DT_STRTAB)?.checked_add(value(elf::DT_SONAME)?)?;
    // Dynamic entries hold addresses; the segments say where in the file those are.
    loads(view).find_map(|segment| {
        let within = address.checked_sub(segment.address)?;
        let data = view.slice("segment", segment.offset, segment.file_size);
        string_at(data.ok()?, within)
    })
}

/// Whether an image exports functions as a vDSO does.
fn exports_vdso_functions(view: &View<'_>) -> bool {
    let table = |section: &Section| section.kind == elf::SHT_DYNSYM.0;
    let Some(index) = view.sections.iter().position(table) else {
        return false;
    };
    view.symbols_in(index).is_ok_and(|symbols| {
        let mut names = symbols.iter().map(|symbol| symbol.name);
        names.any(|name| starts_with_any(name, &EXPORTS))
    })
}

fn loads<'a>(view: &'a View<'_>) -> impl Iterator<Item = &'a Segment> {
    let is_load = |segment: &&Segment| segment.kind == elf::PT_LOAD.0;
    view.segments.iter().filter(is_load)
}

fn starts_with_any(name: &[u8], starts: &[&[u8]]) -> bool {
    starts.iter().any(|start| name.starts_with(start))
}
