//! Giving an ELF file new section headers, and the sections that no segment loads.
//!
//! What is already there stays where it is: new content goes behind it, then the section names, then the headers. That
//! is all that tables in this crate need, and nothing that is loaded can move by accident.

use object::elf;

use crate::arch::SPECIFIED;
use crate::image::{LinuxVersion, note};
use crate::{BuildId, Error, Result};

/// Where a section's content is.
pub(crate) enum Content {
    /// In the base file already, or nowhere (`SHT_NOBITS`): offset and size.
    Existing(u64, u64),
    /// To be appended.
    New(Vec<u8>),
}

/// A section of the new file. Links and the order are by position in the list, counted from 1.
pub(crate) struct NewSection<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    pub(crate) address: u64,
    pub(crate) content: Content,
    pub(crate) link: u32,
    pub(crate) info: u32,
    pub(crate) align: u64,
    pub(crate) entry_size: u64,
}

/// Where the content of each section came to lie: offset and size.
pub(crate) type Placed = Vec<(u64, u64)>;

/// Size of an `Elf64_Ehdr`.
pub(crate) const FILE_HEADER: usize = 64;
/// Size of an `Elf64_Phdr`.
pub(crate) const PROGRAM_HEADER: usize = 56;
/// Size of an `Elf64_Shdr`.
const SECTION_HEADER: u16 = 64;
/// Size of an `Elf64_Sym`.
pub(crate) const SYMBOL: u64 = 24;
/// Size of an `Elf64_Rela`.
pub(crate) const RELA: u64 = 24;

/// Little-endian fields of a structure, in the order in which they are written.
#[derive(Default)]
pub(crate) struct Fields(pub(crate) Vec<u8>);

impl Fields {
    pub(crate) fn half(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn word(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn xword(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// A global `STT_OBJECT` symbol: an `Elf64_Sym`.
pub(crate) fn object_symbol(
    name: u32,
    binding: u8,
    section: u16,
    value: u64,
    size: u64,
) -> Vec<u8> {
    let info = (binding << 4) | elf::STT_OBJECT.0;
    Fields::default()
        .word(name)
        .bytes(&[info, 0])
        .half(section)
        .xword(value)
        .xword(size)
        .0
}

/// The notes of an object that holds a table: which table it is and of which image, and the kernel's version.
pub(crate) fn announcement(
    kind: u32,
    build_id: Option<&BuildId>,
    linux_version: Option<LinuxVersion>,
) -> Vec<u8> {
    let descriptor = Fields::default().word(note::ABI_VERSION).word(0);
    let descriptor = descriptor.bytes(build_id.map_or(&[], BuildId::as_bytes)).0;
    let mut notes = Vec::new();
    add_note(&mut notes, note::OWNER, kind, &descriptor);
    if let Some(LinuxVersion(code)) = linux_version {
        add_note(&mut notes, b"Linux", 0, &code.to_le_bytes());
    }
    notes
}

/// Adds a note, 4-aligned as in every vDSO.
pub(crate) fn add_note(notes: &mut Vec<u8>, owner: &[u8], kind: u32, descriptor: &[u8]) {
    notes.extend((owner.len() as u32 + 1).to_le_bytes());
    notes.extend((descriptor.len() as u32).to_le_bytes());
    notes.extend(kind.to_le_bytes());
    notes.extend(owner);
    notes.resize((notes.len() + 1).next_multiple_of(4), 0);
    notes.extend(descriptor);
    notes.resize(notes.len().next_multiple_of(4), 0);
}

/// A shared object that loads nothing and has these notes in a segment: ELF header, program header, notes. Sections can
/// be appended. Returns the notes' section as well.
pub(crate) fn object_with_notes(notes: &[u8]) -> (Vec<u8>, NewSection<'static>) {
    let at = (FILE_HEADER + PROGRAM_HEADER) as u64;
    let ident = [
        elf::ELFMAG.as_slice(),
        &[elf::ELFCLASS64.0, elf::ELFDATA2LSB.0, 1],
        &[0; 9],
    ]
    .concat();
    let header = Fields::default()
        .bytes(&ident)
        .half(elf::ET_DYN.0)
        .half(SPECIFIED.machine_number())
        .word(1)
        .xword(0)
        .xword(FILE_HEADER as u64)
        .xword(0)
        .word(0);
    // The last three halves, about section headers, are filled in when sections are appended.
    let header = header
        .half(FILE_HEADER as u16)
        .half(PROGRAM_HEADER as u16)
        .half(1)
        .half(0)
        .half(0)
        .half(0);
    let size = notes.len() as u64;
    let segment = header.word(elf::PT_NOTE.0).word(elf::PF_R.0);
    let segment = segment.xword(at).xword(at).xword(at);
    let bytes = segment.xword(size).xword(size).xword(4).bytes(notes).0;
    let section = NewSection {
        flags: elf::SHF_ALLOC.0,
        address: at,
        content: Content::Existing(at, size),
        align: 4,
        ..table_section(".note", elf::SHT_NOTE.0)
    };
    (bytes, section)
}

/// Appends sections and headers to `base`, a 64-bit file whose old section headers are cut off, and enters them in its
/// ELF header.
pub(crate) fn append(base: &mut Vec<u8>, mut sections: Vec<NewSection<'_>>) -> Result<Placed> {
    let mut names = vec![0u8];
    let name_offsets: Vec<u32> = sections
        .iter()
        .map(|section| section.name)
        .chain([".shstrtab"])
        .map(|name| add_name(&mut names, name))
        .collect();
    sections.push(NewSection {
        content: Content::New(names),
        ..table_section(".shstrtab", elf::SHT_STRTAB.0)
    });
    let count = u16::try_from(sections.len() + 1).map_err(|_| {
        Error::malformed(
            "ELF section headers",
            0,
            "more sections than a file can have",
        )
    })?;
    let mut headers = Fields(vec![0; usize::from(SECTION_HEADER)]);
    let mut placed = Vec::with_capacity(sections.len());
    for (section, name) in sections.into_iter().zip(name_offsets) {
        let (offset, size) = match section.content {
            Content::Existing(offset, size) => (offset, size),
            Content::New(content) => append_aligned(base, &content, section.align),
        };
        placed.push((offset, size));
        headers = headers
            .word(name)
            .word(section.kind)
            .xword(section.flags)
            .xword(section.address);
        headers = headers
            .xword(offset)
            .xword(size)
            .word(section.link)
            .word(section.info);
        headers = headers.xword(section.align).xword(section.entry_size);
    }
    let (offset, _) = append_aligned(base, &headers.0, 8);
    let Some(header) = base.get_mut(..FILE_HEADER) else {
        return Err(Error::malformed("ELF header", 0, "truncated"));
    };
    header[40..48].copy_from_slice(&offset.to_le_bytes());
    header[58..].copy_from_slice(
        &Fields::default()
            .half(SECTION_HEADER)
            .half(count)
            .half(count - 1)
            .0,
    );
    Ok(placed)
}

/// A section that no segment loads, to be completed.
pub(crate) fn table_section(name: &str, kind: u32) -> NewSection<'_> {
    let content = Content::Existing(0, 0);
    NewSection {
        name,
        kind,
        flags: 0,
        address: 0,
        content,
        link: 0,
        info: 0,
        align: 1,
        entry_size: 0,
    }
}

fn append_aligned(base: &mut Vec<u8>, content: &[u8], align: u64) -> (u64, u64) {
    base.resize(base.len().next_multiple_of(align.max(1) as usize), 0);
    let offset = base.len() as u64;
    base.extend_from_slice(content);
    (offset, content.len() as u64)
}

/// Adds a zero-terminated name to a string table and returns its offset.
pub(crate) fn add_name(names: &mut Vec<u8>, name: &str) -> u32 {
    let offset = names.len() as u32;
    names.extend_from_slice(name.as_bytes());
    names.push(0);
    offset
}
