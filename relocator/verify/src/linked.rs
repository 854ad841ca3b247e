//! From an old image to code that can be called in this process.

use crate::memory::Region;
use elf_tools::Avma;
use elf_tools::image::{Image, alternatives};
use elf_tools::symtab::mapping_name;

use super::address_space::AddressSpace;
use super::entry::Entry;
use super::target::{Emulation, OldImage, Running};
use crate::{Error, Result};
use elf_tools::processor::ProcessorFeatures;
use relocator::link::{LinkedImage, New, Old, link};
use relocator::placement::Placement;
use relocator::plan::{FunctionPlan, Policy};
use relocator_process::cpu_features;

/// An old image that is ready to be linked to a kernel.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    pub(crate) old: Old,
    pub(crate) new: New<'a>,
}

impl<'a> Prepared<'a> {
    /// For the running kernel. Fails if `running` is not what runs.
    pub(crate) fn new(old: OldImage<'_>, running: &'a Running) -> Result<Self> {
        check_running(running)?;
        Ok(Self::of(read(old)?, running))
    }

    /// The same for an image that has been read.
    pub(super) fn of(old: Old, running: &'a Running) -> Self {
        let new = New {
            symtab: running.symtab.as_ref(),
            image: Some(&running.image),
            processor: Some(cpu_features::running()),
        };
        Self { old, new }
    }

    /// For a kernel that is emulated.
    pub(super) fn emulated(old: OldImage<'_>, emulation: &Emulation<'a>) -> Result<Self> {
        let new = New {
            symtab: Some(emulation.symtab),
            image: Some(emulation.image),
            processor: Some(cpu_features::running()),
        };
        let old = read(old)?;
        Ok(Self { old, new })
    }

    /// The same for another processor, as far as the one that runs has what that one has.
    pub(super) fn on_processor(mut self, other: Option<ProcessorFeatures>) -> Self {
        let common = |has: ProcessorFeatures| match other {
            Some(other) => has.without(has.without(other)),
            None => has,
        };
        self.new.processor = self.new.processor.map(common);
        self
    }

    /// The names of each distinct function that there is a system call to compare with.
    pub(crate) fn callable(&self) -> Vec<Vec<String>> {
        let mut names = functions(&self.old.image);
        names.retain(|names| known_name(names).is_some());
        names
    }

    /// Links without mapping anything, and returns how much memory the result takes.
    ///
    /// Whether and how an image can be linked does not depend on where the hole is. So this tells
    /// the parent in its own terms what would go wrong in the child.
    pub(crate) fn try_link(&self, policy: Policy) -> Result<usize> {
        let space = AddressSpace::read()?;
        let image = space.hole(self.old.image.bytes().len() as u64)?;
        let mappings = space.mappings();
        self.size(&Placement { image, mappings }, policy)
    }

    /// How much memory the image takes if it is linked so.
    pub(super) fn size(&self, placement: &Placement, policy: Policy) -> Result<usize> {
        Ok(self.link(placement, policy)?.bytes.len())
    }

    /// Links to the running kernel, maps and makes executable, in this process; `size` is what
    /// [`Self::try_link`] returned.
    pub(crate) fn map(&self, policy: Policy, size: usize) -> Result<Mapped> {
        let space = AddressSpace::read()?;
        let image = space.hole(size as u64)?;
        let mappings = space.mappings();
        self.map_at(Placement { image, mappings }, policy, size)
    }

    /// The same at a place that is free and for mappings that are there.
    pub(super) fn map_at(
        &self,
        placement: Placement,
        policy: Policy,
        size: usize,
    ) -> Result<Mapped> {
        let at = placement.image;
        let failed = || Error::io(format!("{size:#x} bytes of memory at {at}"));
        let mut region = Region::reserve(Some(at), size).map_err(failed())?;
        let linked = self.link(&placement, policy)?;
        AddressSpace::read()?.check_protection()?;
        region.fill(0, &linked.bytes).map_err(failed())?;
        AddressSpace::read()?.check_protection()?;
        // Entries lead into it, and the process ends with them.
        region.leak();
        let functions = linked.functions;
        Ok(Mapped {
            placement,
            functions,
        })
    }

    /// The running kernel's own functions.
    pub(crate) fn native(&self) -> Result<Native<'a>> {
        let image = self.new.image.ok_or_else(no_vdso)?;
        Native::running(image)
    }

    fn link(&self, placement: &Placement, policy: Policy) -> Result<LinkedImage> {
        Ok(link(&self.old, &self.new, placement, policy)?)
    }
}

/// Applies alternatives for this processor and reads what linking needs.
pub(super) fn read(old: OldImage<'_>) -> Result<Old> {
    let table =
        alternatives::read(old.image).map_err(Error::input("the alternatives of the old image"))?;
    let bytes = alternatives::apply(old.image, &table, cpu_features::has);
    let image =
        Image::parse(&bytes).map_err(Error::input("the old image with alternatives applied"))?;
    let Some(relocations) = old.relocations else {
        return Old::read(image).map_err(Error::input("the old image"));
    };
    // Alternatives keep to themselves: a place is where it was.
    Old::with_table(image, Some(relocations.clone())).map_err(Error::input("the old image"))
}

/// The names of each distinct function, aliases included, `__vdso_` names first.
pub(crate) fn functions(image: &Image) -> Vec<Vec<String>> {
    let groups = image
        .exports()
        .chunk_by(|first, second| first.address == second.address);
    let names = groups.map(|group| {
        let mut names: Vec<_> = group.iter().map(|export| export.name.clone()).collect();
        names.sort_by_key(|name| (!name.starts_with("__"), name.clone()));
        names
    });
    names.collect()
}

/// Entries of the live vDSO are computed from the image, so it had better be the same one.
pub(super) fn check_running(running: &Running) -> Result<()> {
    let live = AddressSpace::read()?.live_vdso()?;
    let same =
        live.build_id() == running.image.build_id() && live.exports() == running.image.exports();
    match same {
        true => Ok(()),
        false => Err(Error::Unlinkable {
            what: "to the running kernel".to_owned(),
            reason: "the image given for it is not the vDSO of this process".to_owned(),
        }),
    }
}

/// A linked image that can be called.
#[derive(Debug)]
pub(crate) struct Mapped {
    placement: Placement,
    pub(crate) functions: Vec<FunctionPlan>,
}

impl Mapped {
    /// The function's entry; `None` if it has no system call to be compared with.
    pub(crate) fn entry(&self, function: &FunctionPlan) -> Option<Entry> {
        let name = known_name(&function.names)?;
        // SAFETY: the image is mapped there, executable, until the process ends, and a linked image
        // implements the functions that it exports. Processes that do this are children that may be
        // lost.
        unsafe { Entry::at(name, self.placement.avma(function.entry)) }
    }
}

/// A vDSO that can be called as it is: the running kernel's, or that of an emulated one.
#[derive(Debug)]
pub(crate) struct Native<'a> {
    base: Avma,
    image: &'a Image,
}

impl<'a> Native<'a> {
    /// The running kernel's. The image must have passed [`check_running`].
    pub(super) fn running(image: &'a Image) -> Result<Self> {
        let mappings = AddressSpace::read()?.mappings();
        Self::among(&mappings, image)
    }

    /// The one that is among these mappings. They must stay as long as its functions are called.
    pub(super) fn among(mappings: &[(String, Avma)], image: &'a Image) -> Result<Self> {
        let vdso = mappings.iter().find(|(name, _)| name == mapping_name::VDSO);
        let base = vdso.ok_or_else(no_vdso)?.1;
        Ok(Self { base, image })
    }

    /// Where it is.
    pub(super) fn base(&self) -> Avma {
        self.base
    }

    /// The function of one of these names; `None` if it has no system call to be compared with.
    pub(crate) fn entry(&self, names: &[String]) -> Option<Entry> {
        let name = |name: &&String| Entry::is_known(name) && self.image.export(name).is_some();
        let export = self.image.export(names.iter().find(name)?)?;
        // SAFETY: the image is mapped there, since its exports were compared with what is, or it
        // was mapped by us; and nothing unmaps it before the child ends.
        unsafe { Entry::at(&export.name, export.address.at(self.base)) }
    }
}

fn no_vdso() -> Error {
    Error::Unlinkable {
        what: "an image".to_owned(),
        reason: "the kernel has no vDSO".to_owned(),
    }
}

fn known_name(names: &[String]) -> Option<&str> {
    names
        .iter()
        .map(String::as_str)
        .find(|name| Entry::is_known(name))
}
