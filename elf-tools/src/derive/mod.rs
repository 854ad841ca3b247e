//! Relocation tables of images that carry none, from their code.
//!
//! A stock vDSO was compiled for one layout of the vvar, and its code says so in constants:
//! displacements and immediates that add up to the address of a field. The derivation follows the
//! values that registers may hold, remembers which constants each address is made of, and states
//! for every access which symbol it means. It does not guess: it states what it cannot tell as
//! [`crate::relocation::Opaque`], with the reason, and functions that reach such an instruction
//! lose their own code.
//!
//! | module | does |
//! |---|---|
//! | `value`, `pool` | affine values with provenance; sets of them by number |
//! | `held` | which registers have not been written since a call |
//! | `machine` | the abstract state: registers, what is saved on the stack |
//! | [`crate::arch`] | what instructions do to it: a `Dataflow` for each architecture |
//! | `fixpoint` | control flow, callees as if inlined, until nothing new is found |
//! | `attribute` | addresses to symbols |
//! | `table` | accesses to relocations |
//! | `reentry` | states to recipes that put a thread back to the entry of its function |

mod attribute;
pub(crate) mod fixpoint;
mod held;
pub(crate) mod machine;
pub(crate) mod pool;
pub(crate) mod reentry;
mod table;
pub(crate) mod value;

use crate::arch::{self, Arch};
use crate::image::{Image, alternatives};
use crate::reachability::Code;
use crate::relocation::Relocations;
use crate::symtab::Symtab;
use crate::{Error, Result, Svma};

use attribute::Vvar;
use fixpoint::Keep;
use table::Table;

/// What the code of an image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The relocation table.
    pub relocations: Relocations,
    /// Instructions that refer to the vvar and that no function reaches. They never run, so nothing
    /// depends on them.
    pub unreached: Vec<Svma>,
}

/// Derives the relocation table of `image` from its code, for the layout of its own kernel,
/// `symtab`.
///
/// It makes no difference whether alternatives have been applied. Errors where the image's
/// architecture is not supported, where the table does not say how far the vvar is from the image,
/// and where an alternative that was not applied refers to the vvar.
pub fn derive(image: &Image, code: &Code, symtab: &Symtab) -> Result<Derivation> {
    let arch = arch::of_image(image)?;
    let vvar = Vvar::of(symtab)?;
    check_alternatives(arch, image, &vvar)?;
    let dataflow = arch.dataflow(image, code);
    let leaders = fixpoint::leaders(code);
    let mut table = Table::new(image, code, &vvar);
    let mut steps_left = fixpoint::MAX_STEPS;
    for function in code.functions() {
        // Where control goes cannot be told, so nothing can; the linker knows by itself that it
        // must not run.
        if function.indirect.is_none() {
            let analysis = fixpoint::analyse(
                &*dataflow,
                code,
                &leaders,
                function,
                Keep::Findings,
                &mut steps_left,
            );
            table.add(analysis);
        }
    }
    Ok(Derivation {
        relocations: table.finish(),
        unreached: unreached(code, &vvar),
    })
}

/// References to the vvar in instructions that no function reaches.
fn unreached(code: &Code, vvar: &Vvar<'_>) -> Vec<Svma> {
    let mut reached = vec![false; code.instructions().len()];
    for function in code.functions() {
        for &index in &function.reached {
            reached[index as usize] = true;
        }
    }
    code.instructions()
        .iter()
        .zip(reached)
        .filter(|(instruction, reached)| !reached && vvar.is_referred_to_by(instruction))
        .map(|(instruction, _)| instruction.address)
        .collect()
}

/// Code that a kernel patches in or out at boot must not depend on the vvar: the table describes
/// what is in the image.
fn check_alternatives(arch: &dyn Arch, image: &Image, vvar: &Vvar<'_>) -> Result<()> {
    for alternative in alternatives::read(image)? {
        // A replacement is linked for where it is put.
        let at = Svma(alternative.original.start);
        for bytes in [&alternative.original, &alternative.replacement] {
            let code = &image.bytes()[bytes.start as usize..bytes.end as usize];
            let mut references = arch.data_references(code, at).into_iter();
            if let Some((found, _)) = references.find(|(_, to)| vvar.contains(to.signed())) {
                let reason = "an alternative refers to the vvar";
                return Err(Error::malformed("alternative", found.0, reason));
            }
        }
    }
    Ok(())
}
