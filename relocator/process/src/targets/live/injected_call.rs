//! Code that makes system calls for us in a thread of the process, and from which the thread finds its own way back.
//!
//! A thread that is made to execute a system call has its registers changed for it. If its tracer dies, nobody puts them
//! back. So the call is made by code of ours which, once it runs on, restores the signal mask and all registers that are not
//! preserved by a system call, from numbers that lie behind it, and goes on where the thread was. The tracer does not let it come
//! that far: it stops the thread where the system call ends. Flags are left alone, and so is the stack.

use elf_tools::Avma;
use elf_tools::reentry::Register;

use crate::targets::WORD;
use relocator::placement::PAGE;
use relocator::threads::{Memory, Registers};

/// Registers that a system call of ours takes or overwrites, in the order in which they are put back.
const RESTORED: [Register; 9] = [
    Register::RAX,
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register(10),
    Register(8),
    Register(9),
    Register::RCX,
    Register(11),
];

/// Registers that the arguments of a system call are in.
pub(super) const ARGUMENTS: [Register; 6] = [
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register(10),
    Register(8),
    Register(9),
];

/// `syscall`
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Bytes of the code, rounded up so that the numbers behind it are aligned.
const CODE: usize = 104;

/// Bytes of code and numbers.
pub(super) const SIZE: usize = CODE + 8 * (RESTORED.len() + 3);

/// Where it may begin: at a multiple of this.
const ALIGNMENT: usize = 16;

/// Where numbers are, behind the code: the program counter, the mask, and the registers.
const PC: usize = CODE;
const MASK: usize = CODE + 8;
const REGISTERS: usize = CODE + 16;

/// Where the address is that the trampoline is meant for, behind all other numbers. In a copy of a text that is not put in place
/// yet it is another than where it is.
const PLACE: usize = SIZE - 8;

/// A thread as it was when it was taken.
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
    let registers = settled(&thread.registers);
    let mut code = Code::default();
    code.add(&SYSCALL);
    // rt_sigprocmask(SIG_SETMASK, &mask, NULL, 8)
    code.add(&[0xb8, 14, 0, 0, 0, 0xbf, 2, 0, 0, 0]);
    code.add_with_operand(&[0x48, 0x8d, 0x35], MASK);
    code.add(&[0xba, 0, 0, 0, 0, 0x41, 0xba, 8, 0, 0, 0]);
    code.add(&SYSCALL);
    for (index, &register) in RESTORED.iter().enumerate() {
        // mov reg, [rip + distance]
        let number = encoding(register);
        let prefix = 0x48 | (number >> 3) << 2;
        code.add_with_operand(
            &[prefix, 0x8b, 0x05 | (number & 7) << 3],
            REGISTERS + 8 * index,
        );
    }
    // jmp [rip + distance]
    code.add_with_operand(&[0xff, 0x25], PC);
    code.put(PC, registers.pc.0);
    code.put(MASK, thread.mask);
    code.put(PLACE, place.0);
    for (index, register) in RESTORED.iter().enumerate() {
        code.put(REGISTERS + 8 * index, registers.general[register.index()]);
    }
    code.bytes
}

/// Takes away what tools have left that were killed, wherever it may begin: the code without the numbers is the same for all
/// threads. Only its first words may be there, where each is written on its own. What is left in a process may still be
/// executed, or be where a handler returns to.
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

/// Whether pages at `base` have a trampoline that is meant for another place: they are a copy that was never put in place.
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

/// What a thread goes on with that is in what a tool has left in its process that was killed: it would come there by itself if it ran.
/// `None` if it is somewhere else.
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

/// Whether bytes are the first words of the code, or all of it, and zeros as far as there are more words of code.
fn is_left(place: &[u8], code: &[u8; SIZE]) -> bool {
    let same = place[..CODE].iter().zip(code).take_while(|(a, b)| a == b);
    let words = same.count() / WORD;
    words > 0 && place[words * WORD..].iter().all(|&byte| byte == 0) || words == CODE / WORD
}

/// What a thread goes on with if nobody tells the kernel to repeat the system call that it was interrupted in: it executes
/// the instruction again, as the kernel would have it do.
fn settled(registers: &Registers) -> Registers {
    /// `restart_syscall`, for calls that know how far they have come.
    const RESTART: u64 = 219;
    /// `ERESTART_RESTARTBLOCK`
    const BY_BLOCK: u64 = -516i64 as u64;
    let mut settled = *registers;
    if registers.repeats_system_call() {
        let rax = &mut settled.general[Register::RAX.index()];
        *rax = match *rax {
            BY_BLOCK => RESTART,
            _ => registers.system_call.cast_unsigned(),
        };
        settled.pc = settled.pc.offset(-(SYSCALL.len() as i64));
    }
    settled.system_call = -1;
    settled
}

/// The registers of a thread that is about to make a system call from the code at `at`.
pub(super) fn calling(thread: &Interrupted, at: Avma, number: i64, arguments: &[u64]) -> Registers {
    let mut registers = thread.registers;
    registers.pc = at;
    registers.system_call = -1;
    registers.general[Register::RAX.index()] = number.cast_unsigned();
    for (register, &argument) in ARGUMENTS.iter().zip(arguments) {
        registers.general[register.index()] = argument;
    }
    registers
}

/// The number of a register in instructions.
fn encoding(register: Register) -> u8 {
    // DWARF's numbers, which `Register` has, differ in the first eight.
    const LOW: [u8; 8] = [0, 2, 1, 3, 6, 7, 5, 4];
    let index = register.index();
    LOW.get(index).copied().unwrap_or(index as u8)
}

/// Bytes that are being written.
struct Code {
    bytes: [u8; SIZE],
    end: usize,
}

impl Default for Code {
    fn default() -> Self {
        Self {
            // Nobody gets behind the jump.
            bytes: [0xcc; SIZE],
            end: 0,
        }
    }
}

impl Code {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes[self.end..][..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// An instruction that ends with the distance to `place`.
    fn add_with_operand(&mut self, bytes: &[u8], place: usize) {
        let end = self.end + bytes.len() + 4;
        let distance = (place - end) as u32;
        self.add(bytes);
        self.add(&distance.to_le_bytes());
    }

    fn put(&mut self, place: usize, number: u64) {
        self.bytes[place..][..8].copy_from_slice(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use iced_x86::{Code as Op, Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind};

    use super::*;

    const PLACED: Avma = Avma(0x7f55_0000_0f30);

    fn thread(system_call: i64, rax: i64) -> Interrupted {
        let mut general = std::array::from_fn(|index| 0x1111 * (index as u64 + 1));
        general[Register::RAX.index()] = rax as u64;
        let registers = Registers {
            general,
            pc: Avma(0x7f00_1234),
            system_call,
        };
        Interrupted {
            registers,
            mask: 0x5a5a,
        }
    }

    /// What the code loads, by register of the decoder, and where it goes.
    fn loads(code: &[u8; SIZE]) -> (BTreeMap<String, u64>, u64) {
        let number = |at: u64| u64::from_le_bytes(code[at as usize..][..8].try_into().unwrap());
        let mut found = BTreeMap::new();
        let mut calls = 0;
        let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
        loop {
            let instruction = decoder.decode();
            match instruction.code() {
                Op::Syscall => calls += 1,
                Op::Mov_r64_rm64 => {
                    let name = format!("{:?}", instruction.op0_register());
                    found.insert(name, number(instruction.ip_rel_memory_address()));
                }
                Op::Lea_r64_m => {
                    assert_eq!(number(instruction.ip_rel_memory_address()), 0x5a5a);
                }
                Op::Mov_r32_imm32 => {
                    assert!(calls == 1 && instruction.op1_kind() == OpKind::Immediate32)
                }
                _ => {
                    assert_eq!(instruction.mnemonic(), Mnemonic::Jmp);
                    assert_eq!(instruction.flow_control(), FlowControl::IndirectBranch);
                    assert_eq!(calls, 2);
                    return (found, number(instruction.ip_rel_memory_address()));
                }
            }
        }
    }

    fn named(registers: &Registers) -> BTreeMap<String, u64> {
        let value = |register: &Register| registers.general[register.index()];
        let names = RESTORED
            .iter()
            .map(|register| register.to_string().to_uppercase());
        names.zip(RESTORED.iter().map(value)).collect()
    }

    #[test]
    fn all_registers_are_put_back() {
        let thread = thread(-1, 77);
        let (found, pc) = loads(&code(&thread, PLACED));
        assert_eq!(found, named(&thread.registers));
        assert_eq!(pc, thread.registers.pc.0);
    }

    #[test]
    fn what_was_left_is_taken_away() {
        let whole = code(&thread(35, -512), PLACED);
        let start = 2 * ALIGNMENT;
        for words in 1..=SIZE / WORD {
            let mut left = vec![0; 2 * SIZE];
            left[start..][..words * WORD].copy_from_slice(&whole[..words * WORD]);
            erase(&mut left);
            assert_eq!(left, vec![0; 2 * SIZE], "{words}");
        }
        let mut other = vec![0x90; 2 * SIZE];
        other[start..][..CODE - WORD].copy_from_slice(&whole[..CODE - WORD]);
        let mut same = other.clone();
        erase(&mut same);
        assert_eq!(same, other);
        for size in [0, SIZE - 1] {
            let mut part = whole[..size].to_vec();
            erase(&mut part);
            assert_eq!(part, whole[..size]);
        }
    }

    #[test]
    fn copies_are_told_from_what_is_in_place() {
        let start = 3 * ALIGNMENT;
        let mut text = vec![0; 2 * SIZE];
        assert!(!is_displaced(&text, Avma(0x1000)));
        text[start..start + SIZE].copy_from_slice(&code(&thread(35, -512), PLACED));
        assert!(!is_displaced(&text, PLACED.offset(-(start as i64))));
        assert!(is_displaced(&text, Avma(0x1000)));
    }

    #[test]
    fn an_interrupted_system_call_is_made_again() {
        let at_call = 0x7f00_1232;
        for (result, number) in [(-512, 35), (-513, 35), (-514, 35), (-516, 219)] {
            let (found, pc) = loads(&code(&thread(35, result), PLACED));
            assert_eq!((found["RAX"], pc), (number, at_call), "{result}");
        }
        let (found, pc) = loads(&code(&thread(35, -4), PLACED));
        assert_eq!((found["RAX"], pc), (-4i64 as u64, 0x7f00_1234));
    }
}
