//! What is verified, and on which kernel.

use crate::emulated::ClockMode;
use elf_tools::image::Image;
use elf_tools::relocation::Relocations;
use elf_tools::symtab::Symtab;

use relocator::link::Old;

/// The kernel that is running.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its vDSO. It must be the one that is mapped in this process.
    pub image: Image,
    /// The symbols of its vvar, if they are known. Without them nothing can be relocated, and
    /// nothing emulated.
    pub symtab: Option<Symtab>,
}

/// An image to be linked.
#[derive(Debug, Clone, Copy)]
pub struct OldImage<'a> {
    /// The image, with alternatives applied or not.
    pub image: &'a Image,
    /// Its relocation table, if it is to be another than the one that the image carries, if it
    /// carries one.
    pub relocations: Option<&'a Relocations>,
    /// The symbols of its own kernel. With them, what it does on a kernel that is emulated is
    /// compared with what it does at home as well, where the system call says something else.
    pub home: Option<&'a Symtab>,
}

impl<'a> OldImage<'a> {
    /// The same, and the symbols of its own kernel if they are known.
    pub fn with_home(self, home: Option<&'a Symtab>) -> Self {
        Self { home, ..self }
    }
}

/// An image with the table that was found for it.
impl<'a> From<&'a Old> for OldImage<'a> {
    fn from(old: &'a Old) -> Self {
        Self {
            image: &old.image,
            relocations: old.relocations.as_ref(),
            home: None,
        }
    }
}

impl<'a> From<&'a Image> for OldImage<'a> {
    fn from(image: &'a Image) -> Self {
        Self {
            image,
            relocations: None,
            home: None,
        }
    }
}

/// A kernel that is emulated in the child process, by pages in its layout that are kept current
/// from those of the running kernel. See [`crate::emulated`].
#[derive(Debug, Clone, Copy)]
pub struct Emulation<'a> {
    /// The kernel that runs. Its symbols must be known.
    pub running: &'a Running,
    /// The vDSO of the emulated kernel, with alternatives applied or not.
    pub image: &'a Image,
    /// The symbols of the emulated kernel's vvar.
    pub symtab: &'a Symtab,
    /// What its clocks count with.
    pub clock_mode: ClockMode,
}

/// The kernel that an image is verified on.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// The running one: by its own pages, and its own vDSO.
    Running(&'a Running),
    /// Any other.
    Emulated(Emulation<'a>),
}

impl<'a> From<&'a Running> for Target<'a> {
    fn from(running: &'a Running) -> Self {
        Self::Running(running)
    }
}

impl<'a> From<Emulation<'a>> for Target<'a> {
    fn from(emulation: Emulation<'a>) -> Self {
        Self::Emulated(emulation)
    }
}
