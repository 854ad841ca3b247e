//! Derived tables, and vDSOs, that are kept for the next time.
//!
//! A table belongs to an image, which its build-id names, and to the derivation that made it. The kernel's symbols, which
//! a derivation needs, are often no longer there when a checkpoint is restored: what was derived once serves processes
//! and images alone as well. The vDSO itself is kept too: CRIU overwrites entries of the copy in a process, and their
//! bytes are lost otherwise.
//!
//! A file counts only if nobody but the caller and the administrator can have written it, and if it is what was written
//! there: tables and vDSOs carry digests.

use std::path::{Path, PathBuf};

use elf_tools::BuildId;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::ReentryTable;
use elf_tools::relocation::{Relocations, object};

use anyhow::{Context, Result};
use relocator::link::Old;
use relocator::tables::{self, DERIVATION_VERSION, Store};

/// The environment variable that says where the cache is.
pub const VARIABLE: &str = "RELOCATOR_TABLES";

/// A directory of relocation table objects and vDSOs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The usual cache: the directory in `RELOCATOR_TABLES`, else `relocator` in the user's cache directory. `None` for a
    /// user without one.
    pub fn locate() -> Option<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let of_user = || {
            let home = || Some(PathBuf::from(variable("HOME")?).join(".cache"));
            let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
            caches.or_else(home).map(|caches| caches.join("relocator"))
        };
        let root = variable(VARIABLE).map(PathBuf::from).or_else(of_user);
        root.map(Self::at)
    }

    /// A cache in a directory, which is created when it is first needed.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the table of an image is kept; nowhere if nothing tells the image from others.
    pub fn path(&self, image: &Image) -> Option<PathBuf> {
        let build_id = image.build_id()?;
        let name = format!("{build_id}.{DERIVATION_VERSION}.so");
        Some(self.root.join(name))
    }

    /// Where a vDSO itself is kept.
    pub fn image_path(&self, build_id: &BuildId) -> PathBuf {
        self.root.join(format!("{build_id}.vdso.so"))
    }

    /// The vDSO with a build-id. A file that is damaged, that others may have written, or that has another build-id
    /// counts as absent.
    pub fn get_image(&self, build_id: &BuildId) -> Option<Image> {
        let bytes = kept::unsealed(kept::read(&self.image_path(build_id))?)?;
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
            self.write(&path, &kept::sealed(image.bytes()))?;
        }
        Ok(Some(path))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        kept::write(path, bytes).with_context(|| path.display().to_string())
    }

    /// The table of an image whose instructions are `code`. A file that is damaged, that others may have written, or that
    /// does not fit counts as absent.
    pub fn get(&self, image: &Image, code: &Code) -> Option<Relocations> {
        let bytes = kept::read(&self.path(image)?)?;
        object::read(&bytes, image, code).ok()
    }

    /// The re-entry table of an image, under the same conditions. One of a copy of the image with other boot-time
    /// alternatives does not fit.
    pub fn get_reentry(&self, image: &Image, code: &Code) -> Option<ReentryTable> {
        let bytes = kept::read(&self.path(image)?)?;
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
        let object =
            tables::object(old, table, reentry).with_context(|| path.display().to_string())?;
        self.write(&path, &object)?;
        Ok(Some(path))
    }
}

impl Store for Cache {
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

mod kept;
#[cfg(test)]
mod tests;
