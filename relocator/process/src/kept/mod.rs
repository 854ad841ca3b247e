//! Derived tables, and vDSOs, that are kept in a directory for the next time.
//!
//! A table belongs to an image, which its build-id names, and to the derivation that made it. The
//! kernel's symbols, which a derivation needs, are often no longer there when a checkpoint is
//! restored: what was derived once serves processes and images alone as well. The vDSO itself is
//! kept too: CRIU overwrites entries of the copy in a process, and their bytes are lost otherwise.
//!
//! The command keeps such a directory for its user; a dump leaves one beside the images.
//!
//! A file counts only if nobody but the caller and the administrator can have written it, and if it
//! is what was written there: tables and vDSOs carry digests.

mod file;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use elf_tools::BuildId;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::ReentryTable;
use elf_tools::relocation::{Relocations, object};
use elf_tools::symtab::{self, Provenance, Symtab};

use crate::{Error, Result};
use relocator::link::Old;
use relocator::source::{NoSymtab, Source};
use relocator::tables::{self, DERIVATION_VERSION, Store};

/// How names of vDSOs end.
const VDSO: &str = ".vdso.so";

/// Most vDSOs that are listed.
const MANY: usize = 64;

/// A directory of relocation table objects and vDSOs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDirectory {
    root: PathBuf,
}

impl TableDirectory {
    /// A directory, which is created when something is first kept in it.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the table of an image is kept; nowhere if nothing tells the image from others.
    pub fn path(&self, image: &Image) -> Option<PathBuf> {
        image.build_id().map(|build_id| self.table_path(build_id))
    }

    /// Where a vDSO itself is kept.
    pub fn image_path(&self, build_id: &BuildId) -> PathBuf {
        self.root.join(format!("{build_id}{VDSO}"))
    }

    /// The vDSO with a build-id. A file that is damaged, that others may have written, or that has another build-id
    /// counts as absent.
    pub fn get_image(&self, build_id: &BuildId) -> Option<Image> {
        let bytes = file::unsealed(file::read(&self.image_path(build_id))?)?;
        let image = Image::parse(&bytes).ok()?;
        (image.build_id() == Some(build_id)).then_some(image)
    }

    /// Keeps a vDSO, unless there is one with its build-id. Returns where, or `None` for an image without build-id.
    pub fn put_image(&self, image: &Image) -> Result<Option<PathBuf>> {
        let Some(build_id) = image.build_id() else {
            return Ok(None);
        };
        let path = self.image_path(build_id);
        if self.get_image(build_id).is_none() {
            self.write(&path, &file::sealed(image.bytes()))?;
        }
        Ok(Some(path))
    }

    /// Where the symbols of the kernel that a vDSO belongs to are kept.
    pub fn symtab_path(&self, build_id: &BuildId) -> PathBuf {
        self.root.join(format!("{build_id}.symbols.so"))
    }

    /// The symbols of the kernel that a vDSO belongs to. A file that is damaged, that others may have
    /// written, or that belongs to another vDSO counts as absent.
    pub fn get_symtab(&self, build_id: &BuildId) -> Option<Symtab> {
        let bytes = file::unsealed(file::read(&self.symtab_path(build_id))?)?;
        let symtab = symtab::elf::read(&bytes, Provenance::File).ok()?;
        (symtab.build_id.as_ref() == Some(build_id)).then_some(symtab)
    }

    /// Keeps symbols. Returns where, or `None` for such as belong to no vDSO in particular.
    pub fn put_symtab(&self, symtab: &Symtab) -> Result<Option<PathBuf>> {
        let Some(build_id) = &symtab.build_id else {
            return Ok(None);
        };
        let path = self.symtab_path(build_id);
        let object = symtab::elf::write(symtab);
        let object = object.map_err(Error::input(path.display().to_string()))?;
        self.write(&path, &file::sealed(&object))?;
        Ok(Some(path))
    }

    /// A vDSO that is kept, with the symbols of its kernel if they are kept as well.
    pub fn source(&self, build_id: &BuildId) -> Option<Source> {
        let image = self.get_image(build_id)?;
        let symtab = self.get_symtab(build_id);
        Some(Source {
            no_symtab: symtab.is_none().then_some(NoSymtab::VdsoAlone),
            symtab,
            image: Some(image),
            ..Source::named(self.image_path(build_id).display().to_string())
        })
    }

    /// Copies all that is kept of a vDSO from another directory, where it is believed; what is here
    /// already stays. Whether there is a vDSO here now.
    pub fn copy_from(&self, other: &Self, build_id: &BuildId) -> bool {
        let copy_image = |image| matches!(self.put_image(&image), Ok(Some(_)));
        let copied =
            self.get_image(build_id).is_some() || other.get_image(build_id).is_some_and(copy_image);
        if !copied {
            return false;
        }
        // Without these, tables are looked for elsewhere.
        if let Some(symtab) = other.get_symtab(build_id)
            && self.get_symtab(build_id).is_none()
        {
            let _ = self.put_symtab(&symtab);
        }
        let (from, to) = (other.table_path(build_id), self.table_path(build_id));
        if let Some(bytes) = file::read(&from)
            && file::read(&to).is_none()
        {
            let _ = self.write(&to, &bytes);
        }
        true
    }

    fn table_path(&self, build_id: &BuildId) -> PathBuf {
        self.root
            .join(format!("{build_id}.{DERIVATION_VERSION}.so"))
    }

    /// All vDSOs that are kept, in the order of their build-ids, at most as many as one directory
    /// beside images can be expected to have.
    pub fn sources(&self) -> Vec<Source> {
        let names = fs::read_dir(&self.root).into_iter().flatten();
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let build_ids = names.filter_map(|name| name.strip_suffix(VDSO)?.parse().ok());
        let mut build_ids: Vec<BuildId> = build_ids.take(MANY).collect();
        build_ids.sort_unstable();
        let sources = build_ids
            .iter()
            .filter_map(|build_id| self.source(build_id));
        sources.collect()
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        file::write(path, bytes).map_err(Error::path(path))
    }

    /// The table of an image whose instructions are `code`. A file that is damaged, that others may have written, or that
    /// does not fit counts as absent.
    pub fn get(&self, image: &Image, code: &Code) -> Option<Relocations> {
        let bytes = file::read(&self.path(image)?)?;
        object::read(&bytes, image, code).ok()
    }

    /// The re-entry table of an image, under the same conditions. One of a copy of the image with other boot-time
    /// alternatives does not fit.
    pub fn get_reentry(&self, image: &Image, code: &Code) -> Option<ReentryTable> {
        let bytes = file::read(&self.path(image)?)?;
        object::read_reentry(&bytes, image, code).ok()?
    }

    /// Keeps a table of an image, and its re-entry table if there is one. Returns where, or `None` for an image without
    /// build-id.
    pub fn put(
        &self,
        old: &Old,
        table: &Relocations,
        reentry: Option<&ReentryTable>,
    ) -> Result<Option<PathBuf>> {
        let Some(path) = self.path(&old.image) else {
            return Ok(None);
        };
        let object = tables::object(old, table, reentry)
            .map_err(Error::input(path.display().to_string()))?;
        self.write(&path, &object)?;
        Ok(Some(path))
    }
}

impl Store for TableDirectory {
    fn relocations(&self, image: &Image, code: &Code) -> Option<Relocations> {
        self.get(image, code)
    }

    fn reentry(&self, image: &Image, code: &Code) -> Option<ReentryTable> {
        self.get_reentry(image, code)
    }

    fn keep(&self, old: &Old, relocations: &Relocations, reentry: Option<&ReentryTable>) -> bool {
        self.put(old, relocations, reentry).is_ok()
    }

    fn image(&self, build_id: &BuildId) -> Option<Image> {
        self.get_image(build_id)
    }

    fn keep_image(&self, image: &Image) -> bool {
        matches!(self.put_image(image), Ok(Some(_)))
    }
}
