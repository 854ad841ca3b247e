//! The headers of an image, which lead tools to what a linker adds.
//!
//! Unwinders in the process go by program headers, debuggers by section headers. A process has
//! cached what the program headers said when it started: where the image ends, and where the
//! `.eh_frame_hdr` is. So that stays where it is.

use std::ops::Range;

use elf_tools::Svma;
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64, Sym64, SymbolSection};
use object::{LittleEndian, U16, U32, U64, pod};

type Header = FileHeader64<LittleEndian>;
type Program = ProgramHeader64<LittleEndian>;
type Section = SectionHeader64<LittleEndian>;
type Symbol = Sym64<LittleEndian>;

const LE: LittleEndian = LittleEndian;

/// What is added to an image begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 8;

/// Most sections of an image that the linker changes the headers of.
const MAX_SECTIONS: usize = 1024;

/// The headers of an image.
#[derive(Debug, Clone)]
pub(super) struct Elf {
    /// Where the program headers are.
    programs: Range<usize>,
    /// The `.eh_frame_hdr`, by its program header.
    pub(super) frame_header: Option<Svma>,
    /// The section headers, if the image has them.
    sections: Option<Sections>,
}

/// The section headers of an image.
#[derive(Debug, Clone)]
struct Sections {
    /// Where they are.
    at: Range<usize>,
    /// Their content.
    headers: Vec<Section>,
    /// Which of them has their names.
    names: usize,
}

/// Code that was added, for symbols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// What debuggers call it.
    pub(super) name: String,
    /// Where it is.
    pub(super) range: Range<u64>,
}

impl Elf {
    /// Reads the headers of a little-endian ELF file of 64 bits.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (header, _) = pod::from_bytes::<Header>(bytes).ok()?;
        let start = usize::try_from(header.e_phoff.get(LE)).ok()?;
        let count = usize::from(header.e_phnum.get(LE));
        let (segments, _) = pod::slice_from_bytes::<Program>(bytes.get(start..)?, count).ok()?;
        let mut segments_of_frames = segments.iter();
        let frames = segments_of_frames.find(|one| one.p_type.get(LE) == elf::PT_GNU_EH_FRAME);
        Some(Self {
            programs: start..start + count * size_of::<Program>(),
            frame_header: frames.map(|one| Svma(one.p_vaddr.get(LE))),
            sections: Sections::read(header, bytes),
        })
    }

    /// Makes the loaded segment reach to the end of the image.
    pub(super) fn load_all(&self, bytes: &mut [u8]) {
        let end = bytes.len() as u64;
        let segments = self.segments(bytes);
        let loaded = segments
            .iter_mut()
            .filter(|one| one.p_type.get(LE) == elf::PT_LOAD);
        if let Some(last) = loaded.max_by_key(|one| one.p_vaddr.get(LE)) {
            let size = end.saturating_sub(last.p_vaddr.get(LE));
            if size > last.p_memsz.get(LE) {
                last.p_filesz.set(LE, size);
                last.p_memsz.set(LE, size);
            }
        }
    }

    /// The same, and says that code of the image is loaded elsewhere as well.
    ///
    /// Tools that read the image accept one loaded segment of a vDSO. The C library remembers where
    /// program headers are, and how many. So tools are led to a copy of the program headers, and in
    /// those that the C library knows, one that nobody goes by at run time gives way.
    pub(super) fn load_also(&self, bytes: &mut Vec<u8>, elsewhere: &Range<u64>) {
        let copy = bytes.len().next_multiple_of(ALIGNMENT);
        bytes.resize(copy + self.programs.len(), 0);
        self.load_all(bytes);
        bytes.copy_within(self.programs.clone(), copy);
        let segments = self.segments(bytes);
        // One of no size says nothing.
        let rank = |one: &Program| match one.p_type.get(LE) {
            elf::PT_GNU_PROPERTY | elf::PT_GNU_STACK if one.p_memsz.get(LE) == 0 => Some(0),
            elf::PT_NOTE => Some(1),
            _ => None,
        };
        let spare = segments.iter_mut().filter(|one| rank(one).is_some());
        let Some(spare) = spare.min_by_key(|one| rank(one)) else {
            bytes.truncate(copy);
            return;
        };
        spare.p_type.set(LE, elf::PT_LOAD);
        spare.p_flags.set(LE, elf::PF_R | elf::PF_X);
        spare.p_offset.set(LE, 0);
        spare.p_vaddr.set(LE, elsewhere.start);
        spare.p_paddr.set(LE, elsewhere.start);
        spare.p_filesz.set(LE, 0);
        let size = elsewhere.end.wrapping_sub(elsewhere.start);
        spare.p_memsz.set(LE, size);
        if let Ok((header, _)) = pod::from_bytes_mut::<Header>(bytes) {
            header.e_phoff.set(LE, copy as u64);
        }
    }

    /// States the size of the `.eh_frame_hdr`, and where the `.eh_frame` is.
    pub(super) fn move_frames(&mut self, bytes: &mut [u8], header: u64, frames: &Range<u64>) {
        for segment in self.segments(bytes) {
            if segment.p_type.get(LE) == elf::PT_GNU_EH_FRAME {
                segment.p_filesz.set(LE, header);
                segment.p_memsz.set(LE, header);
            }
        }
        let Some(sections) = &mut self.sections else {
            return;
        };
        let names = sections.names(bytes).to_vec();
        for section in &mut sections.headers {
            match name(&names, section) {
                b".eh_frame_hdr" => section.sh_size.set(LE, header),
                b".eh_frame" => {
                    section.sh_addr.set(LE, frames.start);
                    section.sh_offset.set(LE, frames.start);
                    section.sh_size.set(LE, frames.end - frames.start);
                }
                _ => {}
            }
        }
    }

    /// Adds sections and symbols for code that was added, and the section headers of all that.
    /// Nothing happens if the image has no section headers.
    pub(super) fn name_code(&self, bytes: &mut Vec<u8>, code: &[Range<u64>], named: &[Named]) {
        let Some(mut sections) = self.sections.clone() else {
            return;
        };
        let mut strings = sections.names(bytes).to_vec();
        let mut string = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.as_bytes());
            strings.push(0);
            at
        };
        let first = sections.headers.len();
        let end = bytes.len() as u64;
        let added = code.iter().map(|range| {
            // What is not in the image, is in memory all the same.
            let (kind, name) = match range.end <= end {
                true => (elf::SHT_PROGBITS, ".text.added"),
                false => (elf::SHT_NOBITS, ".text.new"),
            };
            let mut section = section(kind, range.clone(), 1);
            let flags = elf::SHF_ALLOC | elf::SHF_EXECINSTR;
            section.sh_name.set(LE, string(name));
            section.sh_flags.set(LE, flags);
            section.sh_addr.set(LE, range.start);
            section
        });
        sections.headers.extend(added.collect::<Vec<_>>());
        let symbols = named.iter().map(|one| {
            let inside = |range: &Range<u64>| range.contains(&one.range.start);
            let index = code.iter().position(inside).map_or(0, |at| first + at);
            function(string(&one.name), index as u16, &one.range)
        });
        let symbols: Vec<Symbol> = [function(0, 0, &(0..0))]
            .into_iter()
            .chain(symbols)
            .collect();
        let table_name = string(".symtab");
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let start = bytes.len() as u64;
        bytes.extend(pod::bytes_of_slice(&symbols));
        let mut table = section(elf::SHT_SYMTAB, start..bytes.len() as u64, 8);
        table.sh_name.set(LE, table_name);
        table.sh_link.set(LE, sections.names as u32);
        // All of them are local.
        table.sh_info.set(LE, symbols.len() as u32);
        table.sh_entsize.set(LE, size_of::<Symbol>() as u64);
        sections.headers.push(table);
        let names = bytes.len() as u64;
        bytes.extend(&strings);
        let own = &mut sections.headers[sections.names];
        own.sh_offset.set(LE, names);
        own.sh_size.set(LE, strings.len() as u64);
        sections.write(bytes);
    }

    /// Writes the section headers, without any more of them.
    pub(super) fn write_sections(&self, bytes: &mut Vec<u8>) {
        if let Some(sections) = &self.sections {
            sections.write(bytes);
        }
    }

    fn segments<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [Program] {
        let count = self.programs.len() / size_of::<Program>();
        let place = bytes.get_mut(self.programs.clone()).unwrap_or_default();
        pod::slice_from_bytes_mut(place, count).map_or(&mut [], |(segments, _)| segments)
    }
}

impl Sections {
    /// `None` if the image has none, or none that are usual.
    fn read(header: &Header, bytes: &[u8]) -> Option<Self> {
        let start = usize::try_from(header.e_shoff.get(LE)).ok()?;
        let count = usize::from(header.e_shnum.get(LE));
        let is_usual = start > 0 && (1..MAX_SECTIONS).contains(&count);
        let table = bytes.get(start..).filter(|_| is_usual)?;
        let (headers, _) = pod::slice_from_bytes::<Section>(table, count).ok()?;
        let names = usize::from(header.e_shstrndx.get(LE).0);
        let sections = Self {
            at: start..start + count * size_of::<Section>(),
            headers: headers.to_vec(),
            names,
        };
        let has_names = sections.headers.get(names).is_some();
        (has_names && sections.names(bytes).last() == Some(&0)).then_some(sections)
    }

    /// The names of sections.
    fn names<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let section = &self.headers[self.names];
        let start = section.sh_offset.get(LE) as usize;
        let end = start.saturating_add(section.sh_size.get(LE) as usize);
        bytes.get(start..end).unwrap_or_default()
    }

    /// Writes them where they were, if there is room, or to the end.
    fn write(&self, bytes: &mut Vec<u8>) {
        let size = self.headers.len() * size_of::<Section>();
        let start = match size == self.at.len() {
            true => self.at.start,
            false => bytes.len().next_multiple_of(ALIGNMENT),
        };
        bytes.resize(bytes.len().max(start + size), 0);
        bytes[start..start + size].copy_from_slice(pod::bytes_of_slice(&self.headers));
        if let Ok((header, _)) = pod::from_bytes_mut::<Header>(bytes) {
            header.e_shoff.set(LE, start as u64);
            header.e_shnum.set(LE, self.headers.len() as u16);
        }
    }
}

fn name<'a>(names: &'a [u8], section: &Section) -> &'a [u8] {
    let name = names.get(section.sh_name.get(LE) as usize..);
    let mut parts = name.unwrap_or_default().split(|&byte| byte == 0);
    parts.next().unwrap_or_default()
}

/// A section that is nowhere in memory.
fn section(kind: elf::SectionType, place: Range<u64>, alignment: u64) -> Section {
    Section {
        sh_name: U32::new(LE, 0),
        sh_type: U32::new(LE, kind),
        sh_flags: U64::new(LE, elf::SectionFlags(0)),
        sh_addr: U64::new(LE, 0),
        sh_offset: U64::new(LE, place.start),
        sh_size: U64::new(LE, place.end.wrapping_sub(place.start)),
        sh_link: U32::new(LE, 0),
        sh_info: U32::new(LE, 0),
        sh_addralign: U64::new(LE, alignment),
        sh_entsize: U64::new(LE, 0),
    }
}

/// A symbol of code; without a name and a section it is the first one of every table.
fn function(name: u32, section: u16, range: &Range<u64>) -> Symbol {
    let kind = match section {
        0 => elf::STT_NOTYPE,
        _ => elf::STT_FUNC,
    };
    Symbol {
        st_name: U32::new(LE, name),
        st_info: elf::SymbolInfo::new(elf::STB_LOCAL, kind),
        st_other: elf::SymbolOther(0),
        st_shndx: U16::new(LE, SymbolSection(section)),
        st_value: U64::new(LE, range.start),
        st_size: U64::new(LE, range.end.wrapping_sub(range.start)),
    }
}
