//! Where the old image and the new kernel's mappings are, or will be, in a process.

use elf_tools::image::Image;
use elf_tools::symtab::{Mapping, Symtab, mapping_name};
use elf_tools::{Avma, Svma};

use crate::{Error, Result};

pub use crate::arch::native::{END, PAGE};

/// Every base address that linking depends on.
///
/// Relocated operands are distances, so only differences matter to most of them; absolute slots and
/// absolute jumps depend on the addresses themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Base of the old image.
    pub image: Avma,
    /// Base of each of the new kernel's mappings, by name as in `/proc/PID/maps`. `[vdso]` is the
    /// new vDSO.
    pub mappings: Vec<(String, Avma)>,
}

impl Placement {
    /// Base of the mapping of that name.
    pub fn mapping(&self, name: &str) -> Option<Avma> {
        self.mappings
            .iter()
            .find(|mapping| mapping.0 == name)
            .map(|mapping| mapping.1)
    }

    /// Base of the new kernel's vDSO, where proxies lead to.
    pub fn new_vdso(&self) -> Option<Avma> {
        self.mapping(mapping_name::VDSO)
    }

    /// The new kernel's mappings as one unit at the kernel's own distances, directly below the old
    /// image: where a restore that has the choice puts them. The image is placed at `image`.
    pub fn below(image: Avma, symtab: Option<&Symtab>, new_vdso: Option<&Image>) -> Result<Self> {
        let vdso_size =
            new_vdso.map_or(0, |vdso| (vdso.bytes().len() as u64).next_multiple_of(PAGE));
        let mut unit: Vec<Mapping> =
            symtab.map_or_else(Vec::new, |symtab| symtab.mappings().to_vec());
        match unit
            .iter_mut()
            .find(|mapping| mapping.name == mapping_name::VDSO)
        {
            Some(vdso) => vdso.size = vdso.size.max(vdso_size),
            None if vdso_size > 0 => {
                let address = unit
                    .iter()
                    .map(|mapping| mapping.address + mapping.size)
                    .max()
                    .unwrap_or(0);
                unit.push(Mapping {
                    name: mapping_name::VDSO.to_owned(),
                    address,
                    size: vdso_size,
                });
            }
            None => {}
        }
        let end = unit
            .iter()
            .map(|mapping| mapping.address.saturating_add(mapping.size))
            .max()
            .unwrap_or(0);
        let mut mappings = Vec::with_capacity(unit.len());
        for mapping in unit {
            let below = end - mapping.address;
            let base = image
                .0
                .checked_sub(below)
                .ok_or_else(|| Error::NoRoomBelow {
                    image,
                    mapping: mapping.name.clone(),
                    below,
                })?;
            mappings.push((mapping.name, Avma(base)));
        }
        Ok(Self { image, mappings })
    }

    /// Where a place in the old image is.
    pub fn avma(&self, place: Svma) -> Avma {
        place.at(self.image)
    }
}
