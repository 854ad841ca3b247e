//! What goes into linking: an old image with everything that was read from it, and what the new kernel offers.

use elf_tools::code::Code;
use elf_tools::image::Image;
use elf_tools::relocation::{Relocations, Uses};
use elf_tools::symtab::Symtab;

/// An old image with everything that was read from it.
#[derive(Debug, Clone)]
pub struct Old {
    /// The image. Alternatives must have been applied if the result is to be run.
    pub image: Image,
    /// Its instructions.
    pub code: Code,
    /// Its relocation table, if it has one.
    pub relocations: Option<Relocations>,
    /// Which function uses what of the table; present if the table is.
    pub uses: Option<Uses>,
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
        }
    }

    /// Reads everything from an image.
    pub fn read(image: Image) -> elf_tools::Result<Self> {
        let code = Code::of(&image)?;
        let relocations = elf_tools::relocation::read(&image, &code)?;
        Ok(Self::new(image, code, relocations))
    }
}

/// What the new kernel offers.
#[derive(Debug, Clone, Copy, Default)]
pub struct New<'a> {
    /// Its symbols, if it exports any or they could be derived.
    pub symtab: Option<&'a Symtab>,
    /// Its vDSO, which proxies lead to.
    pub image: Option<&'a Image>,
}
