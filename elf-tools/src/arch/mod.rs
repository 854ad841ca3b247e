//! What the crate knows about instruction sets, and nothing else does.
//!
//! Everything outside of this folder speaks of program counters, stack pointers and operand fields.
//! Names of registers, encodings of instructions and numbers of relocation types are in the folder
//! of their architecture, behind two traits:
//!
//! | trait | answers |
//! |---|---|
//! | `Arch` | registers, relocation types, system calls, page layouts; how to get the other one |
//! | `Dataflow` | what the instructions of one image do to values |
//!
//! Two steps work for more images than those whose tables can be derived, and so do not ask an
//! `Arch`: `decode` and `alternatives`. An architecture is selected once an image; decoding is
//! monomorphic below that.

mod machine;
mod operand_field;
mod register;
pub mod x86_64;

use std::fmt;

use crate::derive::machine::{self as state, State};
use crate::derive::pool::Pool;
use crate::disassembly::Instruction;
use crate::image::Image;
use crate::image::alternatives::Alternative;
use crate::reachability::Code;
use crate::relocation::Kind;
use crate::symtab::page_layouts::Placement;
use crate::{Class, Error, Result, Svma};

pub use machine::Machine;
pub use operand_field::Width;
pub use register::{Register, Registers};
pub use x86_64::feature;

/// The instruction set that this program was built for.
pub const NATIVE: Machine = {
    #[cfg(target_arch = "x86_64")]
    const MACHINE: Machine = Machine::X86_64;
    #[cfg(target_arch = "aarch64")]
    const MACHINE: Machine = Machine::Aarch64;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const MACHINE: Machine = Machine::Other(0);
    MACHINE
};

/// The images that tables can be read, written and derived for, in words.
pub const SUPPORTED: &str = "64-bit x86-64";

/// The architecture that `docs/abi.md` specifies relocation types and register numbers for. It
/// gives them their names where a value does not say which image it is of.
pub(crate) const SPECIFIED: &dyn Arch = &x86_64::X86_64;

/// Whether tables can be read, written and derived for images of that kind.
pub fn is_supported(machine: Machine, class: Class) -> bool {
    of(machine, class).is_some()
}

/// Whether the code of images of that kind can be decoded, which is less than being supported.
pub fn is_decoded(machine: Machine) -> bool {
    matches!(machine, Machine::X86 | Machine::X86_64)
}

/// What the registers of images of that kind are for; `None` where the kind is not supported.
pub fn registers(machine: Machine, class: Class) -> Option<&'static Registers> {
    of(machine, class).map(Arch::registers)
}

/// The architecture of images of that kind, if it is supported.
pub(crate) fn of(machine: Machine, class: Class) -> Option<&'static dyn Arch> {
    match (machine, class) {
        (Machine::X86_64, Class::Elf64) => Some(&x86_64::X86_64),
        _ => None,
    }
}

/// The architecture of an image whose code is to be analysed.
pub(crate) fn of_image(image: &Image) -> Result<&'static dyn Arch> {
    let (machine, class) = (image.machine(), image.class());
    of(machine, class).ok_or_else(|| {
        let reason =
            format!("{machine} in {class:?}; the code of {SUPPORTED} images is understood");
        Error::unsupported("image", reason)
    })
}

/// The instructions of an image, by address: along the flow from `entries`, and what lies between.
pub(crate) fn decode(image: &Image, entries: &[Svma]) -> Result<Vec<Instruction>> {
    let bits = match image.machine() {
        Machine::X86_64 => 64,
        Machine::X86 => 32,
        other => {
            let reason = format!("{other}; only x86 code is decoded");
            return Err(Error::unsupported("instruction set", reason));
        }
    };
    Ok(x86_64::decode(image, bits, entries))
}

/// The boot-time alternatives of an image; empty where it has none.
pub(crate) fn alternatives(image: &Image) -> Result<Vec<Alternative>> {
    match image.machine() {
        Machine::X86 | Machine::X86_64 => x86_64::alternatives(image),
        _ => Ok(Vec::new()),
    }
}

/// The extensions of instruction sets, by the names that Linux prints. Code of one architecture
/// needs those of its own; the numbers of [`crate::processor::ProcessorFeatures`] are positions
/// here.
pub(crate) const PROCESSOR_FEATURES: &[&str] = &x86_64::PROCESSOR_FEATURES;

/// Fills code that is not needed any more with instructions that do nothing.
pub(crate) fn fill_with_no_operations(machine: Machine, gap: &mut [u8]) {
    match machine {
        Machine::X86 | Machine::X86_64 => x86_64::fill_with_no_operations(gap),
        // `alternatives` finds none there.
        _ => {}
    }
}

/// A relocation type of the architecture's psABI that relocation tables may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelocationType {
    /// What it calculates.
    pub(crate) kind: Kind,
    /// `r_type`.
    pub(crate) number: u32,
    /// The name in the psABI.
    pub(crate) name: &'static str,
}

/// What is fixed for all images of an architecture.
pub(crate) trait Arch: fmt::Debug + Sync {
    /// `e_machine`.
    fn machine_number(&self) -> u16;

    /// What registers are for.
    fn registers(&self) -> &'static Registers;

    /// The register that instructions encode as `number`.
    fn register(&self, number: u8) -> Register;

    /// How instructions encode a register.
    fn number(&self, register: Register) -> u8;

    /// The relocation types that tables may use.
    fn relocation_types(&self) -> &'static [RelocationType];

    /// The number of the relocation type that does nothing.
    fn ignored_relocation(&self) -> u32;

    /// Whether code begins with the instruction that makes a system call.
    fn is_system_call(&self, code: &[u8]) -> bool;

    /// Distance from the place of a return address to the canonical frame address.
    fn frame_above_return_address(&self) -> i64;

    /// Instructions in `code`, which is to lie at `at`, that refer to memory relative to the
    /// program counter, and where to.
    fn data_references(&self, code: &[u8], at: Svma) -> Vec<(Svma, Svma)>;

    /// The page layouts of kernels whose BTF does not state them.
    fn page_layouts(&self) -> Vec<Placement>;

    /// The number of hypervisors' clock pages between the pages that `enum vdso_pages` counts and
    /// the image.
    fn clock_pages(&self) -> i64;

    /// What the instructions of an image do to values.
    fn dataflow<'a>(&self, image: &Image, code: &'a Code) -> Box<dyn Dataflow + 'a>;
}

/// What the instructions of one image do. An index is that of an instruction in its [`Code`].
pub(crate) trait Dataflow {
    /// The number under which condition flags are kept.
    fn flags(&self) -> u8;

    /// The state at a function's entry.
    fn entry_state(&self, pool: &mut Pool) -> State;

    /// Applies the instruction of that index, but for where control goes.
    fn apply(&self, index: u32, machine: &mut state::Machine<'_>);

    /// What is known where the branch of that index is taken, and where it is not; `state` is that
    /// before it.
    fn learned(&self, index: u32, state: &State, pool: &Pool) -> state::Learned;

    /// The state after a return instruction has been applied; `to_caller` if it leaves the image.
    fn returned(&self, machine: state::Machine<'_>, to_caller: bool) -> State;

    /// The constant that the instruction of that index compares memory with, if it does.
    fn compared_with(&self, index: u32) -> Option<i64>;
}
