//! What the linker knows of architectures. No other module names one, nor any of its instructions
//! or registers.
//!
//! An architecture is a folder. It brings:
//!
//! | file | has |
//! |---|---|
//! | `patch` | jumps, landing pads, code that makes a system call |
//! | `operand` | storing a constant of an instruction, with a check that nothing else changes |
//! | `detour` | encoding instructions for another place |
//! | `frame` | where frames are at entries of functions |
//! | `kernel` | which functions the kernel knows by address, page size, end of the address space |
//! | `criu` | the code with which CRIU overwrites entries |
//! | `registers` | the registers of a thread, and what a return does to them |
//! | `signal_frame` | what the kernel saves of a context that a signal interrupts |
//!
//! What concerns images is behind [`Arch`], which the machine of an image selects once. What
//! concerns threads has the shape of the architecture's registers, so the compiler selects it:
//! [`native`].

pub(crate) mod x86_64;

use elf_tools::disassembly::Instruction;
use elf_tools::{Avma, Class, Machine, Svma};

use crate::Result;
use crate::link::constant::Part;
use crate::proxy::SystemCall;
use crate::unwind::rules::Convention;

pub(crate) use x86_64 as native;

/// The images that the linker can link, in words.
pub(crate) const SUPPORTED: &str = "64-bit x86-64";

/// The architecture of threads.
pub(crate) const NATIVE: &dyn Arch = &native::ARCH;

/// The architecture of images of that kind, if the linker knows it.
pub(crate) fn of(machine: Machine, class: Class) -> Option<&'static dyn Arch> {
    match (machine, class) {
        (Machine::X86_64, Class::Elf64) => Some(&x86_64::ARCH),
        _ => None,
    }
}

/// A new value for a constant of an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// The instruction.
    pub(crate) address: Svma,
    /// Which of its constants.
    pub(crate) part: Part,
    /// Where the constant is stored.
    pub(crate) place: Svma,
    /// In how many bytes.
    pub(crate) width: usize,
    /// The value.
    pub(crate) value: i64,
}

/// Instructions that are to be moved, and constants of them that become longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    /// The instructions, one behind the other.
    pub(crate) instructions: &'a [Instruction],
    /// Constants that take any value: address of the instruction, which of its constants, value.
    pub(crate) long: &'a [(Svma, Part, i64)],
}

/// Instructions, encoded for another place.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The code.
    pub(crate) code: Vec<u8>,
    /// For each instruction where it is.
    pub(crate) places: Vec<Svma>,
}

/// What linking an image takes.
pub(crate) trait Arch: Sync {
    /// Bytes at the beginning of `code` that must stay there: an indirect call may require them.
    fn landing_pad(&self, code: &[u8]) -> &'static [u8];

    /// The shortest jump that leads from `at` to `target`, through registers that calls may change.
    fn jump(&self, at: Avma, target: Avma) -> Vec<u8>;

    /// The number of a system call.
    fn system_call_number(&self, name: &str) -> Option<u32>;

    /// Code for an entry that makes a system call and returns what it returns.
    fn plain_system_call(&self, number: u32) -> [u8; 8];

    /// The same for the system call behind a function with one argument more, the fifth, which
    /// asks for the size of the function's state where it is -1. The stub fails then, with `error`.
    fn guarded_system_call(&self, number: u32, error: i32) -> Vec<u8>;

    /// Code for an entry that returns an error.
    fn fail(&self, error: i32) -> [u8; 8];

    /// Whether the kernel or the processor returns to the function by address: it stays where it
    /// is.
    fn is_return_address(&self, name: &str) -> bool;

    /// Whether the kernel treats the function specially by its place in its own vDSO.
    fn is_kernel_recognised(&self, name: &str) -> bool;

    /// Stores constants, and checks that the instructions are the same but for those. `changes` is
    /// in the order of addresses.
    fn store(&self, changes: &[Change], bytes: &mut [u8]) -> Result<()>;

    /// Whether the constant of an instruction can be made so long that it takes any value.
    fn can_lengthen(&self, bytes: &[u8], address: Svma, part: Part) -> bool;

    /// Whether an instruction may be moved: no thread comes back to it or to the place behind it,
    /// and it does the same elsewhere.
    fn can_move(&self, instruction: &Instruction, bytes: &[u8]) -> bool;

    /// Size in bytes of [`Arch::near_jump`].
    fn near_jump_size(&self) -> usize;

    /// A jump of that size within an image.
    fn near_jump(&self, from: Svma, to: Svma) -> Result<Vec<u8>>;

    /// Whether the instruction at `from` jumps to `to`, whatever else happens.
    fn leads(&self, bytes: &[u8], from: Svma, to: Svma) -> bool;

    /// Encodes instructions of an image for the place `to`, and checks that they do the same there.
    fn encode(&self, run: &Run<'_>, bytes: &[u8], to: Svma) -> Result<Encoded>;

    /// What call frame programs begin with.
    fn convention(&self) -> Convention;

    /// A byte that stops what executes it.
    fn trap(&self) -> u8;
}

/// The error of functions that a kernel does not support.
pub(crate) const ENOSYS: i32 = 38;

/// The code that makes this system call for a function of this name.
///
/// `getrandom` has two more arguments than its system call. With an `opaque_len` of -1 a program
/// asks for the size of its state, which no system call answers: the stub then fails with `ENOSYS`,
/// as the vDSO does where the kernel does not support it.
pub(crate) fn system_call_stub(arch: &dyn Arch, call: SystemCall) -> Vec<u8> {
    match call.name {
        "getrandom" => arch.guarded_system_call(call.number, ENOSYS),
        _ => arch.plain_system_call(call.number).to_vec(),
    }
}

/// The bytes that overwrite the function at `entry`, which begins with `code`, by a jump to
/// `target`.
pub(crate) fn jump_patch(arch: &dyn Arch, entry: Avma, code: &[u8], target: Avma) -> Vec<u8> {
    let pad = arch.landing_pad(code);
    let jump = arch.jump(entry.offset(pad.len() as i64), target);
    [pad, &jump].concat()
}

/// The bytes that overwrite a function which begins with `code` by a system call.
pub(crate) fn system_call_patch(arch: &dyn Arch, code: &[u8], call: SystemCall) -> Vec<u8> {
    [arch.landing_pad(code), &system_call_stub(arch, call)].concat()
}
