//! The step after the link: from relocations that a linker has applied and emitted to a table of
//! ours.
//!
//! `ld --emit-relocs` keeps the relocations of an image that it has linked to its own kernel's
//! layout. Those whose symbol follows the grammar of references become the image's relocation
//! table. The code does not change.

use object::elf;

use crate::arch::{self, Arch};
use crate::elf::View;
use crate::image::Image;
use crate::printable::printable_bytes;
use crate::relocation::rela::{self, Rela};
use crate::relocation::{Kind, Need, Relocation, Relocations, TableFault, write};
use crate::symtab::name::Reference;
use crate::{Error, Result};

/// What the emitted relocations cannot say.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostlinkOptions<'a> {
    /// Defaults: a reference and the bytes to read where a kernel lacks its symbol.
    pub defaults: &'a [(&'a str, &'a [u8])],
    /// Sizes that references demand: `docs/abi.md`, section 3.
    pub sizes: &'a [(&'a str, u64)],
}

/// Turns an image linked with `--emit-relocs` into a relocation-capable one.
///
/// Refuses an image that was linked against undefined symbols: it has its table already, and its
/// link script can fill in the note.
pub fn postlink(linked: &[u8], options: &PostlinkOptions<'_>) -> Result<Vec<u8>> {
    let image = Image::parse(linked)?;
    let view = image.view()?;
    let mut relocations = Relocations::default();
    let arch = arch::of_image(&image)?;
    for section in view
        .sections
        .iter()
        .filter(|section| section.kind == elf::SHT_RELA.0)
    {
        collect(arch, &view, section, options, &mut relocations)?;
    }
    if relocations.entries.is_empty() {
        return Err(Error::not_found(
            "emitted relocation",
            "none names a vvar symbol; link with --emit-relocs",
        ));
    }
    relocations.entries.sort_by_key(|entry| entry.place);
    write::attach(&image, &relocations)
}

fn collect(
    arch: &dyn Arch,
    view: &View<'_>,
    section: &crate::elf::Section,
    options: &PostlinkOptions<'_>,
    relocations: &mut Relocations,
) -> Result<()> {
    let symbols = view.symbols_in(section.link)?;
    for (index, entry) in rela::entries(view.data(section)?).enumerate() {
        let Rela {
            place,
            number,
            symbol,
            addend,
        } = entry;
        let failed = |reason| Error::Relocation {
            index,
            place,
            reason,
        };
        let symbol = symbols
            .get(symbol)
            .ok_or_else(|| failed(TableFault::NoLinkedSymbol))?;
        let name = printable_bytes(symbol.name);
        if symbol.kind == elf::STT_SECTION.0 {
            continue;
        }
        let Ok(reference) = Reference::parse(&name) else {
            continue;
        };
        if symbol.section == elf::SHN_UNDEF.0 {
            return Err(failed(TableFault::SymbolUndefined));
        }
        let kind = Kind::from_number(arch, number)
            .ok_or_else(|| failed(TableFault::TypeNotAllowed { number }))?;
        let need = need_index(relocations, &reference, options, symbol);
        relocations.entries.push(Relocation {
            place,
            kind,
            need,
            addend,
        });
    }
    Ok(())
}

fn need_index(
    relocations: &mut Relocations,
    reference: &Reference,
    options: &PostlinkOptions<'_>,
    symbol: &crate::elf::RawSymbol<'_>,
) -> u32 {
    if let Some(index) = relocations
        .needs
        .iter()
        .position(|need| need.reference == *reference)
    {
        return index as u32;
    }
    let text = reference.to_string();
    let default = options
        .defaults
        .iter()
        .find(|entry| entry.0 == text)
        .map(|entry| entry.1.to_vec());
    let stated = options
        .sizes
        .iter()
        .find(|entry| entry.0 == text)
        .map(|entry| entry.1);
    let size = stated
        .or(default.as_ref().map(|bytes| bytes.len() as u64))
        .unwrap_or(symbol.size);
    relocations.needs.push(Need {
        reference: reference.clone(),
        size,
        default,
    });
    relocations.needs.len() as u32 - 1
}
