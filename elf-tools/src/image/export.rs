//! What an image exports.

use object::LittleEndian;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, GnuHashTable, HashTable};

use crate::elf::{Class, RawSymbol, View, string_at};
use crate::{Error, Result, Svma};

/// An exported function. Aliases (`clock_gettime` for `__vdso_clock_gettime`) are exports of their own with the same
/// address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Symbol name.
    pub name: String,
    /// GNU symbol version, for example `LINUX_2.6`.
    pub version: Option<String>,
    /// Entry point.
    pub address: Svma,
    /// Size in bytes. 32-bit signal trampolines have 0 in some kernels.
    pub size: u64,
}

/// Reads the defined functions of the dynamic symbol table, by address and then by name.
pub(super) fn read(view: &View<'_>) -> Result<Vec<Export>> {
    let table = DynamicTable::locate(view)?;
    let Some(table) = table else {
        return Ok(Vec::new());
    };
    let mut exports = Vec::new();
    for (index, symbol) in view
        .symbols(table.symbols, table.count, table.strings)?
        .iter()
        .enumerate()
    {
        if is_function(view, symbol) {
            exports.push(Export {
                name: String::from_utf8_lossy(symbol.name).into_owned(),
                version: table.version(view, index)?,
                address: Svma(symbol.value),
                size: symbol.size,
            });
        }
    }
    exports.sort_by(|a, b| (a.address, &a.name).cmp(&(b.address, &b.name)));
    Ok(exports)
}

/// Old kernels leave some functions without a type; they are told from data by the section they lie in.
fn is_function(view: &View<'_>, symbol: &RawSymbol<'_>) -> bool {
    let defined = symbol.section != elf::SHN_UNDEF.0 && symbol.section < elf::SHN_LORESERVE;
    let global = symbol.binding == elf::STB_GLOBAL.0 || symbol.binding == elf::STB_WEAK.0;
    let executable = match view.sections.get(usize::from(symbol.section)) {
        Some(section) => section.flags & elf::SHF_EXECINSTR.0 != 0,
        None => true,
    };
    let function =
        symbol.kind == elf::STT_FUNC.0 || (symbol.kind == elf::STT_NOTYPE.0 && executable);
    defined && global && function && !symbol.name.is_empty()
}

/// Where the dynamic segment says that symbols, strings and versions are. It is used rather than section headers
/// because it is what libc uses, and because it survives where section headers do not.
struct DynamicTable<'data> {
    symbols: u64,
    count: u64,
    strings: &'data [u8],
    versions: Option<u64>,
    definitions: Option<u64>,
}

impl<'data> DynamicTable<'data> {
    fn locate(view: &View<'data>) -> Result<Option<Self>> {
        let dynamic = view.dynamic()?;
        let get = |tag: elf::DynamicTag| {
            dynamic
                .iter()
                .find(|entry| entry.0 == tag.0 as u64)
                .map(|entry| entry.1)
        };
        let (Some(symbols), Some(strings)) = (get(elf::DT_SYMTAB), get(elf::DT_STRTAB)) else {
            return Ok(None);
        };
        let strings_size =
            get(elf::DT_STRSZ).ok_or_else(|| Error::not_found("DT_STRSZ", "dynamic section"))?;
        let count = match (get(elf::DT_HASH), get(elf::DT_GNU_HASH)) {
            (Some(hash), _) => symbol_count(view, hash, false)?,
            (None, Some(hash)) => symbol_count(view, hash, true)?,
            (None, None) => {
                return Err(Error::not_found(
                    "symbol hash table",
                    "neither DT_HASH nor DT_GNU_HASH",
                ));
            }
        };
        Ok(Some(Self {
            symbols,
            count,
            strings: view.slice("dynamic string table", strings, strings_size)?,
            versions: get(elf::DT_VERSYM),
            definitions: get(elf::DT_VERDEF),
        }))
    }

    /// The name of the version that symbol `index` is defined in. Unversioned images and symbols have none.
    fn version(&self, view: &View<'_>, index: usize) -> Result<Option<String>> {
        let (Some(versions), Some(definitions)) = (self.versions, self.definitions) else {
            return Ok(None);
        };
        let half = |what: &str, at: u64| -> Result<u16> {
            let bytes = view.slice(what, at, 2)?;
            Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
        };
        let word = |what: &str, at: u64| -> Result<u64> {
            let bytes = view.slice(what, at, 4)?;
            Ok(u64::from(u32::from_le_bytes([
                bytes[0], bytes[1], bytes[2], bytes[3],
            ])))
        };
        let wanted = half("symbol version", versions.saturating_add(2 * index as u64))? & 0x7fff;
        let mut at = definitions;
        // Version indices are 15 bits wide, so a longer chain is a loop.
        for _ in 0..0x8000 {
            let what = "version definition";
            if half(what, at.saturating_add(4))? & 0x7fff == wanted && wanted > 1 {
                let auxiliary = at.saturating_add(word(what, at.saturating_add(12))?);
                let name = string_at(self.strings, word(what, auxiliary)?).ok_or_else(|| {
                    Error::malformed(what, auxiliary, "name lies outside the string table")
                })?;
                return Ok(Some(String::from_utf8_lossy(name).into_owned()));
            }
            match word(what, at.saturating_add(16))? {
                0 => return Ok(None),
                next => at = at.saturating_add(next),
            }
        }
        Err(Error::malformed(
            "version definition",
            definitions,
            "the chain does not end",
        ))
    }
}

/// Number of dynamic symbols, which only the hash tables state.
fn symbol_count(view: &View<'_>, offset: u64, gnu: bool) -> Result<u64> {
    match view.class {
        Class::Elf32 => symbol_count_of::<FileHeader32<LittleEndian>>(view, offset, gnu),
        Class::Elf64 => symbol_count_of::<FileHeader64<LittleEndian>>(view, offset, gnu),
    }
}

fn symbol_count_of<E: FileHeader<Endian = LittleEndian>>(
    view: &View<'_>,
    offset: u64,
    gnu: bool,
) -> Result<u64> {
    let bytes = view.slice(
        "symbol hash table",
        offset,
        (view.bytes.len() as u64).saturating_sub(offset),
    )?;
    let failed =
        |e: object::read::Error| Error::malformed("symbol hash table", offset, e.to_string());
    let count = if gnu {
        let table = GnuHashTable::<E>::parse(LittleEndian, bytes).map_err(failed)?;
        table
            .symbol_table_length(LittleEndian)
            .unwrap_or(table.symbol_base())
    } else {
        HashTable::<E>::parse(LittleEndian, bytes)
            .map_err(failed)?
            .symbol_table_length()
    };
    Ok(u64::from(count))
}
