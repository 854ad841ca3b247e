//! An old image as a restore without a linker leaves it: where it was, on a vvar of which every
//! byte is zero.

use crate::emulated::Unit;
use crate::memory::Region;
use elf_tools::symtab::{Symtab, mapping_name};
use elf_tools::{Avma, Svma};

use crate::address_space::AddressSpace;
use crate::entry::Entry;
use crate::linked::{Prepared, functions};
use crate::{Error, Result};
use relocator::criu;
use relocator::in_words;
use relocator::link::{New, link};
use relocator::placement::{PAGE, Placement};
use relocator::plan::Policy;

/// Pages below an image whose kernel's mappings are not known. No kernel has more.
const PAGES: u64 = 16;

/// An old image that is to be mapped on zeros.
#[derive(Debug)]
pub(super) struct Unlinked<'a> {
    prepared: &'a Prepared<'a>,
    home: Option<&'a Symtab>,
    jumps: bool,
}

/// What of it can be called.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) names: Vec<String>,
    pub(super) entry: Entry,
    /// Whether it was overwritten by a jump.
    pub(super) jumps: bool,
}

impl<'a> Unlinked<'a> {
    /// `home` has the symbols of the kernel that the image is of, as far as they are known.
    pub(super) fn new(prepared: &'a Prepared<'a>, home: Option<&'a Symtab>, jumps: bool) -> Self {
        Self {
            prepared,
            home,
            jumps,
        }
    }

    /// The bytes of its mapping if it is at `image`, where the new vDSO is at `vdso`, and the
    /// entries that were overwritten.
    pub(super) fn patched(&self, vdso: Avma) -> Result<criu::Patched> {
        let old = &self.prepared.old.image;
        let refused = |reason: &dyn ToString| Error::Unlinkable {
            what: "an image with the jumps of CRIU".to_owned(),
            reason: reason.to_string(),
        };
        match (self.jumps, self.prepared.new.image) {
            (false, _) => Ok(criu::Patched {
                bytes: old.bytes().to_vec(),
                entries: Vec::new(),
            }),
            (true, Some(new)) => criu::patch(old, new, vdso).map_err(|reason| refused(&reason)),
            (true, None) => Err(refused(&"the new kernel has no vDSO")),
        }
    }

    /// Maps it in this process, which is to end with it, and returns every function that there is a
    /// system call to compare with.
    pub(super) fn map(&self) -> Result<Vec<Function>> {
        let space = AddressSpace::read()?;
        let size = self.prepared.old.image.bytes().len();
        let (before, unit) = self.room(size)?;
        let start = space.hole(unit)?;
        let failed = || Error::io(format!("{unit:#x} bytes of memory at {start}"));
        let image = Avma(start.0 + before);
        let mappings = space.mappings();
        let vdso = Placement { image, mappings }.new_vdso().unwrap_or_default();
        let mut patched = self.patched(vdso)?;
        self.fill_slots(image, &mut patched.bytes)?;
        let mut region = Region::reserve(Some(start), unit as usize).map_err(failed())?;
        if before > 0 {
            region.freeze(0..before as usize).map_err(failed())?;
        }
        region
            .fill(before as usize, &patched.bytes)
            .map_err(failed())?;
        AddressSpace::read()?.check_protection()?;
        // Entries lead into it, and the process ends with them.
        region.leak();
        Ok(self.functions(image, &patched.entries))
    }

    /// How much of the old kernel's mappings lies before the image, and how much there is with the
    /// image.
    fn room(&self, size: usize) -> Result<(u64, u64)> {
        let unknown = PAGES * PAGE;
        let Some(home) = self.home else {
            return Ok((unknown, unknown + (size as u64).next_multiple_of(PAGE)));
        };
        let unit = Unit::of(home, size).map_err(|error| Error::Unlinkable {
            what: "an image on zeros".to_owned(),
            reason: in_words(&error),
        })?;
        Ok((unit.offset(mapping_name::VDSO).unwrap_or(0), unit.size()))
    }

    /// Slots, which only kernels of our own have, hold what their kernel has put there.
    fn fill_slots(&self, image: Avma, bytes: &mut [u8]) -> Result<()> {
        let old = &self.prepared.old;
        let entries = old.relocations.iter().flat_map(|table| &table.entries);
        let slots = entries.filter(|entry| !old.image.is_text(entry.place));
        let slots: Vec<_> = slots
            .map(|entry| (entry.place, entry.kind.width()))
            .collect();
        if slots.is_empty() {
            return Ok(());
        }
        let home = self.home.ok_or_else(|| Error::Unlinkable {
            what: "an image with slots, for its own kernel".to_owned(),
            reason: "the symbols of that kernel are not known".to_owned(),
        })?;
        let new = New {
            symtab: Some(home),
            image: None,
            processor: None,
        };
        let placement = Placement::below(image, Some(home), None)?;
        let linked = link(old, &new, &placement, Policy::Relocate)?;
        for (place, width) in slots {
            let span = place.index()..place.index() + width as usize;
            if let (Some(slot), Some(value)) = (bytes.get_mut(span.clone()), linked.bytes.get(span))
            {
                slot.copy_from_slice(value);
            }
        }
        Ok(())
    }

    fn functions(&self, image: Avma, patched: &[Svma]) -> Vec<Function> {
        let old = &self.prepared.old.image;
        let functions = functions(old).into_iter().filter_map(|names| {
            let name = names.iter().find(|name| Entry::is_known(name))?;
            let address = old.export(name)?.address;
            // SAFETY: the image is mapped there, executable, until the process ends. What it reads
            // of a vvar are zeros. Processes that do this are children that may be lost.
            let entry = unsafe { Entry::at(name, address.at(image)) }?;
            Some(Function {
                jumps: patched.contains(&address),
                names,
                entry,
            })
        });
        functions.collect()
    }
}
