//! The registers of a thread, whole, and as [`relocator::threads`] knows them.

use elf_tools::Avma;
use elf_tools::reentry::Register;
use nix::libc::user_regs_struct;

use relocator::threads::Registers;

/// All registers of a thread but those of the extended state, as the kernel hands them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRegisters(pub user_regs_struct);

/// The direction flag in `rflags`: strings are walked backwards.
const DIRECTION: u64 = 1 << 10;

impl UserRegisters {
    /// The instruction that is executed next.
    pub fn pc(&self) -> Avma {
        Avma(self.0.rip)
    }

    /// Goes on at `pc`. The kernel does not repeat a system call that the thread has just returned
    /// from.
    pub fn set_pc(&mut self, pc: Avma) {
        self.0.rip = pc.0;
        self.0.orig_rax = u64::MAX;
    }

    /// Whether the direction flag is set, which no function may leave so.
    pub fn direction(&self) -> bool {
        self.0.eflags & DIRECTION != 0
    }

    /// What shows that it executes code of another mode than the kernel gives to 64-bit programs,
    /// if it does.
    pub(crate) fn other_code(&self) -> Option<String> {
        /// The code segment of 64-bit programs: `__USER_CS` of `asm/segment.h`.
        const CODE_SEGMENT: u64 = 0x33;
        match self.0.cs {
            CODE_SEGMENT => None,
            other => Some(format!("is in code segment {other:#x}")),
        }
    }

    /// Those that [`relocator::threads`] reads.
    pub fn registers(&self) -> Registers {
        let mut general = [0; Register::COUNT];
        let mut copy = *self;
        for (value, register) in general.iter_mut().zip(copy.general()) {
            *value = *register;
        }
        Registers {
            general,
            pc: self.pc(),
            system_call: self.0.orig_rax.cast_signed(),
        }
    }

    /// The same thread with these.
    #[must_use]
    pub fn with(mut self, registers: &Registers) -> Self {
        for (register, value) in self.general().into_iter().zip(registers.general) {
            *register = value;
        }
        self.0.rip = registers.pc.0;
        self.0.orig_rax = registers.system_call.cast_unsigned();
        self
    }

    /// By [`Register::index`].
    fn general(&mut self) -> [&mut u64; Register::COUNT] {
        let it = &mut self.0;
        [
            &mut it.rax,
            &mut it.rdx,
            &mut it.rcx,
            &mut it.rbx,
            &mut it.rsi,
            &mut it.rdi,
            &mut it.rbp,
            &mut it.rsp,
            &mut it.r8,
            &mut it.r9,
            &mut it.r10,
            &mut it.r11,
            &mut it.r12,
            &mut it.r13,
            &mut it.r14,
            &mut it.r15,
        ]
    }
}
