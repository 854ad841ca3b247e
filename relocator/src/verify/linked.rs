//! From an old image to code that can be called in this process.

use elf_tools::image::{Image, alternatives};

use super::address_space::{AddressSpace, CodeMemory};
use super::entry::Entry;
use super::{Running, features};
use crate::link::{LinkedImage, New, Old, link};
use crate::placement::Placement;
use crate::plan::{FunctionPlan, Policy};
use crate::{Error, Result};

/// An old image that is ready to be linked to the running kernel.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    old: Old,
    running: &'a Running,
}

impl<'a> Prepared<'a> {
    /// Applies alternatives for this processor and reads the image's tables. Fails if `running` is not what runs.
    pub(crate) fn new(old: &Image, running: &'a Running) -> Result<Self> {
        check_running(running)?;
        let table =
            alternatives::read(old).map_err(Error::input("the alternatives of the old image"))?;
        let bytes = alternatives::apply(old, &table, features::has);
        let patched = Image::parse(&bytes)
            .map_err(Error::input("the old image with alternatives applied"))?;
        let old = Old::read(patched).map_err(Error::input("the old image"))?;
        Ok(Self::of(old, running))
    }

    /// The same for an image that has been read.
    pub(super) fn of(old: Old, running: &'a Running) -> Self {
        Self { old, running }
    }

    /// The names of each distinct function that there is a system call to compare with.
    pub(crate) fn callable(&self) -> Vec<Vec<String>> {
        let exports = self.old.image.exports();
        let groups = exports.chunk_by(|first, second| first.address == second.address);
        let names = groups.map(|group| {
            group
                .iter()
                .map(|export| export.name.clone())
                .collect::<Vec<_>>()
        });
        names.filter(|names| known_name(names).is_some()).collect()
    }

    /// Links without mapping anything, and returns how much memory the result takes.
    ///
    /// Whether and how an image can be linked does not depend on where the hole is. So this tells the parent in its own
    /// terms what would go wrong in the child.
    pub(crate) fn try_link(&self, policy: Policy) -> Result<usize> {
        let space = AddressSpace::read()?;
        let hole = space.hole(self.old.image.bytes().len() as u64)?;
        Ok(self.link(&space.placement(hole), policy)?.bytes.len())
    }

    /// Links, maps and makes executable, in this process; `size` is what [`Self::try_link`] returned.
    pub(crate) fn map(&self, policy: Policy, size: usize) -> Result<Mapped> {
        let space = AddressSpace::read()?;
        let hole = space.hole(size as u64)?;
        let memory = CodeMemory::reserve(hole, size)?;
        let placement = space.placement(hole);
        let linked = self.link(&placement, policy)?;
        AddressSpace::read()?.check_protection()?;
        memory.fill(&linked.bytes)?;
        AddressSpace::read()?.check_protection()?;
        Ok(Mapped {
            placement,
            functions: linked.functions,
        })
    }

    /// The running kernel's own functions.
    pub(crate) fn native(&self) -> Result<Native<'a>> {
        let placement = AddressSpace::read()?.placement(elf_tools::Avma(0));
        Ok(Native {
            placement,
            image: &self.running.image,
        })
    }

    fn link(&self, placement: &Placement, policy: Policy) -> Result<LinkedImage> {
        let new = New {
            symtab: self.running.symtab.as_ref(),
            image: Some(&self.running.image),
        };
        link(&self.old, &new, placement, policy)
    }
}

/// Entries of the live vDSO are computed from the image, so it had better be the same one.
fn check_running(running: &Running) -> Result<()> {
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
        // SAFETY: the image is mapped there, executable, until the process ends, and a linked image implements the
        // functions that it exports. Processes that do this are children that may be lost.
        unsafe { Entry::at(name, self.placement.avma(function.entry)) }
    }
}

/// The running kernel's vDSO, which can be called as it is.
#[derive(Debug)]
pub(crate) struct Native<'a> {
    placement: Placement,
    image: &'a Image,
}

impl Native<'_> {
    /// The running kernel's function of one of these names.
    pub(crate) fn entry(&self, names: &[String]) -> Option<Entry> {
        let base = self.placement.new_vdso()?;
        let export = names.iter().find_map(|name| self.image.export(name))?;
        // SAFETY: the kernel maps its vDSO there, `check_running` has compared the exports, and nothing unmaps it.
        unsafe { Entry::at(&export.name, export.address.at(base)) }
    }
}

fn known_name(names: &[String]) -> Option<&str> {
    names
        .iter()
        .map(String::as_str)
        .find(|name| Entry::is_known(name))
}
