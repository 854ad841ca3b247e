//! The running kernel's vvar in this process: what emulated ones are filled from.

#![allow(
    unsafe_code,
    reason = "vvar is only reached by its address, and only its owner knows that it stays mapped"
)]

use elf_tools::Avma;
use elf_tools::symtab::Symtab;

use super::Error;
use super::place::{Field, FieldPlace};
use super::word::Word;

/// The vvar that is copied from.
#[derive(Debug, Clone)]
pub struct Live<'a> {
    symtab: &'a Symtab,
    mappings: Vec<(String, Avma)>,
}

impl<'a> Live<'a> {
    /// The vvar whose symbols `symtab` has and whose mappings, by name, begin at `mappings`.
    ///
    /// # Safety
    ///
    /// The mappings must be there, as large as the table says, and stay readable as long as
    /// anything is copied from them. They may only be written atomically, or by the kernel. Of a
    /// kernel's own vvar, the pages that the kernel has nothing for do not count: they are not
    /// read.
    pub unsafe fn new(symtab: &'a Symtab, mappings: Vec<(String, Avma)>) -> Self {
        Self { symtab, mappings }
    }

    /// Its symbols.
    pub(super) fn symtab(&self) -> &'a Symtab {
        self.symtab
    }

    /// A field; `None` if this kernel does not have it.
    pub(super) fn word(&self, field: &Field) -> Result<Option<Word>, Error> {
        let place = field.place(self.symtab);
        place
            .map(|place| self.word_at(&field.name, place))
            .transpose()
    }

    /// A field that has to be there.
    pub(super) fn require(&self, field: &Field) -> Result<Word, Error> {
        self.word(field)?.ok_or_else(|| Error::Missing {
            symbol: field.name.clone(),
            kernel: "running",
        })
    }

    /// The field `symbol` at a place in a mapping.
    pub(super) fn word_at(&self, symbol: &str, place: FieldPlace<'_>) -> Result<Word, Error> {
        let base = self.mappings.iter().find(|(name, _)| name == place.mapping);
        let (_, base) = base.ok_or_else(|| Error::Missing {
            symbol: place.mapping.to_owned(),
            kernel: "running",
        })?;
        let address = Avma(base.0.wrapping_add(place.offset));
        // SAFETY: `new` was promised that the mapping is there; symbols lie in their mappings.
        let word = unsafe { Word::at(address, place.size) };
        word.ok_or_else(|| Error::Access {
            symbol: symbol.to_owned(),
            kernel: "running",
            size: place.size,
            address: address.0,
        })
    }
}
