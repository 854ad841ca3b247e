//! What a dump leaves beside the images, so that a restore on another kernel needs nothing else.
//!
//! The directory [`NAME`] in that of the images has, for each vDSO that processes in the images may
//! call, the vDSO as its kernel prepared it, the derived tables, and the symbols of the kernel that
//! tables can be derived from again.

use std::path::Path;
use std::sync::Arc;

use elf_tools::BuildId;
use relocator::link::Old;
use relocator::source::Source;
use relocator::tables::{self, Store};
use relocator_process::kept::TableDirectory;

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::ReentryTable;
use elf_tools::relocation::Relocations;

/// The name of the directory.
pub const NAME: &str = "relocator";

/// The directory beside images.
pub fn beside(images: &Path) -> TableDirectory {
    TableDirectory::at(images.join(NAME))
}

/// Leaves there what there is to know of a kernel. Errors: the kernel has no vDSO or no symbols, or
/// the files cannot be written.
pub fn write(kernel: &Source, into: &TableDirectory) -> relocator_process::Result<()> {
    let symtab = kernel.require_symtab()?;
    into.put_image(kernel.require_image()?)?;
    into.put_symtab(symtab)?;
    let (old, _) = tables::derive(kernel, None)?;
    let relocations = old.relocations.clone().unwrap_or_default();
    let (reentry, _) = tables::reentry(&old, &kernel.name, &tables::Options::default())?;
    into.put(&old, &relocations, Some(&reentry))?;
    Ok(())
}

/// Several directories, of which the first one that has something is believed. Nothing new is kept.
#[derive(Debug, Clone, Default)]
pub struct Captures(pub Vec<TableDirectory>);

impl Captures {
    /// As a place where tables may be.
    pub fn options(self) -> tables::Options {
        tables::Options {
            file: None,
            cache: Some(Arc::new(self)),
        }
    }

    fn first<T>(&self, get: impl FnMut(&TableDirectory) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(get)
    }
}

impl Store for Captures {
    fn relocations(&self, image: &Image, code: &Code) -> Option<Relocations> {
        self.first(|directory| directory.get(image, code))
    }

    fn reentry(&self, image: &Image, code: &Code) -> Option<ReentryTable> {
        self.first(|directory| directory.get_reentry(image, code))
    }

    fn keep(
        &self,
        _old: &Old,
        _relocations: &Relocations,
        _reentry: Option<&ReentryTable>,
    ) -> bool {
        false
    }

    fn image(&self, build_id: &BuildId) -> Option<Image> {
        self.first(|directory| directory.get_image(build_id))
    }
}
