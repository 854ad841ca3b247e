//! Linking: an old image, a new kernel's symbols and a placement in; bytes and a report out.
//!
//! resolve (each need against the symbol table, defaults laid out) → encode (each relocation, range checked) → plan
//! (each function) → write. Nothing here reads or writes files or processes, so the same code serves a live process, a
//! checkpoint and a test.

mod defaults;
mod encode;
mod resolve;
#[allow(dead_code)]
mod solve;

use elf_tools::{Class, Machine};

use crate::placement::Placement;
use crate::plan::{self, FunctionPlan, Policy, Tables};
use crate::{Error, Result};

pub use crate::input::{New, Old};
use defaults::Defaults;
pub use resolve::Unresolved;

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
    if let Some(relocations) = &old.relocations {
        let mut defaults = Defaults::behind(placement.image, bytes.len());
        let resolved = resolve::all(&relocations.needs, new.symtab, placement, &mut defaults);
        failures = encode::all(relocations, &resolved, placement, &mut bytes);
        defaults.append_to(&mut bytes);
    }
    let tables = Tables {
        relocations: old.relocations.as_ref(),
        uses: old.uses.as_ref(),
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
