//! What `relocator symtab` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Kernel, Mapping};

/// The symbols of a kernel's vvar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SymbolTable {
    /// `relocator.symtab/1`.
    pub schema: &'static str,
    /// The kernel.
    #[serde(flatten)]
    pub kernel: Kernel,
    /// Its mappings, in the table's own address space.
    pub mappings: Vec<Mapping>,
    /// The symbols.
    pub symbols: Vec<Symbol>,
}

/// A symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Symbol {
    /// Its canonical name.
    pub name: String,
    /// The version of its meaning.
    pub version: u32,
    /// The mapping that it is in.
    pub mapping: String,
    /// In the mapping.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}
