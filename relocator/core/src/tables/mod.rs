//! Where the relocation table of an old image comes from.
//!
//! The search tries, in this order: the image itself, a file that the user names, a store of tables
//! that were derived earlier, a derivation from the symbols of the image's own kernel. Without a
//! table the linker replaces all functions that read the vvar.
//!
//! The table that says how threads get out of the image's code comes from the same places:
//! [`reentry()`].

mod reentry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use elf_tools::derive::Derivation;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::ReentryTable;
use elf_tools::relocation::{Relocations, object};
use elf_tools::symtab::{self, Symtab};
use elf_tools::{BuildId, Svma};

use crate::error::in_words;
use crate::link::Old;
use crate::source::{NoSymtab, Source};
use crate::{Error, Result};

pub use reentry::{LostReason, ReentrySummary, reentry};

/// Where an old image's relocation table came from. The order is the order in which sources are
/// tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// The image carries it.
    Exported,
    /// A relocation table object that the user named.
    File,
    /// Derived earlier.
    Cache,
    /// Derived from the image's code and the symbols of its kernel.
    Derived,
    /// There is none.
    None,
}

impl Provenance {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::File => "file",
            Self::Cache => "cache",
            Self::Derived => "derived",
            Self::None => "none",
        }
    }
}

/// Raised by every change of [`elf_tools::derive`] and [`elf_tools::reentry`] that changes a table:
/// a [`Store`] does not give older ones.
pub const DERIVATION_VERSION: u32 = 3;

/// A place where derived tables are kept for the next time, by image.
///
/// The kernel's symbols, which a derivation needs, are often no longer there when a checkpoint is
/// restored.
pub trait Store: fmt::Debug + Send + Sync {
    /// The relocations of an image whose instructions are `code`. A table that is damaged or does
    /// not fit counts as absent.
    fn relocations(&self, image: &Image, code: &Code) -> Option<Relocations>;

    /// The re-entry table, under the same conditions. One of a copy of the image with other
    /// boot-time alternatives does not fit.
    fn reentry(&self, image: &Image, code: &Code) -> Option<ReentryTable>;

    /// Keeps tables of an image; whether that was possible. The search derives again what the store
    /// does not keep.
    fn keep(&self, old: &Old, relocations: &Relocations, reentry: Option<&ReentryTable>) -> bool;

    /// The image with this build-id, if the store keeps images and has it. What another tool has
    /// overwritten in a process comes from there.
    fn image(&self, _build_id: &BuildId) -> Option<Image> {
        None
    }

    /// Keeps an image; whether that was possible.
    fn keep_image(&self, _image: &Image) -> bool {
        false
    }
}

/// The bytes of a file that the user named.
#[derive(Debug, Clone)]
pub struct Given {
    /// What errors call it: its path.
    pub name: String,
    /// What it holds.
    pub bytes: Arc<[u8]>,
}

/// Where to look for tables besides the image.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A relocation table object, or a symbol table object of the image's own kernel.
    pub file: Option<Given>,
    /// What was derived earlier.
    pub cache: Option<Arc<dyn Store>>,
}

/// How the search for a table ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldTables {
    /// Where the table came from.
    pub provenance: Provenance,
    /// Why there is none, if there is none.
    pub no_tables: Option<NoTables>,
}

/// Why an old image has no relocation table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoTables {
    /// It carries none, and none can be derived without the symbols of its kernel.
    #[error("{0}, and the image carries no table")]
    NoSymtab(NoSymtab),
    /// Deriving one failed; what is wrong.
    #[error("{0}")]
    NotDerived(String),
}

impl NoTables {
    /// A word for programs, which stays the same from version to version.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSymtab(reason) => reason.code(),
            Self::NotDerived(_) => "not-derived",
        }
    }
}

impl Source {
    /// The vDSO as an old image, with its relocation table wherever that is.
    pub fn old(&self, options: &Options) -> Result<(Old, OldTables)> {
        let image = self.require_image()?.clone();
        find(image, &self.name, self.symtab(), options)
    }
}

/// Reads an image, and its table wherever that is.
///
/// Errors call the image `name`; `symtab` has the symbols of the kernel that it belongs to, or says
/// why there are none.
///
/// An image without a table is no error. A table that the user named and that does not fit the image
/// is one.
pub fn find(
    image: Image,
    name: &str,
    symtab: Result<&Symtab, NoSymtab>,
    options: &Options,
) -> Result<(Old, OldTables)> {
    let mut old = Old::read(image).map_err(Error::input(name))?;
    let found = if old.relocations.is_some() {
        Ok(Provenance::Exported)
    } else if let Some(file) = &options.file {
        from_file(&mut old, file, options)?
    } else if let Some(table) = cached(&old, options) {
        old.set_table(table);
        Ok(Provenance::Cache)
    } else {
        match symtab {
            Ok(symtab) => derived(&mut old, symtab, options.cache.as_deref()),
            Err(reason) => Err(NoTables::NoSymtab(reason)),
        }
    };
    let tables = match found {
        Ok(provenance) => OldTables {
            provenance,
            no_tables: None,
        },
        Err(reason) => OldTables {
            provenance: Provenance::None,
            no_tables: Some(reason),
        },
    };
    Ok((old, tables))
}

/// How a table was found, or why there is none.
type Found = Result<Provenance, NoTables>;

fn cached(old: &Old, options: &Options) -> Option<Relocations> {
    options.cache.as_ref()?.relocations(&old.image, &old.code)
}

/// Takes the table from a file, or derives it from the symbols in the file.
fn from_file(old: &mut Old, file: &Given, options: &Options) -> Result<Found> {
    let Given { name, bytes } = file;
    if object::is_table(bytes) {
        let table = object::read(bytes, &old.image, &old.code).map_err(Error::input(name))?;
        old.set_table(table);
        return Ok(Ok(Provenance::File));
    }
    if !symtab::elf::is_symtab(bytes) {
        let reason = "the file is neither a relocation table object nor a symbol table object";
        let error = elf_tools::Error::not_found("table", reason);
        return Err(Error::input(name)(error));
    }
    let symbols = symtab::elf::read(bytes, symtab::Provenance::File).map_err(Error::input(name))?;
    let (named, own) = (symbols.build_id.as_ref(), old.image.build_id());
    if named.is_some() && named != own {
        let hex = |id: Option<&BuildId>| id.map_or_else(|| "none".to_owned(), BuildId::to_string);
        let reason = format!(
            "its kernel's vDSO has build-id {}, and this one has {}",
            hex(named),
            hex(own)
        );
        let error = elf_tools::Error::not_found("symbols of this image's kernel", reason);
        return Err(Error::input(name)(error));
    }
    // Symbols that do not say whose they are may be another kernel's; then nothing is kept that
    // others would believe.
    let cache = options.cache.as_deref().filter(|_| named.is_some());
    Ok(derived(old, &symbols, cache))
}

fn derived(old: &mut Old, symtab: &Symtab, cache: Option<&dyn Store>) -> Found {
    match derive_into(old, symtab, cache) {
        Ok(_) => Ok(Provenance::Derived),
        Err(error) => Err(NoTables::NotDerived(in_words(&error))),
    }
}

/// Derives the table of a source's vDSO, whatever other table there is, and keeps it in the cache.
/// Also returns the instructions that refer to the vvar and that no function reaches.
pub fn derive(source: &Source, cache: Option<&dyn Store>) -> Result<(Old, Vec<Svma>)> {
    let symtab = source.require_symtab()?;
    let image = source.require_image()?.clone();
    let failed = |error| Error::input(&source.name)(error);
    let mut old = Old::with_table(image, None).map_err(failed)?;
    let unreached = derive_into(&mut old, symtab, cache).map_err(failed)?;
    Ok((old, unreached))
}

fn derive_into(
    old: &mut Old,
    symtab: &Symtab,
    cache: Option<&dyn Store>,
) -> elf_tools::Result<Vec<Svma>> {
    let Derivation {
        relocations,
        unreached,
    } = elf_tools::derive::derive(&old.image, &old.code, symtab)?;
    if let Some(cache) = cache {
        // The next search derives again what the cache does not keep.
        reentry::keep(old, &relocations, cache);
    }
    old.set_table(relocations);
    Ok(unreached)
}

/// The tables of an image as one relocation table object.
pub fn object(
    old: &Old,
    relocations: &Relocations,
    reentry: Option<&ReentryTable>,
) -> elf_tools::Result<Vec<u8>> {
    let image = &old.image;
    match reentry {
        Some(reentry) => object::write_with_reentry(relocations, reentry, image, &old.code),
        None => object::write(relocations, image.build_id(), image.linux_version()),
    }
}
