//! Linking: an old image, a new kernel's symbols and a placement in; bytes and a report out.
//!
//! resolve (each need against the symbol table, defaults laid out) → encode (each relocation, range checked) → plan
//! (each function) → write. Nothing here reads or writes files or processes, so the same code serves a live process, a
//! checkpoint and a test.

mod defaults;
mod encode;
mod resolve;

use elf_tools::code::Code;
use elf_tools::image::Image;
use elf_tools::relocation::{Relocations, Uses};
use elf_tools::symtab::Symtab;
use elf_tools::{Class, Machine, Svma};

use crate::placement::Placement;
use crate::plan::{self, FunctionPlan, Policy};
use crate::{Error, Result};

use defaults::Defaults;
pub use resolve::Unresolved;

/// An old image with everything that was read from it.
#[derive(Debug, Clone)]
pub struct Old {
    /// The image. Alternatives must have been applied if the result is to be run.
    pub image: Image,
    /// Its instructions.
    pub code: Code,
    /// Its relocation table, if it has one.
    pub relocations: Option<Relocations>,
}

impl Old {
    /// Reads everything from an image.
    pub fn read(image: Image) -> elf_tools::Result<Self> {
        let code = Code::of(&image)?;
        let relocations = elf_tools::relocation::read(&image, &code)?;
        Ok(Self {
            image,
            code,
            relocations,
        })
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

/// A relocation that cannot be applied, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Index into the relocation table.
    pub relocation: u32,
    /// In words that name the symbol.
    pub reason: String,
}

/// An image that runs on the new kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedImage {
    /// The image's bytes, followed by the copies of defaults that it reads.
    pub bytes: Vec<u8>,
    /// Every distinct exported function, by entry point.
    pub functions: Vec<FunctionPlan>,
}

/// Links `old` to `new` at the given placement.
pub fn link(
    old: &Old,
    new: &New<'_>,
    placement: &Placement,
    policy: Policy,
) -> Result<LinkedImage> {
    let image = &old.image;
    if (image.machine(), image.class()) != (Machine::X86_64, Class::Elf64) {
        let what = format!("a {} image of {:?}", image.machine(), image.class());
        return Err(Error::Unlinkable {
            what,
            reason: "only 64-bit x86-64 images are linked".to_owned(),
        });
    }
    let mut bytes = image.bytes().to_vec();
    let mut failures = Vec::new();
    let mut uses = None;
    if let Some(relocations) = &old.relocations {
        let mut defaults = Defaults::behind(placement.image, bytes.len());
        let resolved = resolve::all(&relocations.needs, new.symtab, placement, &mut defaults);
        failures = encode::all(relocations, &resolved, placement, &mut bytes);
        defaults.append_to(&mut bytes);
        uses = Some(relocations.uses(&old.code));
    }
    let tables = Tables {
        relocations: old.relocations.as_ref(),
        uses: uses.as_ref(),
        failures: &failures,
    };
    let plans = plan::plan(old, new, &tables, placement, policy)?;
    for function in &plans {
        if let Some(patch) = &function.patch {
            bytes[function.entry.index()..][..patch.len()].copy_from_slice(patch);
        }
    }
    Ok(LinkedImage {
        bytes,
        functions: plans,
    })
}

/// What planning knows about an image's tables.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// The relocation table.
    pub relocations: Option<&'a Relocations>,
    /// Which function uses which relocation; present if the table is.
    pub uses: Option<&'a Uses>,
    /// What could not be applied, by relocation.
    pub failures: &'a [Failure],
}

impl Tables<'_> {
    /// Whether some relocation's place covers `address`.
    pub fn covers(&self, address: Svma) -> bool {
        self.relocations
            .is_some_and(|relocations| relocations.covering(address).is_some())
    }
}
