//! The symbols of one kernel's vvar: every page, object and field that vDSO code may depend on.
//!
//! A [`Symtab`] has the same content whatever it was made from: an exported table or a table file
//! ([`elf`]), or the struct layouts in BTF or DWARF ([`stock_symbols`], with `page_layouts` for
//! what the layouts of old kernels leave out). `docs/abi.md` specifies names, sizes and versions.

pub mod elf;
mod layout_check;
mod layout_fault;
mod moved_layouts;
pub mod name;
pub(crate) mod page_layouts;
mod place;
pub mod stock_symbols;
mod vvar_accesses;

use rustc_hash::FxHashMap;

use crate::image::LinuxVersion;
use crate::{BuildId, Error, Result};

/// The names of the kernel's mappings, as `/proc/PID/maps` spells them.
pub mod mapping_name {
    /// The pages the kernel updates: time, time namespace, random.
    pub const VVAR: &str = "[vvar]";
    /// The hypervisor's clock pages, a mapping of their own since Linux 6.13.
    pub const VVAR_VCLOCK: &str = "[vvar_vclock]";
    /// The vDSO itself. It holds no vvar symbol; its address completes the kernel's own distances.
    pub const VDSO: &str = "[vdso]";
}

/// Where a table came from. The order is the order in which sources are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// The kernel exports it: `docs/abi.md`.
    Exported,
    /// A table file written earlier.
    File,
    /// Derived from the kernel's BTF.
    Btf,
    /// Derived from the kernel's DWARF.
    Dwarf,
}

/// One of the kernel's mappings, placed where the kernel places it by default.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// As in `/proc/PID/maps`: see [`mapping_name`].
    pub name: String,
    /// Address within the table's own address space. Only differences between mappings of one table
    /// mean something.
    pub address: u64,
    /// Size in bytes, a multiple of the page size.
    pub size: u64,
}

/// A named place in vvar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Symbol {
    /// Canonical name without semantic version, for example `time.clock[].seq`.
    pub name: String,
    /// Semantic version, from 1. Two versions of a name never link to each other.
    pub version: u32,
    /// Index into [`Symtab::mappings`].
    pub mapping: usize,
    /// Offset in bytes from the start of the mapping.
    pub offset: u64,
    /// Size in bytes; for an element (`time.clock[]`) this is the stride of its array.
    pub size: u64,
}

/// All symbols of one kernel's vvar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symtab {
    provenance: Provenance,
    mappings: Vec<Mapping>,
    symbols: Vec<Symbol>,
    by_name: FxHashMap<String, usize>,
    /// Elements by the names of their arrays, which are asked for more often than anything else.
    elements: FxHashMap<String, usize>,
    /// Build-id of the vDSO this kernel ships, if the source knows it.
    pub build_id: Option<BuildId>,
    /// The kernel's version, if the source knows it.
    pub linux_version: Option<LinuxVersion>,
    /// What the description of the kernel's types did not say: why symbols are missing, or come from
    /// another source than the first. A table file does not keep it.
    pub gaps: Vec<Error>,
}

impl Symtab {
    /// A table without symbols over the given mappings.
    ///
    /// Refuses mappings that are empty, wrap around, overlap or share a name.
    pub fn new(provenance: Provenance, mappings: Vec<Mapping>) -> Result<Self> {
        for (index, mapping) in mappings.iter().enumerate() {
            let end = mapping.address.checked_add(mapping.size);
            let Some(end) = end.filter(|_| mapping.size > 0) else {
                let reason = format!(
                    "{:#x} bytes at {:#x} is not a range",
                    mapping.size, mapping.address
                );
                return Err(Error::symbol(&mapping.name, reason));
            };
            for other in &mappings[..index] {
                if other.name == mapping.name {
                    return Err(Error::symbol(&mapping.name, "mapping stated twice"));
                }
                if mapping.address < other.address + other.size && other.address < end {
                    return Err(Error::symbol(
                        &mapping.name,
                        format!("mapping overlaps {}", other.name),
                    ));
                }
            }
        }
        Ok(Self {
            provenance,
            mappings,
            symbols: Vec::new(),
            by_name: FxHashMap::default(),
            elements: FxHashMap::default(),
            build_id: None,
            linux_version: None,
            gaps: Vec::new(),
        })
    }

    /// Adds a symbol. Refuses one that is not a canonical name, lies outside its mapping, or
    /// repeats a name.
    pub fn insert(&mut self, symbol: Symbol) -> Result<()> {
        name::check(&symbol.name)?;
        let Some(mapping) = self.mappings.get(symbol.mapping) else {
            return Err(Error::symbol(
                symbol.name,
                format!("mapping {} does not exist", symbol.mapping),
            ));
        };
        if symbol.version == 0 {
            return Err(Error::symbol(symbol.name, "semantic versions count from 1"));
        }
        let end = symbol.offset.checked_add(symbol.size);
        if symbol.size == 0 || end.is_none_or(|end| end > mapping.size) {
            let reason = format!(
                "{:#x} bytes at {:#x} do not fit in {} of {:#x} bytes",
                symbol.size, symbol.offset, mapping.name, mapping.size
            );
            return Err(Error::symbol(symbol.name, reason));
        }
        if self.by_name.contains_key(&symbol.name) {
            return Err(Error::symbol(symbol.name, "defined twice"));
        }
        self.by_name.insert(symbol.name.clone(), self.symbols.len());
        if let Some(array) = symbol.name.strip_suffix("[]") {
            self.elements.insert(array.to_owned(), self.symbols.len());
        }
        self.symbols.push(symbol);
        Ok(())
    }

    /// Where this table came from.
    pub fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// The kernel's mappings.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// Every symbol, in the order of the source.
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// The symbol of that canonical name (without semantic version).
    pub fn get(&self, name: &str) -> Option<&Symbol> {
        self.by_name.get(name).map(|&index| &self.symbols[index])
    }

    /// The mapping of that name.
    pub fn mapping(&self, name: &str) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.name == name)
    }

    /// Stride in bytes and number of elements of the array `name` (without `[]`), from the sizes of
    /// the two symbols that describe it. `None` where the table has no such array.
    pub fn array(&self, name: &str) -> Option<(u64, u64)> {
        let whole = self.get(name)?;
        let element = &self.symbols[*self.elements.get(name)?];
        Some((element.size, whole.size / element.size))
    }

    /// Checks what single symbols cannot show: arrays are whole numbers of elements, fields lie
    /// inside their elements, and no two fields of an object share a byte. Call it once all symbols
    /// are inserted.
    pub fn check(&self) -> Result<()> {
        for symbol in &self.symbols {
            self.check_array(symbol)?;
            self.check_parent(symbol)?;
        }
        self.check_overlap()
    }

    fn check_array(&self, element: &Symbol) -> Result<()> {
        let Some(whole) = element.name.strip_suffix("[]") else {
            return Ok(());
        };
        let Some(whole) = self.get(whole) else {
            return Err(Error::symbol(&element.name, "an element without its array"));
        };
        if (whole.mapping, whole.offset) != (element.mapping, element.offset) {
            return Err(Error::symbol(
                &element.name,
                "does not start where its array starts",
            ));
        }
        if !whole.size.is_multiple_of(element.size) {
            let reason = format!(
                "{} bytes are no whole number of {}-byte elements",
                whole.size, element.size
            );
            return Err(Error::symbol(&whole.name, reason));
        }
        Ok(())
    }

    fn check_parent(&self, symbol: &Symbol) -> Result<()> {
        let Some(parent) = parent(&symbol.name).and_then(|name| self.get(name)) else {
            return Ok(());
        };
        let inside = symbol.mapping == parent.mapping
            && symbol.offset >= parent.offset
            && symbol.offset + symbol.size <= parent.offset + parent.size;
        if inside {
            Ok(())
        } else {
            Err(Error::symbol(
                &symbol.name,
                format!("lies outside {}", parent.name),
            ))
        }
    }

    /// Fields are the symbols that nothing is named below. They are compared in order of place, so
    /// this is not quadratic.
    fn check_overlap(&self) -> Result<()> {
        let parents: std::collections::HashSet<&str> = self
            .symbols
            .iter()
            .filter_map(|s| parent(&s.name))
            .collect();
        let is_field = |symbol: &&Symbol| {
            let word = symbol.name.rsplit('.').next().unwrap_or_default();
            word != "page"
                && !parents.contains(symbol.name.as_str())
                && !symbol.name.ends_with("[]")
                && !self.by_name.contains_key(&format!("{}[]", symbol.name))
        };
        let mut fields: Vec<&Symbol> = self.symbols.iter().filter(is_field).collect();
        fields.sort_by_key(|field| (field.mapping, field.offset));
        for pair in fields.windows(2) {
            let [first, second] = [pair[0], pair[1]];
            let apart =
                first.mapping != second.mapping || first.offset + first.size <= second.offset;
            if !apart && !is_union(&first.name, &second.name) {
                return Err(Error::symbol(
                    &second.name,
                    format!("shares bytes with {}", first.name),
                ));
            }
        }
        Ok(())
    }
}

/// The element or object that a name is part of: `time.clock[]` for `time.clock[].seq`. Pages are
/// not parents.
fn parent(name: &str) -> Option<&str> {
    name.rsplit_once('.')
        .map(|(parent, _)| parent)
        .filter(|parent| parent.contains('.'))
}

/// `basetime` and `offset` are a union, in the kernel and so in the stock symbols.
fn is_union(first: &str, second: &str) -> bool {
    let branch = |name: &str, word: &str| {
        name.split('.')
            .any(|segment| segment.trim_end_matches("[]") == word)
    };
    (branch(first, "basetime") && branch(second, "offset"))
        || (branch(first, "offset") && branch(second, "basetime"))
}
