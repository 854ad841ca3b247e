//! Relocation tables of images that carry none, from their code.
//!
//! A stock vDSO was compiled for one layout of the vvar, and its code says so in constants: displacements and immediates
//! that add up to the address of a field. The derivation follows the values that registers may hold, remembers which
//! constants each address is made of, and states for every access which symbol it means. Nothing is guessed: what cannot
//! be told is stated as [`crate::relocation::Opaque`], with the reason, and costs the functions that reach it their own code.
//!
//! | module | does |
//! |---|---|
//! | `value`, `pool` | affine values with provenance; sets of them by number |
//! | `machine` | the abstract state: registers, what is saved on the stack |
//! | `x86_64` | what instructions do to it; another architecture is another module with another `Architecture` |
//! | `fixpoint` | control flow, callees as if inlined, until nothing new is found |
//! | `attribute` | addresses to symbols |
//! | `table` | accesses to relocations |
//! | `reentry` | states to recipes that put a thread back to the entry of its function |

mod attribute;
mod fixpoint;
mod machine;
mod pool;
pub(crate) mod reentry;
mod table;
mod value;
mod x86_64;

use crate::image::{Image, alternatives};
use crate::reachability::Code;
use crate::relocation::Relocations;
use crate::symtab::Symtab;
use crate::{Class, Error, Machine, Result, Svma};

use attribute::Vvar;
use fixpoint::Keep;
use machine::{Known, State};
use pool::Pool;
use table::Table;

/// What the analysis has to know about an instruction set.
trait Architecture {
    /// The number under which condition flags are kept.
    const FLAGS: u8;

    /// The state at a function's entry.
    fn entry_state(&self, pool: &mut Pool) -> State;

    /// Applies the instruction of that index, but for where control goes.
    fn apply(&self, index: u32, machine: &mut machine::Machine<'_>);

    /// What is known where the branch of that index is taken, and where it is not; `state` is that before it.
    fn learned(&self, index: u32, state: &State, pool: &Pool) -> Learned;

    /// The state after a return instruction has been applied; `to_caller` if it leaves the image.
    fn returned(&self, machine: machine::Machine<'_>, to_caller: bool) -> State;
}

/// What a branch says about the entry.
#[derive(Debug, Clone, Copy, Default)]
struct Learned {
    taken: Option<Known>,
    not_taken: Option<Known>,
}

/// What the code of an image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The relocation table.
    pub relocations: Relocations,
    /// Instructions that refer to the vvar and that no function reaches. They never run, so nothing depends on them.
    pub unreached: Vec<Svma>,
}

/// Derives the relocation table of `image` from its code, for the layout of its own kernel, `symtab`.
///
/// It makes no difference whether alternatives have been applied. Errors where the image is not a 64-bit x86-64 one,
/// where the table does not say how far the vvar is from the image, and where an alternative that was not applied
/// refers to the vvar.
pub fn derive(image: &Image, code: &Code, symtab: &Symtab) -> Result<Derivation> {
    check_architecture(image)?;
    let vvar = Vvar::of(symtab)?;
    check_alternatives(image, &vvar)?;
    let architecture = x86_64::X86_64::new(image, code);
    let leaders = fixpoint::leaders(code);
    let mut table = Table::new(image, code, &vvar);
    let mut steps_left = fixpoint::MAX_STEPS;
    for function in code.functions() {
        // Where control goes cannot be told, so nothing can; the linker knows by itself that it must not run.
        if function.indirect.is_none() {
            let analysis = fixpoint::analyse(
                &architecture,
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

/// Fails for an image whose code is not understood.
fn check_architecture(image: &Image) -> Result<()> {
    if (image.machine(), image.class()) == (Machine::X86_64, Class::Elf64) {
        return Ok(());
    }
    let reason = format!(
        "{} in {:?}; the code of 64-bit x86-64 images is understood",
        image.machine(),
        image.class()
    );
    Err(Error::unsupported("image", reason))
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

/// Code that a kernel patches in or out at boot must not depend on the vvar: the table describes what is in the image.
fn check_alternatives(image: &Image, vvar: &Vvar<'_>) -> Result<()> {
    for alternative in alternatives::read(image)? {
        // A replacement is linked for where it is put.
        for (bytes, at) in [
            (&alternative.original, alternative.original.start),
            (&alternative.replacement, alternative.original.start),
        ] {
            let bytes = &image.bytes()[bytes.start as usize..bytes.end as usize];
            let decoder = iced_x86::Decoder::with_ip(64, bytes, at, iced_x86::DecoderOptions::NONE);
            let refers = |instruction: &iced_x86::Instruction| {
                instruction.is_ip_rel_memory_operand()
                    && vvar.contains(instruction.ip_rel_memory_address() as i64)
            };
            if let Some(found) = decoder.into_iter().find(refers) {
                let reason = "an alternative refers to the vvar";
                return Err(Error::malformed("alternative", found.ip(), reason));
            }
        }
    }
    Ok(())
}
