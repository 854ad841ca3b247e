//! The registers of a thread.

use elf_tools::Avma;
use elf_tools::reentry::Register;

/// `rsp`
pub(crate) const STACK_POINTER: Register = Register(7);

/// `rax`
const RESULT: Register = Register(0);

/// `rdi`, `rsi`, `rdx`, `rcx`, `r8`, `r9`
const ARGUMENTS: [Register; 6] = [
    Register(5),
    Register(4),
    Register(1),
    Register(2),
    Register(8),
    Register(9),
];

/// Length of `syscall`. A thread that is to repeat a system call is brought back by it.
pub(crate) const SYSTEM_CALL_SIZE: u64 = 2;

/// Whether code begins with `ret`.
pub(crate) fn is_return(code: &[u8]) -> bool {
    code.first() == Some(&0xc3)
}

/// The registers of a thread that was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// General registers, by [`Register::index`].
    pub general: [u64; Register::COUNT],
    /// The program counter: the instruction that is executed next.
    pub pc: Avma,
    /// The number of the system call that the thread is in or, if it is in none, -1. `ptrace` calls
    /// it `orig_rax`.
    pub system_call: i64,
}

impl Registers {
    /// The stack pointer.
    pub fn stack_pointer(&self) -> Avma {
        Avma(self.general[STACK_POINTER.index()])
    }

    /// Sets the stack pointer.
    pub fn set_stack_pointer(&mut self, to: Avma) {
        self.general[STACK_POINTER.index()] = to.0;
    }

    /// What a function or a system call has returned.
    pub fn result(&self) -> u64 {
        self.general[RESULT.index()]
    }

    /// An argument of a function, by number from 0 on, if it is in a register.
    pub fn argument(&self, number: usize) -> Option<u64> {
        let register = ARGUMENTS.get(number)?;
        Some(self.general[register.index()])
    }

    /// Where the thread's return address is in memory when it is at a return instruction.
    pub(crate) fn return_address(&self) -> Avma {
        self.stack_pointer()
    }

    /// What a return to `target` makes of the registers.
    pub(crate) fn return_to(&mut self, target: Avma) {
        self.pc = target;
        self.set_stack_pointer(Avma(self.stack_pointer().0.wrapping_add(8)));
    }
}
