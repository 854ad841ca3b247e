//! One view of ELF for both classes: headers, sections, symbols, notes, with every offset checked.
//!
//! `object` reads the structures; this module flattens them to plain numbers, so that the rest of
//! the crate is written once, and turns its errors into ours with the offset of the structure at
//! fault.

use object::LittleEndian;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{Dyn, FileHeader, NoteIterator, ProgramHeader, SectionHeader, Sym};

use crate::foreign::foreign;
use crate::printable::printable_bytes;
use crate::{Error, Machine, Result};

/// Width of an ELF file's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// 32-bit structures.
    Elf32,
    /// 64-bit structures.
    Elf64,
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Elf32 => "32-bit",
            Self::Elf64 => "64-bit",
        })
    }
}

/// A program header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_size: u64,
    pub(crate) memory_size: u64,
}

/// A section header.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) link: usize,
    pub(crate) info: u32,
    pub(crate) align: u64,
    pub(crate) entry_size: u64,
}

/// An entry of a symbol table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSymbol<'data> {
    pub(crate) name: &'data [u8],
    pub(crate) kind: u8,
    pub(crate) binding: u8,
    pub(crate) section: u16,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

/// A note.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note<'data> {
    pub(crate) owner: &'data [u8],
    pub(crate) kind: u32,
    pub(crate) descriptor: &'data [u8],
    /// Offset of the descriptor in the file.
    pub(crate) offset: u64,
}

/// An ELF file, headers read and checked.
#[derive(Debug)]
pub(crate) struct View<'data> {
    pub(crate) bytes: &'data [u8],
    pub(crate) class: Class,
    pub(crate) machine: Machine,
    pub(crate) file_type: u16,
    pub(crate) segments: Vec<Segment>,
    /// Empty where the file has no section headers.
    pub(crate) sections: Vec<Section>,
    pub(crate) section_headers: u64,
}

impl<'data> View<'data> {
    /// Reads the headers of a little-endian ELF file of either class.
    pub(crate) fn parse(bytes: &'data [u8]) -> Result<Self> {
        let ident = bytes.get(..16).ok_or_else(|| {
            Error::malformed(
                "ELF header",
                bytes.len() as u64,
                format!("{} bytes are too few", bytes.len()),
            )
        })?;
        if ident[..4] != elf::ELFMAG {
            let reason = match foreign(bytes) {
                Some(kind) => format!("magic number is missing: the file is {kind}"),
                None => "magic number is missing".to_owned(),
            };
            return Err(Error::malformed("ELF header", 0, reason));
        }
        match (ident[4], ident[5]) {
            (2, 1) => Self::read::<FileHeader64<LittleEndian>>(bytes, Class::Elf64),
            (1, 1) => Self::read::<FileHeader32<LittleEndian>>(bytes, Class::Elf32),
            (_, 2) => Err(Error::unsupported(
                "ELF byte order",
                "big-endian; only little-endian is understood",
            )),
            (class, order) => Err(Error::malformed(
                "ELF header",
                4,
                format!("class {class}, byte order {order} do not exist"),
            )),
        }
    }

    fn read<E: FileHeader<Endian = LittleEndian>>(
        bytes: &'data [u8],
        class: Class,
    ) -> Result<Self> {
        let endian = LittleEndian;
        let header =
            E::parse(bytes).map_err(|e| Error::malformed("ELF header", 0, e.to_string()))?;
        let at_segments = header.e_phoff(endian).into();
        let programs = header
            .program_headers(endian, bytes)
            .map_err(|e| Error::malformed("ELF program headers", at_segments, e.to_string()))?;
        let section_headers = header.e_shoff(endian).into();
        // A checkpoint may have kept only what segments cover. Section headers that lie outside the
        // bytes are absent; ones that lie inside but contradict themselves are an error.
        let sections = if section_headers < bytes.len() as u64 {
            Self::sections_of(header, bytes)?
        } else {
            Vec::new()
        };
        Ok(Self {
            bytes,
            class,
            machine: Machine::from_number(header.e_machine(endian).0),
            file_type: header.e_type(endian).0,
            segments: programs.iter().map(segment).collect(),
            sections,
            section_headers,
        })
    }

    fn sections_of<E: FileHeader<Endian = LittleEndian>>(
        header: &E,
        bytes: &'data [u8],
    ) -> Result<Vec<Section>> {
        let endian = LittleEndian;
        let place: u64 = header.e_shoff(endian).into();
        let failed =
            |e: object::read::Error| Error::malformed("ELF section headers", place, e.to_string());
        let headers = header.section_headers(endian, bytes).map_err(failed)?;
        if headers.is_empty() {
            return Ok(Vec::new());
        }
        let strings = header
            .section_strings(endian, bytes, headers)
            .map_err(failed)?;
        let mut sections = Vec::with_capacity(headers.len());
        for section in headers {
            let name = section.name(endian, strings).map_err(failed)?;
            sections.push(Section {
                name: printable_bytes(name),
                kind: section.sh_type(endian).0,
                flags: section.sh_flags(endian).0,
                address: section.sh_addr(endian).into(),
                offset: section.sh_offset(endian).into(),
                size: section.sh_size(endian).into(),
                link: section.sh_link(endian) as usize,
                info: section.sh_info(endian),
                align: section.sh_addralign(endian).into(),
                entry_size: section.sh_entsize(endian).into(),
            });
        }
        Ok(sections)
    }

    /// The first section of that name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The bytes at `offset`, or an error that names `what`.
    pub(crate) fn slice(&self, what: &str, offset: u64, size: u64) -> Result<&'data [u8]> {
        slice(self.bytes, what, offset, size)
    }

    /// A section's bytes; none for `SHT_NOBITS`.
    pub(crate) fn data(&self, section: &Section) -> Result<&'data [u8]> {
        match section.kind {
            k if k == elf::SHT_NOBITS.0 => Ok(&[]),
            _ => self.slice(
                &format!("section {}", section.name),
                section.offset,
                section.size,
            ),
        }
    }

    /// The entries of the dynamic section, as (tag, value), without the terminator. Empty where
    /// there is none.
    pub(crate) fn dynamic(&self) -> Result<Vec<(u64, u64)>> {
        match self.class {
            Class::Elf32 => self.dynamic_of::<FileHeader32<LittleEndian>>(),
            Class::Elf64 => self.dynamic_of::<FileHeader64<LittleEndian>>(),
        }
    }

    fn dynamic_of<E: FileHeader<Endian = LittleEndian>>(&self) -> Result<Vec<(u64, u64)>> {
        let Some(segment) = self
            .segments
            .iter()
            .find(|segment| segment.kind == elf::PT_DYNAMIC.0)
        else {
            return Ok(Vec::new());
        };
        let bytes = self.slice("dynamic section", segment.offset, segment.file_size)?;
        let count = bytes.len() / size_of::<E::Dyn>();
        let (entries, _) = object::pod::slice_from_bytes::<E::Dyn>(bytes, count)
            .map_err(|()| Error::malformed("dynamic section", segment.offset, "misaligned"))?;
        let entries = entries
            .iter()
            .map(|d| (d.d_tag(LittleEndian).0 as u64, d.d_val(LittleEndian).into()));
        Ok(entries.take_while(|&(tag, _)| tag != 0).collect())
    }

    /// `count` symbols at `offset` with names from the given string table.
    pub(crate) fn symbols(
        &self,
        offset: u64,
        count: u64,
        strings: &'data [u8],
    ) -> Result<Vec<RawSymbol<'data>>> {
        match self.class {
            Class::Elf32 => self.symbols_of::<FileHeader32<LittleEndian>>(offset, count, strings),
            Class::Elf64 => self.symbols_of::<FileHeader64<LittleEndian>>(offset, count, strings),
        }
    }

    fn symbols_of<E: FileHeader<Endian = LittleEndian>>(
        &self,
        offset: u64,
        count: u64,
        strings: &'data [u8],
    ) -> Result<Vec<RawSymbol<'data>>> {
        let endian = LittleEndian;
        let bytes = self.slice(
            "symbol table",
            offset,
            count.saturating_mul(size_of::<E::Sym>() as u64),
        )?;
        let entry_size = size_of::<E::Sym>();
        let mut symbols = Vec::with_capacity(bytes.len() / entry_size);
        for (index, entry) in bytes.chunks_exact(entry_size).enumerate() {
            let place = offset + (index * entry_size) as u64;
            let (symbol, _) = object::pod::from_bytes::<E::Sym>(entry)
                .map_err(|()| Error::malformed("symbol", place, "misaligned"))?;
            let name = string_at(strings, u64::from(symbol.st_name(endian))).ok_or_else(|| {
                Error::malformed("symbol", place, "name lies outside the string table")
            })?;
            symbols.push(RawSymbol {
                name,
                kind: symbol.st_info().0 & 0xf,
                binding: symbol.st_info().0 >> 4,
                section: symbol.st_shndx(endian).0,
                value: symbol.st_value(endian).into(),
                size: symbol.st_size(endian).into(),
            });
        }
        Ok(symbols)
    }

    /// The symbols of section `index`, which must be a symbol table with its strings linked.
    pub(crate) fn symbols_in(&self, index: usize) -> Result<Vec<RawSymbol<'data>>> {
        let table = self
            .sections
            .get(index)
            .filter(|s| s.kind == elf::SHT_SYMTAB.0 || s.kind == elf::SHT_DYNSYM.0);
        let Some(table) = table else {
            let reason = format!("link to section {index}, which is not a symbol table");
            return Err(Error::malformed(
                "ELF section headers",
                self.section_headers,
                reason,
            ));
        };
        let strings = self
            .sections
            .get(table.link)
            .filter(|s| s.kind == elf::SHT_STRTAB.0);
        let Some(strings) = strings else {
            let reason = format!(
                "{} links to section {}, which is not a string table",
                table.name, table.link
            );
            return Err(Error::malformed(
                "ELF section headers",
                self.section_headers,
                reason,
            ));
        };
        let entry = match self.class {
            Class::Elf32 => 16,
            Class::Elf64 => 24,
        };
        self.symbols(table.offset, table.size / entry, self.data(strings)?)
    }

    /// All notes of all `PT_NOTE` segments.
    pub(crate) fn notes(&self) -> Result<Vec<Note<'data>>> {
        let mut notes = Vec::new();
        let segments = self.segments.iter();
        for segment in segments.filter(|segment| segment.kind == elf::PT_NOTE.0) {
            let bytes = self.slice("notes", segment.offset, segment.file_size)?;
            read_notes(bytes, segment.offset, &mut notes)?;
        }
        Ok(notes)
    }
}

/// Notes are 4-aligned in every vDSO, whatever the class and whatever the segment says. Their
/// headers are the same in both classes.
fn read_notes<'data>(bytes: &'data [u8], base: u64, notes: &mut Vec<Note<'data>>) -> Result<()> {
    const HEADER: usize = size_of::<elf::NoteHeader64<LittleEndian>>();
    let mut at = 0;
    // What is shorter than a header is padding.
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= HEADER) {
        let failed = |e: object::read::Error| {
            Error::malformed(
                "note",
                base + at as u64,
                format!("{e}: it leaves its segment"),
            )
        };
        let iterator = NoteIterator::<FileHeader64<LittleEndian>>::new(LittleEndian, 4, rest);
        let Some(note) = iterator
            .and_then(|mut notes| notes.next())
            .map_err(failed)?
        else {
            break;
        };
        let owner = note.name_bytes();
        let before = (HEADER + owner.len()).next_multiple_of(4);
        notes.push(Note {
            owner: owner.strip_suffix(&[0]).unwrap_or(owner),
            kind: note.n_type(LittleEndian).0,
            descriptor: note.desc(),
            offset: base + (at + before) as u64,
        });
        at += (before + note.desc().len()).next_multiple_of(4);
    }
    Ok(())
}

fn segment<P: ProgramHeader<Endian = LittleEndian>>(header: &P) -> Segment {
    let endian = LittleEndian;
    Segment {
        kind: header.p_type(endian).0,
        flags: header.p_flags(endian).0,
        offset: header.p_offset(endian).into(),
        address: header.p_vaddr(endian).into(),
        file_size: header.p_filesz(endian).into(),
        memory_size: header.p_memsz(endian).into(),
    }
}

/// `size` bytes at `offset`, or an error that names `what`.
pub(crate) fn slice<'data>(
    bytes: &'data [u8],
    what: &str,
    offset: u64,
    size: u64,
) -> Result<&'data [u8]> {
    let range = usize::try_from(offset).ok().zip(
        offset
            .checked_add(size)
            .and_then(|end| usize::try_from(end).ok()),
    );
    range
        .and_then(|(start, end)| bytes.get(start..end))
        .ok_or_else(|| {
            let reason = format!(
                "{size:#x} bytes do not fit into the {:#x} there are",
                bytes.len()
            );
            Error::malformed(what, offset, reason)
        })
}

/// The zero-terminated string at `offset` of a string table.
pub(crate) fn string_at(strings: &[u8], offset: u64) -> Option<&[u8]> {
    let tail = strings.get(usize::try_from(offset).ok()?..)?;
    let end = tail.iter().position(|&byte| byte == 0)?;
    Some(&tail[..end])
}
