//! Relocation tables of images that carry none, from their code.

use crate::Svma;
use crate::code::Code;
use crate::image::Image;
use crate::relocation::Relocations;
use crate::symtab::Symtab;
use crate::{Error, Result};

/// What the code of an image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The relocation table.
    pub relocations: Relocations,
    /// Instructions that refer to the vvar and that no function reaches.
    pub unreached: Vec<Svma>,
}

/// Derives the relocation table of `image` from its code, for the layout of its own kernel, `symtab`.
pub fn derive(_image: &Image, _code: &Code, _symtab: &Symtab) -> Result<Derivation> {
    Err(Error::not_found("derivation", "being written"))
}
