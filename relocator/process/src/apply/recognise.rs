//! What in a process is a vDSO: by content, since any program can make a mapping of any name.
//!
//! The kernel's own vDSO is the mapping whose bytes are those that this tool has from the same
//! kernel. Old ones are images that programs can execute and that export what vDSOs export. Other
//! processes cannot read the content of `[vvar]`; it must have the right name, size and protection.
//!
//! Of each mapping the tool reads a few headers, and all of it only if they look like a vDSO's.

mod kernel;
mod no_image;
mod placeholder;
mod record_page;
mod text;

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::mapping_name;

use super::chunk::place;
use crate::targets::{Mapping, Target};
use crate::{Error, Result, Unlinkable};
use relocator::criu::Mark;
use relocator::placement::PAGE;
use relocator::source::Source;

pub(super) use placeholder::is_zeros;
pub use placeholder::{MAX_PLACEHOLDER, vvar_placeholder};
pub(super) use record_page::record_in;
pub use text::MAX_TEXT;
pub(super) use text::length;

/// What was found in a process.
#[derive(Debug, Clone, Default)]
pub struct FoundVdsos {
    /// What the running kernel has mapped; `None` if its vDSO is not there.
    pub kernel: Option<KernelUnit>,
    /// Every other vDSO, lowest first.
    pub old: Vec<OldText>,
    /// Misleading names and hints, in words for a report.
    pub misleading_names: Vec<String>,
}

/// What the running kernel has mapped into a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelUnit {
    /// Its mappings in the order in which the kernel maps them, lowest first; the last one is the
    /// vDSO. They are in their places if each begins where the one before it ends.
    pub mappings: Vec<KernelMapping>,
    /// Mappings that it should have and that were not found.
    pub missing: Vec<&'static str>,
    /// CRIU's mark at the start of the vDSO.
    pub mark: Option<Mark>,
}

impl KernelUnit {
    /// Where its vDSO is.
    pub fn vdso(&self) -> Option<&KernelMapping> {
        self.mappings
            .iter()
            .find(|mapping| mapping.name == mapping_name::VDSO)
    }

    /// Whether nothing is missing, and all of it is at the kernel's own distances.
    pub fn is_whole(&self) -> bool {
        let follows = |pair: &[KernelMapping]| pair[0].range.end == pair[1].range.start;
        self.missing.is_empty() && self.mappings.windows(2).all(follows)
    }
}

/// One of the kernel's mappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelMapping {
    /// One of [`mapping_name`].
    pub name: &'static str,
    /// Where it is.
    pub range: Range<Avma>,
}

/// A vDSO that is not the running kernel's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldText {
    /// The mapping that it is in.
    pub mapping: Range<Avma>,
    /// Its first byte. A link record may be in the pages before it.
    pub image: Avma,
    /// All bytes of the mapping.
    pub bytes: Vec<u8>,
    /// Length of the image: up to its last loaded byte, or to the end of its section headers if
    /// that is behind.
    pub size: usize,
    /// Whether the auxiliary vector says that this is the vDSO.
    pub is_by_auxv: bool,
}

impl OldText {
    /// All bytes of the mapping from the image's first on.
    pub(super) fn image_bytes(&self) -> &[u8] {
        let offset = self.image.0.saturating_sub(self.mapping.start.0) as usize;
        self.bytes.get(offset..).unwrap_or_default()
    }

    /// What a part of the mapping holds; `None` if that is not all in it.
    pub(super) fn part(&self, range: &Range<Avma>) -> Option<&[u8]> {
        self.bytes.get(place(self.mapping.start, range)?)
    }
}

/// What the running kernel maps into processes.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its vDSO as this tool sees it.
    pub image: Image,
    /// Names and sizes of its mappings, in the order in which they follow each other, lowest first.
    pub mappings: Vec<(String, u64)>,
}

impl Own {
    /// By the mappings of this process, which [`crate::running::own`] has read.
    pub fn of(source: &Source) -> Result<Self> {
        let image = source.require_image()?.clone();
        let mut live: Vec<_> = source.live.iter().collect();
        live.sort_by_key(|mapping| mapping.start);
        let follows = live
            .windows(2)
            .all(|pair| pair[0].start.0.checked_add(pair[0].size) == Some(pair[1].start.0));
        let ends_with_it = live
            .last()
            .is_some_and(|last| last.name == mapping_name::VDSO);
        match follows && ends_with_it {
            true => Ok(Self {
                image,
                mappings: live
                    .iter()
                    .map(|mapping| (mapping.name.clone(), mapping.size))
                    .collect(),
            }),
            false => Err(Error::Unlinkable {
                what: "to the running kernel".to_owned(),
                reason: Unlinkable::KernelApart {
                    source: source.name.clone(),
                },
            }),
        }
    }

    /// Size of the vDSO's mapping.
    fn vdso_size(&self) -> u64 {
        (self.image.bytes().len() as u64).next_multiple_of(PAGE)
    }
}

/// Finds out what in a process is a vDSO. A process that has a 32-bit vDSO is an error.
pub fn recognise(target: &impl Target, own: &Own) -> Result<FoundVdsos> {
    let mappings = target.mappings()?;
    let mut found = FoundVdsos::default();
    let names = &mut found.misleading_names;
    found.kernel = kernel::find(&mappings, target, own, names);
    let unit = found.kernel.as_ref();
    let hints = text::Hints {
        auxv: target.auxv_vdso(),
        marked: unit.and_then(|unit| Some(unit.mark?.old_vdso)),
        kernel: unit.and_then(|unit| Some(unit.vdso()?.range.start)),
    };
    found.old = text::find(&mappings, &hints, target, names)?;
    record_page::join(&mut found.old, &mappings, target);
    Ok(found)
}

/// What was found in a process, with its mappings, for reports.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its mappings, lowest first.
    pub mappings: Vec<Mapping>,
    /// Its vDSOs.
    pub found: FoundVdsos,
    /// The vvar placeholder directly below each old one.
    pub placeholders: Vec<Option<Range<Avma>>>,
}

impl Seen {
    /// Looks at a process, which may change at any time if it is
    /// [running](crate::targets::live::Running).
    pub fn of(target: &impl Target, own: &Own) -> Result<Self> {
        let mappings = target.mappings()?;
        let found = recognise(target, own)?;
        let below = |text: &OldText| vvar_placeholder(&mappings, target, text.mapping.start);
        let placeholders = found.old.iter().map(below).collect();
        Ok(Self {
            mappings,
            found,
            placeholders,
        })
    }
}

#[cfg(test)]
mod refused;
#[cfg(test)]
mod tests;
