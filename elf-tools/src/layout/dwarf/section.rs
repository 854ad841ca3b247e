//! Debug sections as a linker would leave them.

use std::borrow::Cow;

use object::{Object, ObjectSection, ObjectSymbol, RelocationKind, RelocationTarget};

use crate::{Error, Result};

/// A debug section, with the relocations of a `.o` applied; empty where the file has none of that
/// name.
pub(super) fn load<'data>(file: &object::File<'data>, name: &str) -> Result<Cow<'data, [u8]>> {
    let Some(section) = file.section_by_name(name) else {
        return Ok(Cow::Borrowed(&[]));
    };
    let broken =
        |error: object::Error| Error::malformed(format!("section {name}"), 0, error.to_string());
    let stored = section.compressed_data().map_err(broken)?;
    if stored.format != object::CompressionFormat::None {
        let reason = "it is compressed; expand it with `objcopy --decompress-debug-sections`";
        return Err(Error::unsupported(format!("section {name}"), reason));
    }
    let mut data = Cow::Borrowed(stored.data);
    if file.kind() == object::ObjectKind::Relocatable {
        for (offset, relocation) in section.relocations() {
            relocate(file, &mut data, name, offset, &relocation)?;
        }
    }
    Ok(data)
}

/// Applies one relocation of a `.o`. Its sections all start at address 0, as in a file that is not
/// linked.
fn relocate(
    file: &object::File<'_>,
    data: &mut Cow<'_, [u8]>,
    section: &str,
    offset: u64,
    relocation: &object::Relocation,
) -> Result<()> {
    let width = usize::from(relocation.size() / 8);
    if relocation.kind() != RelocationKind::Absolute || !matches!(width, 4 | 8) {
        let reason = format!(
            "{:?} at {offset:#x} of {section}; link the file first",
            relocation.flags()
        );
        return Err(Error::unsupported(
            "relocation of debug information",
            reason,
        ));
    }
    let symbol = match relocation.target() {
        RelocationTarget::Symbol(index) => file
            .symbol_by_index(index)
            .map_err(|error| {
                Error::malformed(
                    format!("relocation of {section}"),
                    offset,
                    error.to_string(),
                )
            })?
            .address(),
        _ => 0,
    };
    let place = usize::try_from(offset)
        .ok()
        .and_then(|at| Some(at..at.checked_add(width)?));
    let Some(place) = place.filter(|place| place.end <= data.len()) else {
        return Err(Error::malformed(
            format!("relocation of {section}"),
            offset,
            "lies outside the section",
        ));
    };
    let stored = &mut data.to_mut()[place];
    let little = file.is_little_endian();
    let implicit = if relocation.has_implicit_addend() {
        read_word(stored, little)
    } else {
        0
    };
    let value = symbol
        .wrapping_add_signed(relocation.addend())
        .wrapping_add(implicit);
    if little {
        stored.copy_from_slice(&value.to_le_bytes()[..width]);
    } else {
        stored.copy_from_slice(&value.to_be_bytes()[8 - width..]);
    }
    Ok(())
}

fn read_word(bytes: &[u8], little: bool) -> u64 {
    let append = |word: u64, byte: &u8| (word << 8) | u64::from(*byte);
    if little {
        bytes.iter().rev().fold(0, append)
    } else {
        bytes.iter().fold(0, append)
    }
}
