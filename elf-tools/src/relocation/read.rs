//! Reading the relocation tables that an image carries.

use object::elf;

use crate::elf::{Section, View};
use crate::elf_writer::{RELA, SYMBOL};
use crate::image::{Image, TablesNote};
use crate::reachability::Code;
use crate::relocation::Relocations;
use crate::relocation::table::Reader;
use crate::{Error, Result};

/// Reads the relocation table of an image; `None` if it has no note that announces one.
///
/// Everything that `docs/abi.md` section 4 tells a reader to reject is an error here.
pub fn read(image: &Image, code: &Code) -> Result<Option<Relocations>> {
    let Some(note) = image.tables_note() else {
        return Ok(None);
    };
    let mut reader = Reader::new(image, code)?;
    let view = image.view()?;
    if view.sections.is_empty() {
        table_from_note(&mut reader, &view, note)?;
    } else {
        check_note(&view, note)?;
        reader.sections(&view)?;
    }
    reader.finish().map(Some)
}

fn table_from_note(reader: &mut Reader<'_>, view: &View<'_>, note: &TablesNote) -> Result<()> {
    if !note.states_tables() {
        return Err(Error::not_found(
            "relocation table",
            "neither section headers nor the note lead to one",
        ));
    }
    let strings = view.slice("string table of the note", note.strings.0, note.strings.1)?;
    let symbols = view.symbols(note.symbols.0, note.symbols.1, strings)?;
    let size = note.relocations.1.saturating_mul(RELA);
    let bytes = view.slice("relocation table of the note", note.relocations.0, size)?;
    reader.table(view, note.relocations.0, bytes, &symbols)
}

/// The note's words, where it has any, must describe sections that exist.
fn check_note(view: &View<'_>, note: &TablesNote) -> Result<()> {
    if !note.states_tables() {
        return Ok(());
    }
    let describes = |section: &Section, kinds: &[u32], range: (u64, u64)| {
        kinds.contains(&section.kind) && (section.offset, section.size) == range
    };
    let stated = [
        (
            "relocation table",
            (note.relocations.0, note.relocations.1.saturating_mul(RELA)),
            vec![elf::SHT_RELA.0],
        ),
        (
            "symbol table",
            (note.symbols.0, note.symbols.1.saturating_mul(SYMBOL)),
            vec![elf::SHT_SYMTAB.0, elf::SHT_DYNSYM.0],
        ),
        ("string table", note.strings, vec![elf::SHT_STRTAB.0]),
    ];
    for (what, range, kinds) in stated {
        if !view
            .sections
            .iter()
            .any(|section| describes(section, &kinds, range))
        {
            let reason = format!(
                "no section is the {what} that the note puts at {:#x}",
                range.0
            );
            return Err(Error::malformed("vDSO note", note.offset, reason));
        }
    }
    Ok(())
}
