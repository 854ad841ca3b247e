//! What a dump leaves beside the images, so that a restore on another kernel needs nothing else.
//!
//! The directory [`NAME`] in that of the images has, for each vDSO that processes in the images may
//! call, the vDSO as its kernel prepared it, the derived tables, and the symbols of the kernel that
//! tables can be derived from again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::ReentryTable;
use elf_tools::relocation::Relocations;
use elf_tools::{Avma, BuildId};
use relocator::in_words;
use relocator::link::Old;
use relocator::source::Source;
use relocator::tables::{self, Store};
use relocator_process::kept::TableDirectory;

use crate::directory;
use crate::mapping::DumpedMapping;
use crate::pages::{Page, Pages, by_page};
use crate::{Images, Result};

/// The name of the directory.
pub const NAME: &str = "relocator";

/// The directory beside images, which are in the directory that is given or, in an unpacked checkpoint
/// of a container, in one below.
pub fn beside(images: &Path) -> TableDirectory {
    TableDirectory::at(directory::of_images(images).join(NAME))
}

/// What was left beside images.
#[derive(Debug)]
pub struct Captured {
    /// The build-id of the kernel's vDSO.
    pub own: Option<BuildId>,
    /// Build-ids of vDSOs that processes have brought along from other kernels, each with whether it
    /// was captured, too.
    pub carried: BTreeMap<BuildId, bool>,
    /// Why the latter are not known.
    pub unknown: Option<crate::Error>,
}

impl fmt::Display for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.own {
            Some(own) => write!(f, "captured vDSO {own} of this kernel")?,
            None => {
                f.write_str("captured the symbols of this kernel, whose vDSO has no build-id")?
            }
        }
        for (build_id, is_captured) in &self.carried {
            let found = match is_captured {
                true => "captured",
                false => "nothing is known of",
            };
            write!(f, "; {found} vDSO {build_id} of an earlier one")?;
        }
        match &self.unknown {
            Some(error) => write!(f, "; earlier ones are not known: {}", in_words(error)),
            None => Ok(()),
        }
    }
}

/// Leaves beside `images` what there is to know of the kernel that they were dumped on, and of those
/// before as far as `kept` knows them.
///
/// Errors: the kernel has no vDSO or no symbols, or the files cannot be written.
pub fn capture(images: &Path, kernel: &Source, kept: Option<&TableDirectory>) -> Result<Captured> {
    let beside = beside(images);
    write(kernel, &beside)?;
    let own = kernel.build_id().cloned();
    let mut captured = Captured {
        own,
        carried: BTreeMap::new(),
        unknown: None,
    };
    match Images::open(images).and_then(|images| carried(&images)) {
        Ok(carried) => {
            let others = carried.into_iter();
            for build_id in others.filter(|build_id| Some(build_id) != captured.own.as_ref()) {
                let found = kept.is_some_and(|kept| beside.copy_from(kept, &build_id));
                captured.carried.insert(build_id, found);
            }
        }
        Err(error) => captured.unknown = Some(error),
    }
    Ok(captured)
}

/// Leaves in a directory what there is to know of a kernel. Errors: the kernel has no vDSO or no
/// symbols, or the files cannot be written.
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

/// What lies beside images, and then what [`tables::Options`] say.
pub fn before(captured: &TableDirectory, options: tables::Options) -> tables::Options {
    let first = Arc::new(captured.clone());
    let cache: Arc<dyn Store> = match options.cache {
        Some(kept) => Arc::new(Before { first, kept }),
        None => first,
    };
    tables::Options {
        cache: Some(cache),
        ..options
    }
}

/// Where both have something, the first one is believed. Only the other one keeps anything.
#[derive(Debug)]
struct Before {
    first: Arc<TableDirectory>,
    kept: Arc<dyn Store>,
}

impl Store for Before {
    fn relocations(&self, image: &Image, code: &Code) -> Option<Relocations> {
        let first = self.first.get(image, code);
        first.or_else(|| self.kept.relocations(image, code))
    }

    fn reentry(&self, image: &Image, code: &Code) -> Option<ReentryTable> {
        let first = self.first.get_reentry(image, code);
        first.or_else(|| self.kept.reentry(image, code))
    }

    fn keep(&self, old: &Old, relocations: &Relocations, reentry: Option<&ReentryTable>) -> bool {
        self.kept.keep(old, relocations, reentry)
    }

    fn image(&self, build_id: &BuildId) -> Option<Image> {
        let first = self.first.get_image(build_id);
        first.or_else(|| self.kept.image(build_id))
    }

    fn keep_image(&self, image: &Image) -> bool {
        self.kept.keep_image(image)
    }
}
