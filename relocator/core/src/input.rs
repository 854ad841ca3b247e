//! What goes into linking: an old image with its code and table, and what the new kernel offers.

use std::sync::OnceLock;

use elf_tools::Svma;
use elf_tools::image::Image;
use elf_tools::processor::ProcessorFeatures;
use elf_tools::reachability::Code;
use elf_tools::relocation::{Relocations, Uses};
use elf_tools::symtab::Symtab;

use crate::arch::Arch;
use crate::reason::Forced;
use crate::unwind::CallFrames;

/// An old image with its code and table.
#[derive(Debug, Clone)]
pub struct Old {
    /// The image. To run the result, apply its alternatives first.
    pub image: Image,
    /// Its instructions.
    pub code: Code,
    /// Its relocation table, if it has one.
    pub relocations: Option<Relocations>,
    /// Which function uses what of the table; present if the table is.
    pub uses: Option<Uses>,
    /// Functions that neither the old nor the new kernel's code may do, only the system call.
    pub forced: Vec<ForcedFunction>,
    /// Its call frame information, once a link has read it.
    frames: OnceLock<Option<CallFrames>>,
}

/// A function that is forced to the system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForcedFunction {
    /// One of its names.
    pub name: String,
    /// Why.
    pub reason: Forced,
}

impl Old {
    /// An image with its code and a relocation table that may come from elsewhere.
    pub fn new(image: Image, code: Code, relocations: Option<Relocations>) -> Self {
        let uses = relocations.as_ref().map(|table| table.uses(&code));
        Self {
            image,
            code,
            relocations,
            uses,
            forced: Vec::new(),
            frames: OnceLock::new(),
        }
    }

    /// The call frame information of the image, if it has any that can be changed. It is read once.
    pub(crate) fn frames(&self, arch: &dyn Arch) -> Option<&CallFrames> {
        let read = || {
            let functions = self.code.functions().iter();
            let entries: Vec<Svma> = functions.map(|function| function.entry).collect();
            CallFrames::read(arch, &self.image, &entries)
        };
        self.frames.get_or_init(read).as_ref()
    }

    /// Forces a function to the system call, whatever the policy is. A name that the image does not
    /// have changes nothing.
    pub fn force_system_call(&mut self, name: impl Into<String>, reason: Forced) {
        self.forced.push(ForcedFunction {
            name: name.into(),
            reason,
        });
    }

    /// Reads everything from an image. Its relocation table is the one it carries, if it carries
    /// one.
    pub fn read(image: Image) -> elf_tools::Result<Self> {
        let code = Code::of(&image)?;
        let relocations = elf_tools::relocation::read(&image, &code)?;
        Ok(Self::new(image, code, relocations))
    }

    /// An image with a table from elsewhere, which must be the table of this image, or with none at
    /// all.
    pub fn with_table(image: Image, relocations: Option<Relocations>) -> elf_tools::Result<Self> {
        let code = Code::of(&image)?;
        Ok(Self::new(image, code, relocations))
    }

    /// An image with a table derived from its code, for the layout of its own kernel. This ignores
    /// a table that the image carries.
    pub fn derive(image: Image, symtab: &Symtab) -> elf_tools::Result<Self> {
        let code = Code::of(&image)?;
        let derivation = elf_tools::derive::derive(&image, &code, symtab)?;
        Ok(Self::new(image, code, Some(derivation.relocations)))
    }

    /// Sets the table, in place of the one that there was.
    pub fn set_table(&mut self, relocations: Relocations) {
        self.uses = Some(relocations.uses(&self.code));
        self.relocations = Some(relocations);
    }
}

/// What the new kernel offers.
#[derive(Debug, Clone, Copy, Default)]
pub struct New<'a> {
    /// Its symbols, if it exports any or they could be derived.
    pub symtab: Option<&'a Symtab>,
    /// Its vDSO, which proxies lead to.
    pub image: Option<&'a Image>,
    /// What its processor has. Functions with other instructions are proxied; `None` if that is not
    /// known, and nothing is to be checked.
    pub processor: Option<ProcessorFeatures>,
}
