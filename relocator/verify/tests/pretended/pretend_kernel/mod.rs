//! A pretend kernel in this process: its image behind its own vvar area, at the distances its
//! symbol table states.
//!
//! Nothing is linked here: operands run as they are, and slots are given the value they have on
//! their own kernel.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod clocks;

use std::ffi::c_void;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use elf_tools::Avma;

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::{self, Quantity, Relocation, Relocations};
use elf_tools::symtab::name::Reference;
use elf_tools::symtab::{Provenance, Symtab, elf, mapping_name};
use kernel_fixtures::fixture::{self, Fixture};
use relocator_verify::emulated::Unit;
use relocator_verify::memory::Region;

/// The layout of a fixture. `bare` has no table; it was built for the layout of `operands`.
pub(crate) fn symtab(fixture: &Fixture) -> Symtab {
    let bytes = fixture.symtab.or_else(|| fixture::find("operands")?.symtab);
    elf::read(bytes.expect("`operands` has a table"), Provenance::Exported).expect(fixture.name)
}

/// The relocation table of a fixture; empty for `bare`.
pub(crate) fn relocations(fixture: &Fixture) -> Relocations {
    let image = Image::parse(fixture.image).expect(fixture.name);
    let code = Code::of(&image).expect(fixture.name);
    relocation::read(&image, &code)
        .expect(fixture.name)
        .unwrap_or_default()
}

/// Distance of a symbol from the image, as the kernel maps both by default.
pub(crate) fn distance(symtab: &Symtab, name: &str) -> i64 {
    let symbol = symtab
        .get(name)
        .unwrap_or_else(|| panic!("no symbol {name}"));
    let image = symtab
        .mapping(mapping_name::VDSO)
        .expect("the table places the image");
    (symtab.mappings()[symbol.mapping].address + symbol.offset) as i64 - image.address as i64
}

/// What the place of a relocation holds on the image's own kernel.
pub(crate) fn home_value(symtab: &Symtab, relocations: &Relocations, entry: &Relocation) -> i64 {
    let base = match (
        &relocations.needs[entry.need as usize].reference,
        entry.kind.quantity(),
    ) {
        (Reference::Place(name), Quantity::Size) => {
            symtab.get(&name.name).expect("a home symbol").size as i64
        }
        (Reference::Place(name), _) => distance(symtab, &name.name),
        (Reference::OffsetOf { object, member }, _) => {
            distance(symtab, &member.name) - distance(symtab, &object.name)
        }
    };
    let place = if entry.kind.quantity() == Quantity::Distance {
        entry.place.signed()
    } else {
        0
    };
    base + entry.addend - place
}

/// `struct timespec`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Timespec {
    pub(crate) sec: i64,
    pub(crate) nsec: i64,
}

/// `struct timeval` and `struct timezone`.
pub(crate) type Timeval = [i64; 2];
pub(crate) type Timezone = [i32; 2];

/// The image of a fixture as it runs at home: `patch` applied, to apply alternatives for example,
/// and slots filled in.
pub(crate) fn code(fixture: &Fixture, patch: impl Fn(&Image) -> Vec<u8>) -> Vec<u8> {
    let symtab = symtab(fixture);
    let image = Image::parse(fixture.image).expect(fixture.name);
    let mut bytes = patch(&image);
    let relocations = relocations(fixture);
    let slots = relocations.entries.iter();
    for entry in slots.filter(|entry| !image.is_text(entry.place)) {
        let value = home_value(&symtab, &relocations, entry);
        bytes[entry.place.index()..][..8].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// A fixture that runs.
pub(crate) struct Kernel {
    pub(crate) symtab: Symtab,
    vdso: Vdso,
    unit: Unit,
    region: Region,
}

impl Deref for Kernel {
    type Target = Vdso;

    fn deref(&self) -> &Vdso {
        &self.vdso
    }
}

impl Kernel {
    /// Maps the fixture. `patch` may change the image before that.
    pub(crate) fn boot(fixture: &Fixture, patch: impl Fn(&Image) -> Vec<u8>) -> Self {
        let symtab = symtab(fixture);
        let code = code(fixture, patch);
        let unit = Unit::of(&symtab, code.len()).expect(fixture.name);
        let mut region = Region::reserve(None, unit.size() as usize).expect("memory");
        let mappings = unit.mappings_at(region.start());
        let vdso = Vdso::at(fixture, &mappings);
        let offset = vdso.base as u64 - region.start().0;
        region.fill(offset as usize, &code).expect(fixture.name);
        Self {
            symtab,
            vdso,
            unit,
            region,
        }
    }

    /// Where each mapping is.
    pub(crate) fn mappings(&self) -> Vec<(String, Avma)> {
        self.unit.mappings_at(self.region.start())
    }

    /// The address of a symbol, for these indices of the arrays in its name.
    pub(crate) fn address(&self, name: &str, indices: &[u64]) -> usize {
        let ends = name.match_indices("[]").map(|(at, _)| at + 2);
        let steps = ends.zip(indices).map(|(end, index)| {
            let element = self
                .symtab
                .get(&name[..end])
                .unwrap_or_else(|| panic!("no element {}", &name[..end]));
            element.size * index
        });
        let within = steps.sum::<u64>() as usize;
        self.base
            .wrapping_add_signed(distance(&self.symtab, name) as isize)
            + within
    }

    /// Writes a field of four bytes, as the kernel does under a reader's eyes.
    pub(crate) fn set32(&self, name: &str, indices: &[u64], value: u32) {
        let address = self.address(name, indices) as *mut u32;
        // SAFETY: the table's symbols lie in pages that stay mapped, and fields are aligned.
        unsafe { AtomicU32::from_ptr(address) }.store(value, Ordering::Release);
    }

    /// Writes a field of eight bytes.
    pub(crate) fn set64(&self, name: &str, indices: &[u64], value: u64) {
        let address = self.address(name, indices) as *mut u64;
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(address) }.store(value, Ordering::Release);
    }

    /// Whether the layout has a symbol.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.symtab.get(name).is_some()
    }
}

/// The image of a fixture in this process.
pub(crate) struct Vdso {
    pub(crate) name: &'static str,
    image: Image,
    /// Where it is.
    base: usize,
}

impl Vdso {
    /// The image of a fixture where its `[vdso]` is. It must be there as long as this is used.
    pub(crate) fn at(fixture: &Fixture, mappings: &[(String, Avma)]) -> Self {
        let vdso = mappings.iter().find(|(name, _)| name == mapping_name::VDSO);
        Self {
            name: fixture.name,
            image: Image::parse(fixture.image).expect(fixture.name),
            base: vdso.expect("a unit has an image").1.0 as usize,
        }
    }

    fn function(&self, name: &str) -> usize {
        let export = self
            .image
            .export(name)
            .unwrap_or_else(|| panic!("{} exports no {name}", self.name));
        self.base + export.address.index()
    }

    /// Calls `clock_gettime`.
    pub(crate) fn clock_gettime(&self, id: i32) -> (i32, Timespec) {
        let mut result = Timespec::default();
        type Function = extern "C" fn(i32, *mut Timespec) -> i32;
        // SAFETY: the export has this signature.
        let function: Function =
            unsafe { std::mem::transmute(self.function("__vdso_clock_gettime")) };
        (function(id, &mut result), result)
    }

    /// Calls `clock_getres`, with a null pointer for no result.
    pub(crate) fn clock_getres(&self, id: i32, result: Option<&mut Timespec>) -> i32 {
        type Function = extern "C" fn(i32, Option<&mut Timespec>) -> i32;
        // SAFETY: the export has this signature.
        let function: Function = unsafe { std::mem::transmute(self.function("clock_getres")) };
        function(id, result)
    }

    /// Calls `gettimeofday`.
    pub(crate) fn gettimeofday(
        &self,
        result: Option<&mut Timeval>,
        zone: Option<&mut Timezone>,
    ) -> i32 {
        type Function = extern "C" fn(Option<&mut Timeval>, Option<&mut Timezone>) -> i32;
        // SAFETY: the export has this signature.
        let function: Function = unsafe { std::mem::transmute(self.function("gettimeofday")) };
        function(result, zone)
    }

    /// Calls `time`.
    pub(crate) fn time(&self, result: Option<&mut i64>) -> i64 {
        type Function = extern "C" fn(Option<&mut i64>) -> i64;
        // SAFETY: the export has this signature.
        let function: Function = unsafe { std::mem::transmute(self.function("__vdso_time")) };
        function(result)
    }

    /// Calls `getcpu`.
    pub(crate) fn getcpu(&self, cpu: Option<&mut u32>, node: Option<&mut u32>) -> i64 {
        type Function = extern "C" fn(Option<&mut u32>, Option<&mut u32>, *mut c_void) -> i64;
        // SAFETY: the export has this signature.
        let function: Function = unsafe { std::mem::transmute(self.function("__vdso_getcpu")) };
        function(cpu, node, std::ptr::null_mut())
    }
}
