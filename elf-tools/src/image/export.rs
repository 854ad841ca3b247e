//! What an image exports.

use object::LittleEndian;
use object::elf::{self, FileHeader32, FileHeader64, SectionHeader64};
use object::endian::{U32, U64};
use object::read::elf::{FileHeader, GnuHashTable, HashTable, SectionHeader, VersionTable};
use object::read::{StringTable, SymbolIndex};

use crate::elf::{Class, RawSymbol, View};
use crate::printable::printable_bytes;
use crate::{Error, Result, Svma};

/// An exported function. Aliases (`clock_gettime` for `__vdso_clock_gettime`) are exports of their
/// own with the same address.
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
                name: printable_bytes(symbol.name),
                version: table.version(index),
                address: Svma(symbol.value),
                size: symbol.size,
            });
        }
    }
    exports.sort_by(|a, b| (a.address, &a.name).cmp(&(b.address, &b.name)));
    Ok(exports)
}

/// Old kernels leave some functions without a type; they are told from data by the section they lie
/// in.
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

type Versions<'data> = VersionTable<'data, FileHeader64<LittleEndian>>;

/// Where the dynamic segment says that symbols, strings and versions are. It is used rather than
/// section headers because it is what libc uses, and because it survives where section headers do
/// not.
struct DynamicTable<'data> {
    symbols: u64,
    count: u64,
    strings: &'data [u8],
    versions: Option<Versions<'data>>,
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
        let strings = view.slice("dynamic string table", strings, strings_size)?;
        let versions = get(elf::DT_VERSYM)
            .zip(get(elf::DT_VERDEF))
            .map(|(of, definitions)| versions(view, (of, count), definitions, strings))
            .transpose()?;
        Ok(Some(Self {
            symbols,
            count,
            strings,
            versions,
        }))
    }

    /// The name of the version that symbol `index` is defined in. Unversioned images and symbols
    /// have none.
    fn version(&self, index: usize) -> Option<String> {
        let versions = self.versions.as_ref()?;
        let wanted = versions.version_index(LittleEndian, SymbolIndex(index));
        let version = versions.version(wanted.index()).ok()??;
        Some(printable_bytes(version.name()))
    }
}

/// The versions of `count` symbols, and their definitions, where the dynamic section says they are.
///
/// `object` finds them by section headers, so here are some that say the same. The structures are
/// the same in both classes.
fn versions<'data>(
    view: &View<'data>,
    symbols: (u64, u64),
    definitions: u64,
    strings: &'data [u8],
) -> Result<Versions<'data>> {
    let (offset, count) = symbols;
    let size = count.saturating_mul(size_of::<elf::Versym<LittleEndian>>() as u64);
    view.slice("symbol versions", offset, size)?;
    let symbols = section(elf::SHT_GNU_VERSYM, offset, size);
    let left = (view.bytes.len() as u64).saturating_sub(definitions);
    let definitions_header = section(elf::SHT_GNU_VERDEF, definitions, left);
    let failed = |what, at| move |e: object::read::Error| Error::malformed(what, at, e.to_string());
    let symbols = symbols
        .gnu_versym(LittleEndian, view.bytes)
        .map_err(failed("symbol versions", offset))?;
    let found = definitions_header
        .gnu_verdef(LittleEndian, view.bytes)
        .map_err(failed("version definitions", definitions))?;
    let strings = StringTable::new(strings, 0, strings.len() as u64);
    VersionTable::parse(
        LittleEndian,
        symbols.map_or(&[], |(symbols, _)| symbols),
        found.map(|(definitions, _)| definitions),
        None,
        strings,
    )
    .map_err(failed("version definitions", definitions))
}

/// A section header that says where something is.
fn section(kind: elf::SectionType, offset: u64, size: u64) -> SectionHeader64<LittleEndian> {
    let zero = U64::new(LittleEndian, 0);
    SectionHeader64 {
        sh_name: U32::new(LittleEndian, 0),
        sh_type: U32::new(LittleEndian, kind),
        sh_flags: U64::new(LittleEndian, elf::SectionFlags::default()),
        sh_addr: zero,
        sh_offset: U64::new(LittleEndian, offset),
        sh_size: U64::new(LittleEndian, size),
        sh_link: U32::new(LittleEndian, 0),
        sh_info: U32::new(LittleEndian, 0),
        sh_addralign: zero,
        sh_entsize: zero,
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
