//! 64-bit x86, and what 32-bit x86 has in common with it.
//!
//! | module | is about |
//! |---|---|
//! | `decode` | instructions |
//! | `dataflow` | what they do to values |
//! | `register` | registers and the calling convention |
//! | `relocation` | relocation types |
//! | `alternatives` | what kernels patch at boot, and for which features |
//! | `processor` | what instructions need |
//! | `page_layouts` | where old kernels have the pages of the vvar |

mod alternatives;
mod dataflow;
mod decode;
mod page_layouts;
mod processor;
mod register;
mod relocation;

use object::elf;

use super::{Arch, Dataflow, Register, Registers, RelocationType};
use crate::Svma;
use crate::image::Image;
use crate::reachability::Code;
use crate::symtab::page_layouts::Placement;

pub use alternatives::feature;
pub(super) use alternatives::{alternatives, fill_with_no_operations};
pub(super) use decode::decode;
pub(super) use processor::NAMES as PROCESSOR_FEATURES;
pub(super) use register::REGISTER_COUNT;
pub use register::REGISTERS;

/// The instruction `syscall`.
pub const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];

/// 64-bit x86.
#[derive(Debug)]
pub(super) struct X86_64;

impl Arch for X86_64 {
    fn machine_number(&self) -> u16 {
        elf::EM_X86_64.0
    }

    fn registers(&self) -> &'static Registers {
        &REGISTERS
    }

    fn register(&self, number: u8) -> Register {
        register::register(number)
    }

    fn number(&self, register: Register) -> u8 {
        register::number(register)
    }

    fn relocation_types(&self) -> &'static [RelocationType] {
        relocation::TYPES
    }

    fn ignored_relocation(&self) -> u32 {
        relocation::NONE
    }

    fn is_system_call(&self, code: &[u8]) -> bool {
        code.starts_with(&SYSTEM_CALL)
    }

    fn frame_above_return_address(&self) -> i64 {
        8
    }

    fn data_references(&self, code: &[u8], at: Svma) -> Vec<(Svma, Svma)> {
        decode::data_references(code, at)
    }

    fn page_layouts(&self) -> Vec<Placement> {
        page_layouts::page_layouts()
    }

    fn clock_pages(&self) -> i64 {
        page_layouts::CLOCK_PAGES
    }

    fn dataflow<'a>(&self, image: &Image, code: &'a Code) -> Box<dyn Dataflow + 'a> {
        Box::new(dataflow::Instructions::new(image, code))
    }
}
