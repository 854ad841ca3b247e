//! 64-bit x86.

pub(crate) mod criu;
mod detour;
mod frame;
mod kernel;
mod operand;
mod patch;
mod registers;
pub(crate) mod signal_frame;

use elf_tools::disassembly::Instruction;
use elf_tools::{Avma, Svma};

use super::{Arch, Change, Encoded, Run};
use crate::Result;
use crate::link::constant::Part;
use crate::unwind::rules::Convention;

pub use kernel::{END, PAGE};
pub use registers::Registers;
pub(crate) use registers::{STACK_POINTER, SYSTEM_CALL_SIZE, is_return};

/// The architecture.
pub(crate) const ARCH: X86_64 = X86_64;

/// The architecture.
#[derive(Debug)]
pub(crate) struct X86_64;

impl Arch for X86_64 {
    fn landing_pad(&self, code: &[u8]) -> &'static [u8] {
        patch::landing_pad(code)
    }

    fn jump(&self, at: Avma, target: Avma) -> Vec<u8> {
        patch::jump(at, target)
    }

    fn system_call_number(&self, name: &str) -> Option<u32> {
        kernel::system_call_number(name)
    }

    fn plain_system_call(&self, number: u32) -> [u8; 8] {
        patch::plain_system_call(number)
    }

    fn guarded_system_call(&self, number: u32, error: i32) -> Vec<u8> {
        patch::guarded_system_call(number, error)
    }

    fn fail(&self, error: i32) -> [u8; 8] {
        patch::fail(error)
    }

    fn is_return_address(&self, name: &str) -> bool {
        kernel::is_return_address(name)
    }

    fn is_kernel_recognised(&self, name: &str) -> bool {
        kernel::is_kernel_recognised(name)
    }

    fn store(&self, changes: &[Change], bytes: &mut [u8]) -> Result<()> {
        operand::store(changes, bytes)
    }

    fn can_lengthen(&self, bytes: &[u8], address: Svma, part: Part) -> bool {
        detour::can_lengthen(bytes, address, part)
    }

    fn can_move(&self, instruction: &Instruction, bytes: &[u8]) -> bool {
        detour::can_move(instruction, bytes)
    }

    fn near_jump_size(&self) -> usize {
        detour::JUMP
    }

    fn near_jump(&self, from: Svma, to: Svma) -> Result<Vec<u8>> {
        detour::jump(from, to)
    }

    fn leads(&self, bytes: &[u8], from: Svma, to: Svma) -> bool {
        detour::leads(bytes, from, to)
    }

    fn encode(&self, run: &Run<'_>, bytes: &[u8], to: Svma) -> Result<Encoded> {
        detour::encode(run, bytes, to)
    }

    fn convention(&self) -> Convention {
        frame::convention()
    }

    fn trap(&self) -> u8 {
        patch::TRAP
    }
}
