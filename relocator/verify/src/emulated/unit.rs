//! The mappings of a kernel as one unit, at the distances from each other that the kernel gives
//! them.

use elf_tools::Avma;
use elf_tools::symtab::{Mapping, Symtab, mapping_name};

use super::Error;
use crate::memory::PAGE;

/// What an emulated kernel takes up: its vvar mappings, its vDSO, and whatever the kernel leaves
/// free between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// By address, which counts from the start of the unit.
    mappings: Vec<Mapping>,
}

impl Unit {
    /// The unit of a kernel whose image has `image_size` bytes.
    ///
    /// Refuses a table that does not place the image, and an image that runs into what the table
    /// places behind it.
    pub fn of(symtab: &Symtab, image_size: usize) -> Result<Self, Error> {
        let mut mappings = symtab.mappings().to_vec();
        let no_image = || Error::Mapping {
            mapping: mapping_name::VDSO.to_owned(),
            reason: "the symbol table does not place it".to_owned(),
        };
        let image = mappings
            .iter_mut()
            .find(|mapping| mapping.name == mapping_name::VDSO);
        let image = image.ok_or_else(no_image)?;
        image.size = image
            .size
            .max((image_size as u64).next_multiple_of(PAGE as u64));
        mappings.sort_by_key(|mapping| mapping.address);
        let lowest = mappings.first().ok_or_else(no_image)?.address;
        for mapping in &mut mappings {
            mapping.address -= lowest;
            if !mapping.address.is_multiple_of(PAGE as u64) {
                return Err(Error::Mapping {
                    mapping: mapping.name.clone(),
                    reason: "it does not start with a page".to_owned(),
                });
            }
        }
        for pair in mappings.windows(2) {
            if pair[1].address - pair[0].address < pair[0].size {
                let reason = format!("it runs into {}", pair[1].name);
                let mapping = pair[0].name.clone();
                return Err(Error::Mapping { mapping, reason });
            }
        }
        Ok(Self { mappings })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.mappings
            .last()
            .map_or(0, |last| last.address + last.size)
    }

    /// Where each mapping is if the unit is at `start`.
    pub fn mappings_at(&self, start: Avma) -> Vec<(String, Avma)> {
        let at = |mapping: &Mapping| {
            (
                mapping.name.clone(),
                Avma(start.0.wrapping_add(mapping.address)),
            )
        };
        self.mappings.iter().map(at).collect()
    }

    /// Offset of the mapping of that name from the start of the unit.
    pub fn offset(&self, name: &str) -> Option<u64> {
        let mapping = self.mappings.iter().find(|mapping| mapping.name == name);
        mapping.map(|mapping| mapping.address)
    }
}
