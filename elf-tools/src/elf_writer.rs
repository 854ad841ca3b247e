//! Giving an ELF file new section headers, and the sections that no segment loads.
//!
//! What is already there stays where it is: new content goes behind it, then the section names,
//! then the headers. That is all that tables in this crate need, and nothing that is loaded can
//! move by accident.

use object::elf::{self, FileHeader64};
use object::endian::{U16, U32, U64};
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, Writer};
use object::{Endianness, LittleEndian, pod};

use crate::arch::SPECIFIED;
use crate::image::{LinuxVersion, note};
use crate::record;
use crate::{BuildId, Error, Result, digest};

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

/// Size of an `Elf64_Sym`.
pub(crate) const SYMBOL: u64 = size_of::<elf::Sym64<LittleEndian>>() as u64;
/// Size of an `Elf64_Rela`.
pub(crate) const RELA: u64 = size_of::<elf::Rela64<LittleEndian>>() as u64;

/// A global `STT_OBJECT` symbol.
pub(crate) fn object_symbol(
    name: u32,
    binding: u8,
    section: u16,
    value: u64,
    size: u64,
) -> elf::Sym64<LittleEndian> {
    elf::Sym64 {
        st_name: U32::new(LittleEndian, name),
        st_info: elf::SymbolInfo((binding << 4) | elf::STT_OBJECT.0),
        st_other: elf::SymbolOther(0),
        st_shndx: U16::new(LittleEndian, elf::SymbolSection(section)),
        st_value: U64::new(LittleEndian, value),
        st_size: U64::new(LittleEndian, size),
    }
}

/// The notes of an object that holds a table: which table it is and of which image, the kernel's
/// version, and room for a digest.
pub(crate) fn announcement(
    kind: u32,
    build_id: Option<&BuildId>,
    linux_version: Option<LinuxVersion>,
) -> Vec<u8> {
    let mut descriptor = record::stored(note::Abi::CURRENT);
    descriptor.extend_from_slice(build_id.map_or(&[], BuildId::as_bytes));
    let mut notes = Vec::new();
    add_note(&mut notes, note::OWNER, kind, &descriptor);
    if let Some(LinuxVersion(code)) = linux_version {
        let descriptor = record::stored(note::Version { code });
        add_note(&mut notes, b"Linux", 0, &descriptor);
    }
    digest::reserve(&mut notes);
    notes
}

/// Adds a note, 4-aligned as in every vDSO.
pub(crate) fn add_note(notes: &mut Vec<u8>, owner: &[u8], kind: u32, descriptor: &[u8]) {
    let header = elf::NoteHeader64 {
        n_namesz: U32::new(LittleEndian, owner.len() as u32 + 1),
        n_descsz: U32::new(LittleEndian, descriptor.len() as u32),
        n_type: U32::new(LittleEndian, elf::NoteType(kind)),
    };
    notes.extend_from_slice(pod::bytes_of(&header));
    notes.extend(owner);
    notes.resize((notes.len() + 1).next_multiple_of(4), 0);
    notes.extend(descriptor);
    notes.resize(notes.len().next_multiple_of(4), 0);
}

/// A shared object that loads nothing and has these notes in a segment: ELF header, program header,
/// notes. Sections can be appended. Returns the notes' section as well.
pub(crate) fn object_with_notes(notes: &[u8]) -> Result<(Vec<u8>, NewSection<'static>)> {
    const HEADERS: usize =
        size_of::<FileHeader64<LittleEndian>>() + size_of::<elf::ProgramHeader64<LittleEndian>>();
    let (at, size) = (HEADERS as u64, notes.len() as u64);
    let mut bytes = Vec::with_capacity(HEADERS + notes.len());
    let mut writer = Writer::new_single_phase(Endianness::Little, true, &mut bytes);
    let header = FileHeader {
        e_type: elf::ET_DYN,
        e_machine: elf::Machine(SPECIFIED.machine_number()),
        ..FileHeader::default()
    };
    writer.write_file_header(&header).map_err(failed)?;
    writer.write_align_program_headers();
    writer.write_program_header(&ProgramHeader {
        p_type: elf::PT_NOTE,
        p_flags: elf::PF_R,
        p_offset: at,
        p_vaddr: at,
        p_paddr: at,
        p_filesz: size,
        p_memsz: size,
        p_align: 4,
    });
    writer.write(notes);
    // Only now it is known where the program header is.
    let mut header = Vec::new();
    writer.write_file_header_to(&mut header).map_err(failed)?;
    bytes[..header.len()].copy_from_slice(&header);
    let section = NewSection {
        flags: elf::SHF_ALLOC.0,
        address: at,
        content: Content::Existing(at, size),
        align: 4,
        ..table_section(".note", elf::SHT_NOTE.0)
    };
    Ok((bytes, section))
}

/// Appends sections and headers to `base`, a 64-bit file whose old section headers are cut off, and
/// enters them in its ELF header. Nothing else of `base` changes.
pub(crate) fn append(base: &mut Vec<u8>, sections: Vec<NewSection<'_>>) -> Result<Placed> {
    if sections.len() + 2 > usize::from(u16::MAX) {
        let reason = "more sections than a file can have";
        return Err(Error::malformed("ELF section headers", 0, reason));
    }
    let old = std::mem::take(base);
    let mut writer = Writer::new_single_phase(Endianness::Little, true, base);
    writer.write(&old);
    let mut placed = Vec::with_capacity(sections.len());
    let mut names = Vec::with_capacity(sections.len());
    for section in &sections {
        placed.push(match &section.content {
            Content::Existing(offset, size) => (*offset, *size),
            Content::New(content) => {
                let offset = writer.write_align(section.align.max(1));
                writer.write(content);
                (offset, content.len() as u64)
            }
        });
        names.push(writer.add_section_name(section.name.as_bytes()));
    }
    writer.write_shstrtab().map_err(failed)?;
    writer.write_null_section_header();
    for ((section, name), (offset, size)) in sections.iter().zip(names).zip(&placed) {
        let header = SectionHeader {
            sh_name: writer.section_name_offset(Some(name)),
            sh_type: elf::SectionType(section.kind),
            sh_flags: elf::SectionFlags(section.flags),
            sh_addr: section.address,
            sh_offset: *offset,
            sh_size: *size,
            sh_link: section.link,
            sh_info: section.info,
            sh_addralign: section.align,
            sh_entsize: section.entry_size,
        };
        writer.write_section_header(&header);
    }
    writer.write_shstrtab_section_header();
    let mut header = Vec::new();
    writer.write_file_header_to(&mut header).map_err(failed)?;
    enter(base, &header)?;
    Ok(placed)
}

/// Enters where section headers are in the ELF header of `file`.
fn enter(file: &mut [u8], header: &[u8]) -> Result<()> {
    let truncated = |()| Error::malformed("ELF header", 0, "truncated");
    let (new, _) = pod::from_bytes::<FileHeader64<LittleEndian>>(header).map_err(truncated)?;
    let (old, _) = pod::from_bytes_mut::<FileHeader64<LittleEndian>>(file).map_err(truncated)?;
    old.e_shoff = new.e_shoff;
    old.e_shentsize = new.e_shentsize;
    old.e_shnum = new.e_shnum;
    old.e_shstrndx = new.e_shstrndx;
    Ok(())
}

fn failed(error: object::write::Error) -> Error {
    Error::unsupported("ELF file", error.to_string())
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

/// Adds a zero-terminated name to a string table and returns its offset.
pub(crate) fn add_name(names: &mut Vec<u8>, name: &str) -> u32 {
    let offset = names.len() as u32;
    names.extend_from_slice(name.as_bytes());
    names.push(0);
    offset
}
