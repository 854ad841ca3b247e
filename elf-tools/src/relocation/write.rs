//! Adding relocation tables to an image: `docs/abi.md`, section 5.2.

use object::elf;

use crate::elf::View;
use crate::elf_writer::{self, Content, NewSection, RELA, SYMBOL};
use crate::image::{Image, TablesNote};
use crate::relocation::Relocations;
use crate::relocation::encode::Tables;
use crate::{Error, Result};

/// Sections that a written table replaces: earlier tables of ours, and what `--emit-relocs` leaves.
fn is_replaced(kind: u32) -> bool {
    [elf::SHT_RELA.0, elf::SHT_REL.0, elf::SHT_SYMTAB.0].contains(&kind)
}

/// The image with this relocation table attached behind what is loaded, and its note filled in.
///
/// The image must have a note of type 1, since notes are loaded and nothing that is loaded is moved
/// here.
pub fn attach(image: &Image, relocations: &Relocations) -> Result<Vec<u8>> {
    let note = *image.tables_note().ok_or_else(|| {
        Error::not_found(
            "vDSO note of type 1",
            "an image needs one before tables can be attached to it",
        )
    })?;
    let view = image.view()?;
    let mut bytes = image.bytes()[..image.loaded_size() as usize].to_vec();
    let descriptor_at = note.offset as usize..note.offset as usize + note.encode().len();
    if descriptor_at.end > bytes.len() {
        let reason = "the note lies outside what is loaded, so it cannot be filled in";
        return Err(Error::malformed("vDSO note", note.offset, reason));
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let mut sections = kept_sections(&view)?;
    let first = sections.len() as u32 + 1;
    let tables = Tables::encode(relocations, first, bytes.len() as u64)?;
    sections.extend(tables.into_sections(first));
    let placed = elf_writer::append(&mut bytes, sections)?;
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

/// The image's own sections, as they are. Sections that nothing loads are dropped: they would have
/// to be moved.
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
