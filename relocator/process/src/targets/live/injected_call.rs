//! Injected calls: code that makes system calls for us in a thread of the process, and from which
//! the thread finds its own way back.
//!
//! To make a thread execute a system call, the tool changes its registers. If the tool dies, no
//! tracer restores them. So code of ours makes the call. If the thread runs on, that code restores
//! the signal mask and all registers that a system call does not preserve, from numbers that lie
//! behind the code, and jumps to where the thread was. The tracer never lets the thread come that
//! far: it stops the thread where the system call ends. The code leaves flags and the stack alone.

use elf_tools::Avma;
use elf_tools::reentry::Register;

use crate::arch::call::{self, Numbers, RESTORED};
use crate::targets::WORD;
use relocator::placement::PAGE;
use relocator::threads::{Memory, Registers};

/// Bytes of the code.
const CODE: usize = call::SIZE;

/// Bytes of code and numbers.
pub(super) const SIZE: usize = CODE + 8 * (RESTORED.len() + 3);

/// Where it may begin: at a multiple of this.
const ALIGNMENT: usize = 16;

/// Where numbers are, behind the code: the program counter, the mask, and the registers.
const PC: usize = CODE;
const MASK: usize = CODE + 8;
const REGISTERS: usize = CODE + 16;

/// Where the address is that the code is meant for, behind all other numbers. In a copy of a text
/// that is not in its place yet it is another than where it is.
const PLACE: usize = SIZE - 8;

/// A thread as it was when the tool took it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interrupted {
    /// Its registers.
    pub(super) registers: Registers,
    /// The signals that it has blocked.
    pub(super) mask: u64,
}

/// No thread, for what is the same for all.
const NOBODY: Interrupted = Interrupted {
    registers: Registers {
        general: [0; Register::COUNT],
        pc: Avma(0),
        system_call: -1,
    },
    mask: 0,
};

/// The code, for one thread, that is meant for `place`. It does its work wherever it is.
pub(super) fn code(thread: &Interrupted, place: Avma) -> [u8; SIZE] {
    let registers = call::settled(&thread.registers);
    let mut bytes = [0; SIZE];
    let numbers = Numbers {
        pc: PC,
        mask: MASK,
        registers: REGISTERS,
    };
    bytes[..CODE].copy_from_slice(&call::code(numbers));
    let mut put = |place: usize, number: u64| {
        bytes[place..][..8].copy_from_slice(&number.to_le_bytes());
    };
    put(PC, registers.pc.0);
    put(MASK, thread.mask);
    put(PLACE, place.0);
    for (index, register) in RESTORED.iter().enumerate() {
        put(REGISTERS + 8 * index, registers.general[register.index()]);
    }
    bytes
}

/// Erases what killed tools have left, wherever it begins: the code without the numbers is the same
/// for all threads. Only its first words may be there, where each is written on its own. What is
/// left in a process may still be executed, or be where a handler returns to.
pub(crate) fn erase(bytes: &mut [u8]) {
    let of_all = code(&NOBODY, Avma(0));
    let last = bytes.len().saturating_sub(SIZE);
    for start in (0..=last).step_by(ALIGNMENT) {
        let place = bytes.get_mut(start..start + SIZE);
        if let Some(place) = place.filter(|place| is_left(place, &of_all)) {
            place.fill(0);
        }
    }
}

/// Whether pages at `base` have code that is meant for another place: they are a copy that no tool
/// has put in place.
pub(crate) fn is_displaced(bytes: &[u8], base: Avma) -> bool {
    let of_all = code(&NOBODY, Avma(0));
    let mut places = bytes.windows(SIZE).zip(base.0..).step_by(ALIGNMENT);
    places.any(|(place, address)| {
        place[..CODE] == of_all[..CODE] && place[PLACE..] != address.to_le_bytes()
    })
}

/// Puts one for no thread at the end of pages that are meant for `base`.
#[cfg(test)]
pub(crate) fn put(bytes: &mut [u8], base: Avma) {
    let place = at_end_of(base.offset(bytes.len() as i64));
    let start = (place.0 - base.0) as usize;
    bytes[start..start + SIZE].copy_from_slice(&code(&NOBODY, place));
}

/// What a thread goes on with that is in the code of a killed tool: it would come there by itself
/// if it ran. `None` if it is somewhere else.
pub(super) fn led_back(registers: &Registers, memory: &dyn Memory) -> Option<Interrupted> {
    let page = registers.pc.0 & !(PAGE - 1);
    let start = at_end_of(Avma(page + PAGE));
    let inside = registers.pc.0.checked_sub(start.0)?;
    let mut bytes = [0; SIZE];
    if inside >= SIZE as u64 || !memory.read(start, &mut bytes) {
        return None;
    }
    let number = |place: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[place..place + 8]);
        u64::from_le_bytes(number)
    };
    if bytes[..CODE] != code(&NOBODY, start)[..CODE] || number(PLACE) != start.0 {
        return None;
    }
    let mut registers = *registers;
    for (index, register) in RESTORED.iter().enumerate() {
        registers.general[register.index()] = number(REGISTERS + 8 * index);
    }
    registers.pc = Avma(number(PC));
    registers.system_call = -1;
    Some(Interrupted {
        registers,
        mask: number(MASK),
    })
}

/// Where it begins if it is at the end of a page.
pub(super) fn at_end_of(page: Avma) -> Avma {
    Avma((page.0 - SIZE as u64) & !(ALIGNMENT as u64 - 1))
}

/// Whether bytes are the first words of the code, or all of it, and zeros as far as there are more
/// words of code.
fn is_left(place: &[u8], code: &[u8; SIZE]) -> bool {
    let same = place[..CODE].iter().zip(code).take_while(|(a, b)| a == b);
    let words = same.count() / WORD;
    words > 0 && place[words * WORD..].iter().all(|&byte| byte == 0) || words == CODE / WORD
}

/// The registers of a thread that is about to make a system call from the code at `at`.
pub(super) fn calling(thread: &Interrupted, at: Avma, number: i64, arguments: &[u64]) -> Registers {
    let mut registers = thread.registers;
    registers.pc = at;
    call::prepare(&mut registers, number, arguments);
    registers
}

#[cfg(test)]
mod tests;
