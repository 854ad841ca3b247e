//! Relocation tables in files of their own: `docs/abi.md`, section 4.3.
//!
//! An image without tables cannot be given any without changing what identifies it, and a process
//! or a checkpoint has its own copy of it anyway. Such a table is kept next to the image, and says
//! by build-id which one it describes. How threads get out of the image's code can be kept with it:
//! section 4.4.

use object::elf;

use crate::elf::{Note, View};
use crate::elf_writer::{self, NewSection, object_with_notes};
use crate::image::{Image, LinuxVersion, note};
use crate::reachability::Code;
use crate::record;
use crate::reentry::{self, ReentryTable};
use crate::relocation::Relocations;
use crate::relocation::encode::Tables;
use crate::relocation::table::Reader;
use crate::{BuildId, Error, Result, arch, digest};

/// Whether these bytes are a relocation table object: they carry the note of type 3.
pub fn is_table(bytes: &[u8]) -> bool {
    let note = View::parse(bytes).and_then(|view| announcement(&view));
    note.is_ok_and(|note| note.is_some())
}

/// Writes the table of the image with that build-id, if the image has one.
pub fn write(
    relocations: &Relocations,
    build_id: Option<&BuildId>,
    linux_version: Option<LinuxVersion>,
) -> Result<Vec<u8>> {
    let notes = elf_writer::announcement(note::NT_RELOCATIONS, build_id, linux_version);
    assemble(relocations, &notes, None)
}

/// Writes the table of `image`, whose instructions are `code`, with its re-entry table.
///
/// Refuses a re-entry table that is not of this image or that could not be read again.
pub fn write_with_reentry(
    relocations: &Relocations,
    reentry: &ReentryTable,
    image: &Image,
    code: &Code,
) -> Result<Vec<u8>> {
    let kind = note::NT_RELOCATIONS;
    let mut notes = elf_writer::announcement(kind, image.build_id(), image.linux_version());
    let stored = reentry::Stored::encode(reentry, image, code)?;
    stored.announce(&mut notes);
    assemble(relocations, &notes, Some(stored))
}

fn assemble(
    relocations: &Relocations,
    notes: &[u8],
    reentry: Option<reentry::Stored>,
) -> Result<Vec<u8>> {
    let (mut bytes, note_section) = object_with_notes(notes)?;
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let mut sections = vec![note_section];
    let next = |sections: &[NewSection<'_>]| sections.len() as u32 + 1;
    let first = next(&sections);
    sections.extend(Tables::encode(relocations, first, bytes.len() as u64)?.into_sections(first));
    if let Some(reentry) = reentry {
        let first = next(&sections);
        sections.extend(reentry.into_sections(first));
    }
    elf_writer::append(&mut bytes, sections)?;
    digest::seal(&mut bytes)?;
    Ok(bytes)
}

/// Reads the table of `image`, whose instructions are `code`.
///
/// Refuses a table of an image with another build-id, one without digest or that is not as its
/// writer has left it, and everything that [`super::read`] refuses.
/// A re-entry table in the object is not looked at: [`read_reentry`] does that.
pub fn read(bytes: &[u8], image: &Image, code: &Code) -> Result<Relocations> {
    let view = parse(bytes, image)?;
    let mut reader = Reader::new(image, code)?;
    reader.sections(&view)?;
    reader.finish()
}

/// Reads the re-entry table of `image`, whose instructions are `code`, from its relocation table
/// object. `None` if the object has none, or has that of a copy of the image with other
/// instructions (boot-time alternatives).
///
/// Refuses a table of an image with another build-id, and one that contradicts itself or the code.
pub fn read_reentry(bytes: &[u8], image: &Image, code: &Code) -> Result<Option<ReentryTable>> {
    reentry::read(&parse(bytes, image)?, image, code)
}

/// The headers of an object that has a table of `image`.
fn parse<'data>(bytes: &'data [u8], image: &Image) -> Result<View<'data>> {
    let view = View::parse(bytes)?;
    let Some(announcement) = announcement(&view)? else {
        return Err(Error::not_found(
            "relocation table",
            "the object has no vDSO note of type 3",
        ));
    };
    note::descriptor::<note::Abi>(&announcement)?;
    digest::require(&view)?;
    check_identity(&announcement, image)?;
    if !arch::is_supported(view.machine, view.class) {
        let reason = format!(
            "an object for {} {:?}; relocation types are specified for {}",
            view.machine,
            view.class,
            arch::SUPPORTED
        );
        return Err(Error::unsupported("relocation table", reason));
    }
    let mut sections = view.sections.iter();
    if !sections.any(|section| section.kind == elf::SHT_RELA.0) {
        // Cut off, most likely. Taken for an empty table, it would let every function run as it is.
        let reason = "the object has no section of relocations";
        return Err(Error::not_found("relocation table", reason));
    }
    Ok(view)
}

fn announcement<'data>(view: &View<'data>) -> Result<Option<Note<'data>>> {
    note::only(&view.notes()?, note::NT_RELOCATIONS)
}

/// A table only fits the image that it was made for.
fn check_identity(announcement: &Note<'_>, image: &Image) -> Result<()> {
    let (_, stated) = announcement
        .descriptor
        .split_at(record::size::<note::Abi>());
    let stated = BuildId::new(stated);
    let own = image.build_id();
    if stated.as_ref() == own {
        return Ok(());
    }
    let reason = format!(
        "the table is of the image with {}, and this image has {}",
        named(stated.as_ref()),
        named(own)
    );
    let offset = announcement.offset + record::size::<note::Abi>() as u64;
    Err(Error::malformed("vDSO note", offset, reason))
}

fn named(build_id: Option<&BuildId>) -> String {
    build_id.map_or_else(|| "no build-id".to_owned(), |id| format!("build-id {id}"))
}
