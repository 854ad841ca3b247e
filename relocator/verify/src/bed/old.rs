//! The old vDSO, as it was in a process on its own kernel.

use crate::emulated::Unit;
use elf_tools::Avma;
use elf_tools::image::{Image, alternatives};
use elf_tools::symtab::{Symtab, mapping_name};
use relocator::link::{New, Old, link};
use relocator::placement::{PAGE, Placement};
use relocator::plan::Policy;
use relocator_process::cpu_features;

use relocator::source::Source;

use super::{Error, Result};

/// Bytes of vvar below the vDSO on stock kernels until 6.12, for images whose kernel's symbols are
/// not known.
const USUAL_VVAR: u64 = 4 * PAGE;

/// An old vDSO with alternatives applied.
#[derive(Debug, Clone)]
pub struct OldVdso {
    /// The image.
    pub image: Image,
    /// Bytes that its kernel's data took below it.
    pub vvar_size: u64,
    /// Its kernel's symbols, where there are slots to be filled in.
    home: Option<Symtab>,
}

impl OldVdso {
    /// The vDSO of a source as its kernel would run it on this processor.
    pub fn of(source: &Source) -> Result<Self> {
        Self::new(source.require_image()?, source.symtab.as_ref())
    }

    /// An image, and the symbols of its kernel as far as they are known.
    pub fn new(image: &Image, symtab: Option<&Symtab>) -> Result<Self> {
        let table = alternatives::read(image)?;
        let bytes = alternatives::apply(image, &table, cpu_features::has);
        let vvar_size = symtab.map_or(Ok(USUAL_VVAR), |symtab| vvar_below(symtab, bytes.len()))?;
        let has_tables = image.tables_note().is_some();
        Ok(Self {
            image: Image::parse(&bytes)?,
            vvar_size,
            home: symtab.filter(|_| has_tables).cloned(),
        })
    }

    /// What was in memory at `base`: slots hold what the old kernel has put there.
    pub(super) fn bytes_at(&self, base: Avma) -> Result<Vec<u8>> {
        let Some(symtab) = &self.home else {
            return Ok(self.image.bytes().to_vec());
        };
        let unit = unit(symtab, self.image.bytes().len())?;
        let placement = Placement {
            image: base,
            mappings: unit.mappings_at(base.offset(-self.vvar_size.cast_signed())),
        };
        let own = New {
            symtab: Some(symtab),
            image: None,
            processor: None,
        };
        let old = Old::read(self.image.clone())?;
        let filled = link(&old, &own, &placement, Policy::Relocate);
        Ok(filled?.bytes)
    }
}

fn unit(symtab: &Symtab, size: usize) -> Result<Unit> {
    Ok(Unit::of(symtab, size)?)
}

fn vvar_below(symtab: &Symtab, size: usize) -> Result<u64> {
    let offset = unit(symtab, size)?.offset(mapping_name::VDSO);
    offset.ok_or_else(|| Error::missing("the vDSO's place in the symbol table"))
}

#[cfg(test)]
mod tests {
    use elf_tools::Svma;
    use elf_tools::symtab::Provenance;

    use super::*;

    /// The code is as it was, and slots that were empty lead to where the old kernel's data is.
    #[test]
    fn slots_hold_what_the_old_kernel_has_put_there() {
        let fixture = kernel_fixtures::fixture::find("got").unwrap();
        let image = Image::parse(fixture.image).unwrap();
        let table = elf_tools::symtab::elf::read(fixture.symtab.unwrap(), Provenance::Exported);
        let old = OldVdso::new(&image, Some(&table.unwrap())).unwrap();
        let base = Avma(0x7f12_3456_7000);
        let (before, after) = (old.image.bytes(), old.bytes_at(base).unwrap());
        let slots = before.chunks(8).zip(after.chunks(8)).enumerate();
        let filled = slots.filter(|(_, (before, after))| before != after);
        let vvar = base.offset(-old.vvar_size.cast_signed())..base;
        let mut distances = 0;
        for (index, (_, slot)) in filled {
            let place = Svma(index as u64 * 8);
            assert!(!old.image.is_text(place), "{place}");
            let value = i64::from_le_bytes(slot.try_into().unwrap());
            // The others are sizes and offsets.
            if value < 0 {
                assert!(vvar.contains(&place.at(base).offset(value)), "{place}");
                distances += 1;
            }
        }
        assert!(distances > 0);
        assert_eq!(before.len(), after.len());
    }
}
