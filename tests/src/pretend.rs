//! Pretend kernels, read and put in their places.

use elf_tools::image::Image;
use elf_tools::symtab::{self, Mapping, Provenance, Symtab, mapping_name};
use elf_tools::{Avma, Svma};
use kernel_fixtures::fixture::{self, Fixture, Style};
use relocator::link::{LinkedImage, New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;

/// Where images are placed. Nothing is mapped there.
pub const BASE: Avma = Avma(0x7fff_f7f0_0000);

/// A fixture that was read.
#[derive(Debug, Clone)]
pub struct Pretend {
    /// What it was read from.
    pub fixture: &'static Fixture,
    /// Its image.
    pub old: Old,
    /// Its symbols.
    pub symtab: Option<Symtab>,
}

impl Pretend {
    /// Reads the fixture of that name.
    pub fn open(name: &str) -> Self {
        Self::of(fixture::find(name).unwrap_or_else(|| panic!("no fixture {name}")))
    }

    /// Reads a fixture. The table of a stock image is derived.
    pub fn of(fixture: &'static Fixture) -> Self {
        let image = Image::parse(fixture.image).expect(fixture.name);
        let read = |bytes| symtab::elf::read(bytes, Provenance::Exported).expect(fixture.name);
        let symtab = fixture.symtab.map(read);
        let old = match (&symtab, fixture.generation.style) {
            (Some(symtab), Style::Stock) => Old::derive(image, symtab),
            _ => Old::read(image),
        };
        Self {
            fixture,
            old: old.expect(fixture.name),
            symtab,
        }
    }

    /// What it offers as a new kernel.
    pub fn offer(&self) -> New<'_> {
        New {
            symtab: self.symtab.as_ref(),
            image: Some(&self.old.image),
            processor: None,
        }
    }

    /// An image at [`BASE`], where this kernel has its own vDSO, and this kernel's mappings where it maps them. Its own
    /// vDSO moves out of the way.
    pub fn home(&self) -> Placement {
        let aside = (mapping_name::VDSO.to_owned(), BASE.offset(0x10_0000));
        let Some(symtab) = &self.symtab else {
            return Placement {
                image: BASE,
                mappings: vec![aside],
            };
        };
        let vdso = symtab
            .mapping(mapping_name::VDSO)
            .expect("fixtures state it");
        let place = |mapping: &Mapping| {
            let distance = mapping.address as i64 - vdso.address as i64;
            (mapping.name.clone(), BASE.offset(distance))
        };
        let others = symtab
            .mappings()
            .iter()
            .filter(|mapping| mapping.name != mapping_name::VDSO);
        Placement {
            image: BASE,
            mappings: others.map(place).chain([aside]).collect(),
        }
    }

    /// This image, linked to another kernel at that one's own distances.
    pub fn onto(&self, new: &Self) -> LinkedImage {
        link(&self.old, &new.offer(), &new.home(), Policy::Auto)
            .unwrap_or_else(|error| panic!("{} {}: {error}", self.fixture.name, new.fixture.name))
    }

    /// The bytes of this image's code in `bytes`, by address.
    pub fn text(&self, bytes: &[u8]) -> Vec<(Svma, u8)> {
        let ranges = self.old.image.text().iter().cloned();
        let addresses = ranges.flatten();
        addresses.map(|at| (Svma(at), bytes[at as usize])).collect()
    }
}
