//! Calls and system calls in registers: the System V ABI of x86-64, and that of the kernel.

use elf_tools::Avma;
use relocator_process::tracing::UserRegisters;

/// What callee-saved registers hold when a call begins: `rbx`, `rbp`, `r12` to `r15`.
const SAVED: [u64; 6] = [
    0x0b5e_0001_5a7e_d001,
    0x0b5e_0002_5a7e_d002,
    0x0b5e_0003_5a7e_d003,
    0x0b5e_0004_5a7e_d004,
    0x0b5e_0005_5a7e_d005,
    0x0b5e_0006_5a7e_d006,
];

/// `rflags` at a call: nothing but what is always set, and interrupts.
const FLAGS: u64 = 0x202;

/// Bytes of a return address.
const ADDRESS: i64 = 8;

/// A call that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The stack pointer at the entry.
    pub(crate) stack: Avma,
    /// What the caller writes there: the return address.
    pub(crate) bytes: [u8; ADDRESS as usize],
}

/// Begins a call of `entry`, which returns to `back`. The caller's stack ends at `top`, which is a
/// multiple of 16.
pub(crate) fn begin_call(
    registers: &mut UserRegisters,
    (entry, back): (Avma, Avma),
    arguments: [u64; 6],
    top: Avma,
) -> Begun {
    let stack = top.offset(-ADDRESS);
    let user = &mut registers.0;
    let [first, second, third, fourth, fifth, sixth] = arguments;
    (user.rdi, user.rsi, user.rdx) = (first, second, third);
    (user.rcx, user.r8, user.r9) = (fourth, fifth, sixth);
    (user.rax, user.r10, user.r11) = (0x7a, 0x7b, 0x7c);
    [user.rbx, user.rbp, user.r12, user.r13, user.r14, user.r15] = SAVED;
    (user.rsp, user.eflags) = (stack.0, FLAGS);
    registers.set_pc(entry);
    Begun {
        stack,
        bytes: back.0.to_le_bytes(),
    }
}

/// Which rule of calls a function has broken that was entered with this stack pointer and has
/// returned, if any.
pub(crate) fn check_return(registers: &UserRegisters, stack: Avma) -> Result<(), String> {
    let user = &registers.0;
    let saved = [user.rbx, user.rbp, user.r12, user.r13, user.r14, user.r15];
    if saved != SAVED {
        return Err(format!("callee-saved registers were changed: {saved:#x?}"));
    }
    let expected = stack.offset(ADDRESS);
    if user.rsp != expected.0 {
        let off = user.rsp.wrapping_sub(expected.0).cast_signed();
        return Err(format!("the stack pointer is off by {off}"));
    }
    match registers.direction() {
        true => Err("the direction flag is set".to_owned()),
        false => Ok(()),
    }
}

/// What a function or a system call has returned.
pub(crate) fn result(registers: &UserRegisters) -> u64 {
    registers.0.rax
}

/// The stack pointer.
pub(crate) fn stack_pointer(registers: &UserRegisters) -> Avma {
    Avma(registers.0.rsp)
}

/// Puts a system call's number and arguments where its instruction takes them from.
pub(crate) fn set_system_call(registers: &mut UserRegisters, number: i64, arguments: [u64; 6]) {
    let user = &mut registers.0;
    user.rax = number.cast_unsigned();
    [user.rdi, user.rsi, user.rdx, user.r10, user.r8, user.r9] = arguments;
}

/// Makes a system call of what are the arguments of a function.
pub(crate) fn begin_system_call(registers: &mut UserRegisters, number: i64) {
    registers.0.rax = number.cast_unsigned();
    registers.0.r10 = registers.0.rcx;
}
