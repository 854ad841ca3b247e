//! Old vDSOs: images that a process can execute and that are not its kernel's.

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::mapping_name;
use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, ProgramHeader};

use super::OldText;
use super::no_image::NoImage;
use crate::targets::{Mapping, mapping_of};
use crate::{Error, Result, Unlinkable, arch};
use relocator::placement::PAGE;
use relocator::threads::Memory;

/// The largest mapping that may have an old vDSO in it. Stock images have up to 3
/// pages.
pub const MAX_TEXT: u64 = 1 << 20;

/// How many bytes all mappings with old vDSOs may have that are no files: programs choose how many
/// there are, and how large they are. A process that was restored has one, of some pages.
const MAX_TEXTS: u64 = 64 << 20;

/// How many mappings of files that have a vDSO, and that nothing says is one, are looked at
/// closer: nothing is linked in them.
const FILES: usize = 16;

/// In how many pages of a mapping the tool looks for the start of an image: the first, and as many
/// as a link record before it may have. Elsewhere an image is found if something says that it is
/// there.
const FIRST_PAGES: u64 = 4;

/// Size of an ELF header.
const HEADER: usize = 64;

/// `ELFCLASS32`, at byte 4.
const CLASS_32: u8 = 1;

/// `ET_DYN`, at byte 16.
const SHARED_OBJECT: [u8; 2] = [3, 0];

/// What names of functions begin with that vDSOs export.
pub(super) const EXPORT: &str = "__vdso_";

/// Where vDSOs are said to be.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// By the auxiliary vector.
    pub(super) auxv: Option<Avma>,
    /// By CRIU's mark.
    pub(super) marked: Option<Avma>,
    /// The kernel's own, which is not an old one.
    pub(super) kernel: Option<Avma>,
}

impl Hints {
    /// Where an old vDSO should be, and who says so.
    fn old(&self) -> impl Iterator<Item = (&'static str, Avma)> {
        let auxv = self.auxv.map(|at| ("the auxiliary vector", at));
        let marked = self.marked.map(|at| ("CRIU's mark", at));
        let hints = auxv.into_iter().chain(marked);
        hints.filter(|(_, at)| Some(*at) != self.kernel)
    }

    fn is_named(&self, at: Avma) -> bool {
        self.old().any(|hint| hint.1 == at)
    }
}

/// Finds old vDSOs. Hints that lead to none add to the misleading names.
pub(super) fn find(
    mappings: &[Mapping],
    hints: &Hints,
    memory: &dyn Memory,
    misleading_names: &mut Vec<String>,
) -> Result<Vec<OldText>> {
    let mut found: Vec<OldText> = Vec::new();
    let mut reasons: Vec<(Avma, NoImage)> = Vec::new();
    let (mut files, mut size) = (0, 0);
    for mapping in mappings {
        if Some(mapping.range.start) == hints.kernel {
            continue;
        }
        for at in starts(mapping, hints) {
            if is_absent_file(mapping, at, hints, memory) {
                continue;
            }
            let last = found.last();
            if last.is_some_and(|last| at < last.image.offset(last.size as i64)) {
                reasons.push((at, NoImage::InsideAnother));
                continue;
            }
            match look(&whole(mapping, at, mappings, memory)?, at, hints, memory)? {
                Ok(text) if is_unused_file(mapping, &text) => {
                    files += 1;
                    if files <= FILES {
                        found.push(text);
                    }
                }
                Ok(text) => {
                    size += text.bytes.len() as u64;
                    if size > MAX_TEXTS {
                        let what = format!("process with a vDSO at {at}");
                        let reason = Unlinkable::TooManyTexts;
                        return Err(Error::Unlinkable { what, reason });
                    }
                    found.push(text);
                }
                Err(reason) => reasons.push((at, reason)),
            }
        }
    }
    for (who, at) in hints.old() {
        if found.iter().any(|text| text.image == at) {
            continue;
        }
        let mapping = mapping_of(mappings, at).map(|mapping| mapping.protection);
        if mapping.is_some_and(|it| it.execute && !it.read && !it.shared) {
            return Err(Error::Unlinkable {
                what: format!("the vDSO at {at}"),
                reason: Unlinkable::ExecuteOnly,
            });
        }
        let reason = reasons.iter().find(|reason| reason.0 == at);
        let reason = reason.map_or(&NoImage::NotMapped, |reason| &reason.1);
        misleading_names.push(format!("{who} says that a vDSO is at {at}: {reason}"));
    }
    for text in &found {
        misleading_names.extend(remark(text, mappings));
    }
    if files > FILES {
        let more = files - FILES;
        misleading_names.push(format!("{more} more mappings of files have a vDSO"));
    }
    Ok(found)
}

/// Whether an image is in a file, and not the vDSO by the auxiliary vector: the program reads it,
/// and does not call it.
fn is_unused_file(mapping: &Mapping, text: &OldText) -> bool {
    !text.is_by_auxv && mapping.name.starts_with('/')
}

/// A remark about an old vDSO in a strange mapping.
fn remark(text: &OldText, mappings: &[Mapping]) -> Option<String> {
    let mapping = mapping_of(mappings, text.mapping.start)?;
    let (at, name, protection) = (text.image, &mapping.name, mapping.protection);
    match protection.write {
        true => Some(format!("the vDSO at {at} can be written: {protection}")),
        false if !name.is_empty() => Some(format!("the vDSO at {at} is called `{name}`")),
        false => None,
    }
}

/// Whether the program has never looked at what is there: a file that nothing says has a vDSO. To
/// look is to have somebody bring it, who may not answer.
fn is_absent_file(mapping: &Mapping, at: Avma, hints: &Hints, memory: &dyn Memory) -> bool {
    if !mapping.name.starts_with('/') || hints.is_named(at) {
        return false;
    }
    let header = at..at.offset(HEADER as i64);
    !memory.populated(header, HEADER as u64).absent.is_empty()
}

/// Where in a mapping an image may begin, lowest first.
fn starts(mapping: &Mapping, hints: &Hints) -> Vec<Avma> {
    let protection = mapping.protection;
    if !protection.read {
        return Vec::new();
    }
    let pages = match (protection.execute, protection.shared) {
        // There are many files, and nothing is linked in one.
        (true, false) if mapping.name.starts_with('/') => 1,
        (true, false) => (mapping.size() / PAGE).min(FIRST_PAGES),
        _ => 0,
    };
    let first = mapping.range.start;
    let first = (0..pages).map(|page| first.offset((page * PAGE) as i64));
    let hinted = hints.old().map(|hint| hint.1);
    let hinted = hinted.filter(|at| mapping.range.contains(at));
    let mut starts: Vec<Avma> = first.chain(hinted).collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// The mapping with what belongs to an image that begins in it and goes on in the next ones: the
/// kernel splits a mapping where a program changes the protection of a part, or advises it
/// something. Only the image's own pages of those are taken.
///
/// Errors: [`Unlinkable::Torn`] if what follows is not there, or cannot be read.
fn whole(
    mapping: &Mapping,
    at: Avma,
    mappings: &[Mapping],
    memory: &dyn Memory,
) -> Result<Mapping> {
    let mut whole = mapping.clone();
    let mut page = vec![0; PAGE as usize];
    if !mapping.is_anonymous() || !at.0.is_multiple_of(PAGE) || !memory.read(at, &mut page) {
        return Ok(whole);
    }
    let Some((loaded, size)) = sizes(&page).filter(|(_, size)| *size <= MAX_TEXT) else {
        return Ok(whole);
    };
    let end = at.offset(size.next_multiple_of(PAGE) as i64);
    while whole.range.end < end {
        let next = mapping_of(mappings, whole.range.end);
        match next.filter(|next| next.is_anonymous() && next.protection.read) {
            Some(next) => whole.range.end = next.range.end.min(end),
            None => break,
        }
    }
    let names = page.windows(EXPORT.len());
    let is_torn = whole.range.end < at.offset(loaded as i64);
    match is_torn && names.into_iter().any(|name| name == EXPORT.as_bytes()) {
        true => Err(Error::Unlinkable {
            what: format!("the vDSO at {at}"),
            reason: Unlinkable::Torn {
                end: whole.range.end,
            },
        }),
        false => Ok(whole),
    }
}

/// How many bytes of an image are loaded, and how many it has with its section headers, by its
/// first page; `None` if that has no headers of an image.
fn sizes(page: &[u8]) -> Option<(u64, u64)> {
    let header = FileHeader64::<LittleEndian>::parse(page).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, page).ok()?.iter();
    let segments = segments.filter(|segment| segment.p_type(endian) == object::elf::PT_LOAD);
    let ends = segments.map(|segment| {
        let start = segment.p_vaddr(endian);
        start.saturating_add(segment.p_memsz(endian))
    });
    let loaded = ends.max()?;
    let count = u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
    let sections = header.e_shoff(endian).checked_add(count)?;
    Some((loaded, loaded.max(sections)))
}

/// Looks for an image at an address; or says why there is none.
fn look(
    mapping: &Mapping,
    at: Avma,
    hints: &Hints,
    memory: &dyn Memory,
) -> Result<Result<OldText, NoImage>> {
    let mut header = [0; HEADER];
    if !at.0.is_multiple_of(PAGE) {
        return Ok(Err(NoImage::NotPage));
    }
    if !memory.read(at, &mut header) {
        return Ok(Err(NoImage::Unreadable));
    }
    if !header.starts_with(b"\x7fELF") {
        return Ok(Err(NoImage::NoHeader));
    }
    let is_kernels = mapping.name == mapping_name::VDSO && at == mapping.range.start;
    if header[4] == CLASS_32 && (is_kernels || hints.is_named(at)) {
        return Err(Error::Unlinkable {
            what: format!("the vDSO at {at}"),
            reason: Unlinkable::OtherWidth,
        });
    }
    if !arch::is_native_header(&header) || header[16..18] != SHARED_OBJECT {
        return Ok(Err(NoImage::NotNative));
    }
    Ok(read(mapping, at, memory).map(|text| OldText {
        is_by_auxv: hints.auxv == Some(at),
        ..text
    }))
}

/// Reads a mapping that seems to have an image.
fn read(mapping: &Mapping, at: Avma, memory: &dyn Memory) -> Result<OldText, NoImage> {
    let size = mapping.size();
    if size > MAX_TEXT {
        return Err(NoImage::TooLarge { size });
    }
    let mut bytes = vec![0; size as usize];
    if !memory.read(mapping.range.start, &mut bytes) {
        return Err(NoImage::PartlyUnreadable);
    }
    let behind = &bytes[(at.0 - mapping.range.start.0) as usize..];
    let image = Image::parse(behind)?;
    if !arch::is_native(&image) {
        return Err(NoImage::NotNative);
    }
    let mut exports = image.exports().iter();
    if !exports.any(|export| export.name.starts_with(EXPORT)) {
        return Err(NoImage::NoExports);
    }
    let size = length(&image);
    Ok(OldText {
        mapping: mapping.range.clone(),
        image: at,
        bytes,
        size,
        is_by_auxv: false,
    })
}

/// Length of an image, which ends with what is loaded, or with its section headers. What follows is
/// not its own.
pub(in crate::apply) fn length(image: &Image) -> usize {
    let bytes = image.bytes();
    let half = |at: usize| u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let sections = bytes[40..48].iter().rev();
    let sections = sections.fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let end = sections.checked_add(half(58) * half(60));
    let end = end.filter(|_| image.has_sections()).unwrap_or(0);
    let end = end.max(image.loaded_size()).min(bytes.len() as u64);
    end as usize
}
