//! The code of an injected call (`targets::live::injected_call` lays it out), and the registers of
//! system calls.

use elf_tools::reentry::Register;

use relocator::threads::Registers;

/// Registers that a system call takes or overwrites, in the order in which the code puts them back.
pub(crate) const RESTORED: [Register; 9] = [
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
const ARGUMENTS: [Register; 6] = [
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
pub(crate) const SIZE: usize = 104;

/// Where the numbers are that the code reads, from its first byte on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    /// The program counter that it goes on at.
    pub(crate) pc: usize,
    /// The signal mask.
    pub(crate) mask: usize,
    /// The first of [`RESTORED`].
    pub(crate) registers: usize,
}

/// The code: it makes a system call, sets the signal mask, loads [`RESTORED`], and goes on. It does
/// its work wherever it is.
pub(crate) fn code(numbers: Numbers) -> [u8; SIZE] {
    let mut code = Code::default();
    code.add(&SYSCALL);
    // rt_sigprocmask(SIG_SETMASK, &mask, NULL, 8)
    code.add(&[0xb8, 14, 0, 0, 0, 0xbf, 2, 0, 0, 0]);
    code.add_with_operand(&[0x48, 0x8d, 0x35], numbers.mask);
    code.add(&[0xba, 0, 0, 0, 0, 0x41, 0xba, 8, 0, 0, 0]);
    code.add(&SYSCALL);
    for (index, &register) in RESTORED.iter().enumerate() {
        // mov reg, [rip + distance]
        let number = encoding(register);
        let prefix = 0x48 | (number >> 3) << 2;
        code.add_with_operand(
            &[prefix, 0x8b, 0x05 | (number & 7) << 3],
            numbers.registers + 8 * index,
        );
    }
    // jmp [rip + distance]
    code.add_with_operand(&[0xff, 0x25], numbers.pc);
    code.bytes
}

/// What a thread goes on with if no tracer tells the kernel to repeat the system call that it was
/// interrupted in: it executes the instruction again, as the kernel would have let it.
pub(crate) fn settled(registers: &Registers) -> Registers {
    /// `restart_syscall`, for calls that know how far they have come.
    const RESTART: u64 = 219;
    /// `ERESTART_RESTARTBLOCK`
    const BY_BLOCK: u64 = -516i64 as u64;
    let mut settled = *registers;
    if registers.repeats_system_call() {
        let number = &mut settled.general[Register::RAX.index()];
        *number = match *number {
            BY_BLOCK => RESTART,
            _ => registers.system_call.cast_unsigned(),
        };
        settled.pc = settled.pc.offset(-(SYSCALL.len() as i64));
    }
    settled.system_call = -1;
    settled
}

/// Sets the number and the arguments of a system call.
pub(crate) fn prepare(registers: &mut Registers, number: i64, arguments: &[u64]) {
    registers.system_call = -1;
    registers.general[Register::RAX.index()] = number.cast_unsigned();
    for (register, &argument) in ARGUMENTS.iter().zip(arguments) {
        registers.general[register.index()] = argument;
    }
}

/// What a system call has returned: an error is a small negative number.
pub(crate) fn result(registers: &Registers) -> i64 {
    registers.general[Register::RAX.index()].cast_signed()
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
            // No thread gets behind the jump: `int3`.
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
}
