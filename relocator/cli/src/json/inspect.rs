//! What `relocator inspect` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Kernel, Mapping, Need, Reentry};

/// What a source says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Inspect {
    /// `relocator.inspect/2`.
    pub schema: &'static str,
    /// The source.
    #[serde(flatten)]
    pub kernel: Kernel,
    /// Its vDSO, or null.
    pub image: Option<Image>,
    /// Its symbol table, or null.
    pub symtab: Option<Symbols>,
    /// Why there is none, or null.
    pub no_symtab: Option<String>,
    /// The kernel's mappings in a process, by their names.
    pub mappings: Vec<Mapping>,
    /// What in a process is a vDSO by its content; null for other sources.
    pub recognised: Option<Recognised>,
}

/// A vDSO image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Image {
    /// In bytes.
    pub size: usize,
    /// The machine that it is for.
    pub machine: String,
    /// Whether it carries tables of its own.
    pub relocation_capable: bool,
    /// Number of boot-time alternatives.
    pub alternatives: usize,
    /// What it exports.
    pub exports: Vec<Export>,
    /// What it needs of a kernel.
    pub needs: Vec<Need>,
    /// Number of instructions that its table cannot describe.
    pub opaque: usize,
    /// What becomes of threads that are stopped in it, or null.
    pub reentry: Option<Reentry>,
    /// Why that is not known, or null.
    pub no_reentry: Option<String>,
}

/// An exported symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Its symbol version, or null.
    pub version: Option<String>,
    /// Relative to the image.
    pub address: u64,
    /// In bytes.
    pub size: u64,
    /// Number of relocations that the function uses, or null where that is not known.
    pub relocations: Option<usize>,
}

/// A symbol table in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Symbols {
    /// Number of symbols.
    pub symbols: usize,
    /// The mappings that they are in.
    pub mappings: Vec<Mapping>,
}

/// What in a process is a vDSO by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Recognised {
    /// The running kernel's own, or null.
    pub kernel: Option<Unit>,
    /// Every other vDSO.
    pub old: Vec<OldVdso>,
    /// Names of mappings and entries of the auxiliary vector that do not say what is there.
    pub misleading_names: Vec<String>,
}

/// The running kernel's mappings in a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Unit {
    /// Those that were found, lowest first as the kernel maps them, wherever they are.
    pub mappings: Vec<Mapping>,
    /// Names of the others.
    pub missing: Vec<&'static str>,
    /// Whether all are there and follow each other.
    pub whole: bool,
    /// CRIU's mark at the start of the vDSO, or null.
    pub mark: Option<Mark>,
}

/// CRIU's mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Mark {
    /// Where the old vDSO is.
    pub old_vdso: u64,
    /// Where the old vvar was.
    pub old_vvar: u64,
    /// Where the new vvar is.
    pub new_vvar: u64,
}

/// An old vDSO in a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OldVdso {
    /// Where it is.
    pub address: u64,
    /// Size of the image in bytes.
    pub size: usize,
    /// Its build-id, hexadecimal, or null.
    pub build_id: Option<String>,
    /// Whether the auxiliary vector says that it is the program's.
    pub by_auxv: bool,
    /// The mapping that it is in.
    pub mapping: Pages,
    /// The zero pages directly below it, where its vvar was, or null.
    pub vvar_placeholder: Option<Pages>,
    /// Its link record, or null.
    pub link: Option<LinkRecord>,
}

/// What a link record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LinkRecord {
    /// Where it is.
    pub address: u64,
    /// In bytes.
    pub size: u64,
    /// Build-id of the kernel's vDSO that the old one was linked to, hexadecimal.
    pub new_build_id: String,
    /// Whether the link was completed.
    pub complete: bool,
    /// Number of functions.
    pub functions: usize,
    /// Number of instructions that are elsewhere.
    pub moved: usize,
    /// Bytes that it has of what CRIU's jumps had overwritten before the link.
    pub overwritten: usize,
}

/// A range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pages {
    /// First byte.
    pub address: u64,
    /// In bytes.
    pub size: u64,
}
