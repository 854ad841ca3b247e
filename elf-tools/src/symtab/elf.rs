//! Symbol tables as ELF: `docs/abi.md`, section 2.
//!
//! Reading accepts what an ordinary link produces. Writing produces the least that has the same
//! meaning: mappings as sections, `.symtab`, and the notes in a segment.

use object::{elf, pod};

use crate::elf::{Note, RawSymbol, View};
use crate::elf_writer::{
    self, Content, NewSection, add_name, object_symbol, object_with_notes, table_section,
};
use crate::image::note;
use crate::printable::printable_bytes;
use crate::record;
use crate::symtab::name::VersionedName;
use crate::symtab::{Mapping, Provenance, Symbol, Symtab, mapping_name};
use crate::{BuildId, Error, Result, arch, digest};

const PAGE: u64 = 0x1000;

/// Most symbols a table may define. The largest kernel has 66.
const MAX_SYMBOLS: usize = 1 << 16;

/// Whether these bytes are a symbol table object rather than a vDSO: they carry the note of type 2.
pub fn is_symtab(bytes: &[u8]) -> bool {
    let notes = View::parse(bytes).and_then(|view| symbol_note(&view).map(|note| note.is_some()));
    notes.unwrap_or(false)
}

/// Reads a symbol table object.
pub fn read(bytes: &[u8], provenance: Provenance) -> Result<Symtab> {
    let view = View::parse(bytes)?;
    let Some(announcement) = symbol_note(&view)? else {
        return Err(Error::not_found(
            "symbol table",
            "the object has no vDSO note of type 2",
        ));
    };
    note::descriptor::<note::Abi>(&announcement)?;
    // One that a compiler and a linker have made has none.
    digest::check(&view)?;
    if !arch::is_supported(view.machine, view.class) {
        let reason = format!(
            "a table for {} {} kernels; symbols are specified for {}",
            view.class,
            view.machine,
            arch::SUPPORTED
        );
        return Err(Error::unsupported("symbol table", reason));
    }
    let (mappings, sections) = mappings(&view)?;
    let mut symtab = Symtab::new(provenance, mappings)?;
    let (_, build_id) = announcement
        .descriptor
        .split_at(record::size::<note::Abi>());
    symtab.build_id = BuildId::new(build_id);
    symtab.linux_version = note::linux_version(&view.notes()?);
    let is_table = |kind: u32| kind == elf::SHT_DYNSYM.0 || kind == elf::SHT_SYMTAB.0;
    let dynamic = view
        .sections
        .iter()
        .position(|section| section.kind == elf::SHT_DYNSYM.0);
    let table = dynamic.or_else(|| {
        view.sections
            .iter()
            .position(|section| is_table(section.kind))
    });
    let Some(table) = table else {
        return Err(Error::not_found(
            "symbol table",
            "the object has neither .dynsym nor .symtab",
        ));
    };
    let symbols = view.symbols_in(table)?;
    if symbols.len() > MAX_SYMBOLS {
        let reason = format!(
            "{} symbols; at most {MAX_SYMBOLS} make sense",
            symbols.len()
        );
        return Err(Error::malformed(
            "symbol table",
            view.sections[table].offset,
            reason,
        ));
    }
    for symbol in &symbols {
        let section = sections
            .iter()
            .position(|&section| section == usize::from(symbol.section));
        let Some(mapping) = section else {
            continue;
        };
        if let Some(symbol) = self::symbol(symbol, mapping, &symtab.mappings()[mapping])? {
            symtab.insert(symbol)?;
        }
    }
    symtab.check()?;
    Ok(symtab)
}

fn symbol_note<'data>(view: &View<'data>) -> Result<Option<Note<'data>>> {
    note::only(&view.notes()?, note::NT_SYMBOLS)
}

/// The mappings, and the index of each one's section.
fn mappings(view: &View<'_>) -> Result<(Vec<Mapping>, Vec<usize>)> {
    let known = [
        mapping_name::VVAR,
        mapping_name::VVAR_VCLOCK,
        mapping_name::VDSO,
    ];
    let mut mappings = Vec::new();
    let mut sections = Vec::new();
    for (index, section) in view.sections.iter().enumerate() {
        if !known.contains(&section.name.as_str()) {
            continue;
        }
        let aligned = section.address.is_multiple_of(PAGE) && section.size.is_multiple_of(PAGE);
        if section.kind != elf::SHT_NOBITS.0 || !aligned {
            let reason = format!(
                "section {} is not made of whole pages without content",
                section.name
            );
            return Err(Error::malformed(
                "ELF section headers",
                view.section_headers,
                reason,
            ));
        }
        mappings.push(Mapping {
            name: section.name.clone(),
            address: section.address,
            size: section.size,
        });
        sections.push(index);
    }
    if !mappings
        .iter()
        .any(|mapping| mapping.name == mapping_name::VVAR)
    {
        return Err(Error::not_found(
            "section [vvar]",
            "a symbol table describes at least this mapping",
        ));
    }
    Ok((mappings, sections))
}

fn symbol(raw: &RawSymbol<'_>, mapping: usize, place: &Mapping) -> Result<Option<Symbol>> {
    let is_object = raw.kind == elf::STT_OBJECT.0 || raw.kind == elf::STT_NOTYPE.0;
    if !is_object || raw.binding != elf::STB_GLOBAL.0 {
        return Ok(None);
    }
    let text = printable_bytes(raw.name);
    let VersionedName {
        name,
        indices,
        version,
    } = VersionedName::parse(&text)?;
    if indices.iter().any(|&index| index > 0) {
        let reason = "a table describes the first element of an array, and its stride";
        return Err(Error::symbol(text, reason));
    }
    let Some(offset) = raw.value.checked_sub(place.address) else {
        return Err(Error::symbol(text, format!("lies before {}", place.name)));
    };
    Ok(Some(Symbol {
        name,
        version,
        mapping,
        offset,
        size: raw.size,
    }))
}

/// Writes the table as a symbol table object.
pub fn write(symtab: &Symtab) -> Result<Vec<u8>> {
    let build_id = symtab.build_id.as_ref();
    let notes = elf_writer::announcement(note::NT_SYMBOLS, build_id, symtab.linux_version);
    let (mut bytes, note_section) = object_with_notes(&notes)?;
    let mut strings = vec![0u8];
    let mut symbols = vec![0u8; elf_writer::SYMBOL as usize];
    for symbol in symtab.symbols() {
        let name = VersionedName {
            version: symbol.version,
            ..VersionedName::first(&symbol.name)
        }
        .to_string();
        let value = symtab.mappings()[symbol.mapping].address + symbol.offset;
        let (name, section) = (add_name(&mut strings, &name), symbol.mapping as u16 + 1);
        let symbol = object_symbol(name, elf::STB_GLOBAL.0, section, value, symbol.size);
        symbols.extend_from_slice(pod::bytes_of(&symbol));
    }
    // Mappings come first, so that section N is mapping N - 1.
    let mut sections: Vec<NewSection<'_>> = symtab.mappings().iter().map(mapping_section).collect();
    let symbol_table = sections.len() as u32 + 2;
    sections.push(note_section);
    sections.push(NewSection {
        content: Content::New(symbols),
        link: symbol_table + 1,
        info: 1,
        align: 8,
        entry_size: elf_writer::SYMBOL,
        ..table_section(".symtab", elf::SHT_SYMTAB.0)
    });
    sections.push(NewSection {
        content: Content::New(strings),
        ..table_section(".strtab", elf::SHT_STRTAB.0)
    });
    elf_writer::append(&mut bytes, sections)?;
    digest::seal(&mut bytes)?;
    Ok(bytes)
}

fn mapping_section(mapping: &Mapping) -> NewSection<'_> {
    NewSection {
        flags: elf::SHF_ALLOC.0,
        address: mapping.address,
        content: Content::Existing(0, mapping.size),
        align: PAGE,
        ..table_section(&mapping.name, elf::SHT_NOBITS.0)
    }
}
