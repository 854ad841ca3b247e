//! Reading what a table needs from the symbols that its entries name.

use object::elf;

use crate::elf::{RawSymbol, View};
use crate::printable::printable_bytes;
use crate::relocation::{Need, TableFault};
use crate::symtab::name::{MAX_LEN, Reference};
use crate::{Error, Result};

/// Longest default, in bytes.
const MAX_DEFAULT: u64 = 64;

/// What an entry of the table's symbol table asks for.
pub(super) fn need(view: &View<'_>, symbol: &RawSymbol<'_>) -> Result<Need> {
    let name = std::str::from_utf8(symbol.name)
        .map_err(|_| Error::symbol(printable_bytes(symbol.name), "the name is not UTF-8"))?;
    let defined = symbol.section != elf::SHN_UNDEF.0;
    let weak = symbol.binding == elf::STB_WEAK.0;
    if defined && !weak {
        return Err(Error::symbol(
            name,
            "defined in the image itself: there is nothing to relocate",
        ));
    }
    let default = match defined {
        false => None,
        true => Some(default(view, symbol, name)?),
    };
    Ok(Need {
        reference: Reference::parse(name)?,
        size: symbol.size,
        default,
    })
}

/// The bytes of a weak definition, which has that name.
fn default(view: &View<'_>, symbol: &RawSymbol<'_>, name: &str) -> Result<Vec<u8>> {
    let refused = |reason: String| Error::symbol(name, reason);
    if symbol.size == 0 || symbol.size > MAX_DEFAULT {
        return Err(refused(format!(
            "a default has 1 to {MAX_DEFAULT} bytes, not {}",
            symbol.size
        )));
    }
    if symbol.section >= elf::SHN_LORESERVE {
        return Err(refused(format!(
            "a default lies in a section, not in {:#x}",
            symbol.section
        )));
    }
    // Without section headers an image-relative address is an offset; with them, the section says
    // where its bytes are.
    let offset = match view.sections.get(usize::from(symbol.section)) {
        None => symbol.value,
        Some(section) => {
            let within = symbol.value.checked_sub(section.address).filter(|&at| {
                at.checked_add(symbol.size)
                    .is_some_and(|end| end <= section.size)
            });
            let outside = || format!("the default lies outside its section {}", section.name);
            let within = within.ok_or_else(|| refused(outside()))?;
            section
                .offset
                .checked_add(within)
                .ok_or_else(|| refused("the default lies outside the file".to_owned()))?
        }
    };
    view.slice("default", offset, symbol.size)
        .map(<[u8]>::to_vec)
        .map_err(|error| refused(error.to_string()))
}

/// The name of a symbol that is no reference but says in words why an instruction cannot be
/// described.
pub(super) fn reason(symbol: &RawSymbol<'_>) -> Result<String, TableFault> {
    match std::str::from_utf8(symbol.name) {
        Err(_) => Err(TableFault::ReasonNotUtf8),
        Ok(name) if name.is_empty() || name.len() > MAX_LEN => {
            Err(TableFault::ReasonLength { length: name.len() })
        }
        Ok(name) => Ok(name.to_owned()),
    }
}
