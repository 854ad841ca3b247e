//! Adding relocation tables to an image: `docs/abi.md`, section 5.2.

use object::elf;

use crate::assemble::{
    self, Content, Fields, NewSection, RELA, SYMBOL, add_name, object_symbol, table_section,
};
use crate::elf::View;
use crate::image::note::TABLES_SIZE;
use crate::image::{Image, TablesNote};
use crate::relocation::Relocations;
use crate::{Error, Result};

/// Sections that a written table replaces: earlier tables of ours, and what `--emit-relocs` leaves.
fn is_replaced(kind: u32) -> bool {
    [elf::SHT_RELA.0, elf::SHT_REL.0, elf::SHT_SYMTAB.0].contains(&kind)
}

/// The image with this relocation table attached behind what is loaded, and its note filled in.
///
/// The image must have a note of type 1, since notes are loaded and nothing that is loaded is moved here.
pub fn attach(image: &Image, relocations: &Relocations) -> Result<Vec<u8>> {
    let note = *image.tables_note().ok_or_else(|| {
        Error::not_found(
            "vDSO note of type 1",
            "an image needs one before tables can be attached to it",
        )
    })?;
    let view = image.view()?;
    let mut bytes = image.bytes()[..image.loaded_size() as usize].to_vec();
    let descriptor_at = note.offset as usize..note.offset as usize + TABLES_SIZE;
    if descriptor_at.end > bytes.len() {
        let reason = "the note lies outside what is loaded, so it cannot be filled in";
        return Err(Error::malformed("vDSO note", note.offset, reason));
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let mut sections = kept_sections(&view)?;
    let first = sections.len() as u32 + 1;
    let tables = Tables::encode(relocations, first, bytes.len() as u64);
    sections.extend(tables.into_sections(first));
    let placed = assemble::append(&mut bytes, sections)?;
    let [relocations_at, symbols_at, strings_at] =
        [1, 2, 3].map(|index| placed[first as usize - 1 + index]);
    let stated = TablesNote {
        relocations: (relocations_at.0, relocations_at.1 / RELA),
        symbols: (symbols_at.0, symbols_at.1 / SYMBOL),
        strings: strings_at,
        ..note
    };
    bytes[descriptor_at].copy_from_slice(&stated.encode());
    Ok(bytes)
}

/// The image's own sections, as they are. Sections that nothing loads are dropped: they would have to be moved.
fn kept_sections<'a>(view: &'a View<'_>) -> Result<Vec<NewSection<'a>>> {
    let alloc = elf::SHF_ALLOC.0;
    let kept: Vec<usize> = (1..view.sections.len())
        .filter(|&i| view.sections[i].flags & alloc != 0 && !is_replaced(view.sections[i].kind))
        .collect();
    let mut sections = Vec::with_capacity(kept.len());
    for &index in &kept {
        let section = &view.sections[index];
        let link = kept
            .iter()
            .position(|&other| other == section.link)
            .map_or(0, |position| position as u32 + 1);
        sections.push(NewSection {
            name: &section.name,
            kind: section.kind,
            flags: section.flags,
            address: section.address,
            content: Content::Existing(section.offset, section.size),
            link,
            info: section.info,
            align: section.align,
            entry_size: section.entry_size,
        });
    }
    if kept.is_empty() {
        return Err(Error::not_found(
            "section headers",
            "tables cannot be attached to an image that has lost them",
        ));
    }
    Ok(sections)
}

/// The tables as bytes.
struct Tables {
    /// First of all: symbols state where in the image their defaults are.
    defaults: Vec<u8>,
    defaults_at: u64,
    relocations: Vec<u8>,
    symbols: Vec<u8>,
    strings: Vec<u8>,
}

impl Tables {
    /// `section` is the index of the section of defaults, and `defaults_at` its place in the image.
    fn encode(relocations: &Relocations, section: u32, defaults_at: u64) -> Self {
        let mut strings = vec![0u8];
        let mut defaults = Vec::new();
        let mut symbols = vec![0u8; SYMBOL as usize];
        for need in &relocations.needs {
            let (binding, section, value) = match &need.default {
                None => (elf::STB_GLOBAL.0, elf::SHN_UNDEF.0, 0),
                Some(bytes) => {
                    defaults.resize(defaults.len().next_multiple_of(8), 0);
                    let value = defaults_at + defaults.len() as u64;
                    defaults.extend_from_slice(bytes);
                    (elf::STB_WEAK.0, section as u16, value)
                }
            };
            let name = add_name(&mut strings, &need.reference.to_string());
            symbols.extend(object_symbol(name, binding, section, value, need.size));
        }
        let mut table = Fields(Vec::with_capacity(
            relocations.entries.len() * RELA as usize,
        ));
        for entry in &relocations.entries {
            let info = (u64::from(entry.need + 1) << 32) | u64::from(entry.kind.number());
            table = table
                .xword(entry.place.0)
                .xword(info)
                .xword(entry.addend as u64);
        }
        Self {
            defaults,
            defaults_at,
            relocations: table.0,
            symbols,
            strings,
        }
    }

    /// The tables as sections from index `first` on: defaults, relocations, symbols, strings.
    fn into_sections(self, first: u32) -> [NewSection<'static>; 4] {
        let table = |name, kind, content| NewSection {
            content: Content::New(content),
            ..table_section(name, kind)
        };
        [
            NewSection {
                address: self.defaults_at,
                align: 8,
                ..table(".vvar.defaults", elf::SHT_PROGBITS.0, self.defaults)
            },
            NewSection {
                link: first + 2,
                align: 8,
                entry_size: RELA,
                ..table(".rela.vvar", elf::SHT_RELA.0, self.relocations)
            },
            NewSection {
                link: first + 3,
                info: 1,
                align: 8,
                entry_size: SYMBOL,
                ..table(".vvar.symtab", elf::SHT_SYMTAB.0, self.symbols)
            },
            table(".vvar.strtab", elf::SHT_STRTAB.0, self.strings),
        ]
    }
}
