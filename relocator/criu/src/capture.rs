//! What a dump leaves beside the images, so that a restore on another kernel needs nothing else.
//!
//! The directory [`NAME`] in that of the images has, for each vDSO that processes in the images may
//! call, the vDSO as its kernel prepared it, the derived tables, and the symbols of the kernel that
//! tables can be derived from again.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use elf_tools::{Avma, BuildId};
use relocator::link::Old;
use relocator::source::Source;
use relocator::tables::{self, Store};
use relocator_process::kept::TableDirectory;

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::ReentryTable;
use elf_tools::relocation::Relocations;

use crate::mapping::DumpedMapping;
use crate::pages::{Page, Pages, by_page};
use crate::{Images, Result};

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

/// Build-ids of the vDSOs that tasks in images carry with them: those of kernels that they ran on
/// before. The one of the kernel that they ran on last is among them if it was dumped.
///
/// Errors: images that cannot be read. What is no vDSO in them is passed over.
pub fn carried(images: &Images) -> Result<BTreeSet<BuildId>> {
    let mut carried = BTreeSet::new();
    for task in images.tasks() {
        let task = task?;
        let Some(pages) = task.pages() else {
            continue;
        };
        for mapping in task.mappings.iter().filter(|one| may_be_vdso(one)) {
            carried.extend(build_id(pages, &mapping.range));
        }
    }
    Ok(carried)
}

fn may_be_vdso(mapping: &DumpedMapping) -> bool {
    /// The largest mapping that counts as a vDSO.
    const LARGEST: u64 = 1 << 20;
    let size = mapping.range.end.0.saturating_sub(mapping.range.start.0);
    mapping.protection.execute && !mapping.has_file && mapping.is_private() && size <= LARGEST
}

fn build_id(pages: &Pages, range: &Range<Avma>) -> Option<BuildId> {
    let mut bytes = vec![0; (range.end.0 - range.start.0) as usize];
    for page in by_page(range.clone()) {
        let start = (page.start.0 - range.start.0) as usize;
        let end = (page.end.0 - range.start.0) as usize;
        let read = pages.read(page.start, &mut bytes[start..end]);
        if start == 0 && !(matches!(read, Ok(Page::Read)) && bytes.starts_with(b"\x7fELF")) {
            return None;
        }
    }
    Image::parse(&bytes).ok()?.build_id().cloned()
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
