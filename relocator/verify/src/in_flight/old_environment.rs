//! Where threads run before the kernel is swapped: the kernel that is emulated, and the old text on
//! it.
//!
//! Usually that is the old image on its own kernel. A process can also have been linked once
//! already: the kernel is another one then, and the text is what linking has made of the old image,
//! with instructions out of line and entries replaced.

use crate::emulated::Unit;
use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::Symtab;

use super::old_kernel::refused;
use super::unknown;
use crate::address_space::AddressSpace;
use crate::linked;
use crate::target::OldImage;
use crate::{Error, Result};
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;
use relocator::threads::CodeNow;
use relocator_process::cpu_features;

/// A kernel that the old image was linked to before.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// Its vDSO.
    pub image: Image,
    /// Its symbols.
    pub symtab: Symtab,
    /// How the old image was linked to it.
    pub policy: Policy,
}

/// The kernel that is emulated, and what the old image is on it.
#[derive(Debug)]
pub(super) enum OldEnvironment<'a> {
    /// The old image's own kernel: the image is its vDSO.
    Home(&'a Symtab),
    /// Another one, with its own vDSO, and the image behind that.
    Linked {
        kernel: &'a Earlier,
        /// The kernel's vDSO, with alternatives applied.
        vdso: Box<Old>,
    },
}

/// The text that threads run in.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    /// What threads find there, if the old image was linked to another kernel.
    pub(super) linked: Option<CodeNow>,
}

impl<'a> OldEnvironment<'a> {
    pub(super) fn new(old: OldImage<'a>, earlier: Option<&'a Earlier>) -> Result<Self> {
        Ok(match earlier {
            None => Self::Home(old.home.ok_or_else(|| unknown("old"))?),
            Some(kernel) => Self::Linked {
                kernel,
                vdso: Box::new(linked::read((&kernel.image).into())?),
            },
        })
    }

    /// The kernel's symbols.
    pub(super) fn symtab(&self) -> &'a Symtab {
        match self {
            Self::Home(symtab) => symtab,
            Self::Linked { kernel, .. } => &kernel.symtab,
        }
    }

    /// The bytes of the kernel's own vDSO, where `old` is the old image.
    pub(super) fn vdso<'b>(&'b self, old: &'b Old) -> &'b [u8] {
        match self {
            Self::Home(_) => old.image.bytes(),
            Self::Linked { vdso, .. } => vdso.image.bytes(),
        }
    }

    /// The vDSO, if the old image is not it.
    pub(super) fn other_vdso(&self) -> &[u8] {
        match self {
            Self::Home(_) => &[],
            Self::Linked { vdso, .. } => vdso.image.bytes(),
        }
    }

    /// The kernel's mappings.
    pub(super) fn unit(&self, old: &Old) -> Result<Unit> {
        Unit::of(self.symtab(), self.vdso(old).len()).map_err(refused)
    }

    /// How much room the text needs.
    pub(super) fn room(&self, old: &Old) -> Result<usize> {
        let unit = self.unit(old)?;
        let size = unit.size() + old.image.bytes().len() as u64;
        let start = AddressSpace::read()?.hole(size)?;
        let image = match self {
            Self::Home(_) => own_place(&unit, start)?,
            Self::Linked { .. } => Avma(start.0 + unit.size()),
        };
        let text = self.text(old, image, unit.mappings_at(start))?;
        Ok(text.bytes.len())
    }

    /// The text for an image at that place, and the kernel's mappings at these.
    pub(super) fn text(
        &self,
        old: &Old,
        image: Avma,
        mappings: Vec<(String, Avma)>,
    ) -> Result<Text> {
        let placement = Placement { image, mappings };
        match self {
            // Slots hold what their kernel has put there, which the image alone does not know.
            Self::Home(symtab) if has_slots(old) => {
                let own = New {
                    symtab: Some(symtab),
                    image: None,
                    processor: None,
                };
                let filled = link(old, &own, &placement, Policy::Relocate)?;
                Ok(Text {
                    bytes: filled.bytes,
                    linked: None,
                })
            }
            Self::Home(_) => Ok(Text {
                bytes: old.image.bytes().to_vec(),
                linked: None,
            }),
            Self::Linked { kernel, vdso } => {
                let new = New {
                    symtab: Some(&kernel.symtab),
                    image: Some(&vdso.image),
                    processor: Some(cpu_features::running()),
                };
                let linked = link(old, &new, &placement, kernel.policy)?;
                let mut now = linked.code_now();
                now.analyse(old, &linked.bytes);
                Ok(Text {
                    linked: Some(now),
                    bytes: linked.bytes,
                })
            }
        }
    }
}

/// Where the kernel's own vDSO is, if its mappings begin at `start`.
fn own_place(unit: &Unit, start: Avma) -> Result<Avma> {
    let vdso = unit.offset(elf_tools::symtab::mapping_name::VDSO);
    let offset = vdso.ok_or_else(|| Error::Unlinkable {
        what: "an image for a sweep".to_owned(),
        reason: "its kernel has no place for it".to_owned(),
    })?;
    Ok(Avma(start.0 + offset))
}

fn has_slots(old: &Old) -> bool {
    let mut entries = old.relocations.iter().flat_map(|table| &table.entries);
    entries.any(|entry| !old.image.is_text(entry.place))
}
