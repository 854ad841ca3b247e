//! `core-*.img`: a thread, by CRIU's `core.proto` and `core-x86.proto`.

use elf_tools::Avma;
use elf_tools::reentry::Register;
use relocator::threads::Registers;

use crate::messages::{TaskCore, ThreadCore};

/// `core_entry`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Core {
    #[prost(int32, optional, tag = "1")]
    pub(crate) machine: Option<i32>,
    #[prost(message, optional, tag = "2")]
    native: Option<ThreadInfo>,
    #[prost(message, optional, tag = "3")]
    pub(crate) task: Option<TaskCore>,
    #[prost(message, optional, tag = "5")]
    pub(crate) thread: Option<ThreadCore>,
}

/// `thread_info_x86`
#[derive(Clone, PartialEq, prost::Message)]
struct ThreadInfo {
    #[prost(message, optional, tag = "2")]
    registers: Option<UserRegisters>,
}

/// `user_x86_regs_entry`: those that the linker reads, and the mode.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct UserRegisters {
    #[prost(uint64, optional, tag = "1")]
    r15: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    r14: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    r13: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    r12: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    rbp: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    rbx: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    r11: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    r10: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    r9: Option<u64>,
    #[prost(uint64, optional, tag = "10")]
    r8: Option<u64>,
    #[prost(uint64, optional, tag = "11")]
    rax: Option<u64>,
    #[prost(uint64, optional, tag = "12")]
    rcx: Option<u64>,
    #[prost(uint64, optional, tag = "13")]
    rdx: Option<u64>,
    #[prost(uint64, optional, tag = "14")]
    rsi: Option<u64>,
    #[prost(uint64, optional, tag = "15")]
    rdi: Option<u64>,
    #[prost(uint64, optional, tag = "16")]
    orig_rax: Option<u64>,
    #[prost(uint64, optional, tag = "17")]
    rip: Option<u64>,
    #[prost(uint64, optional, tag = "18")]
    cs: Option<u64>,
    #[prost(uint64, optional, tag = "20")]
    rsp: Option<u64>,
    #[prost(int32, optional, tag = "28")]
    mode: Option<i32>,
}

/// `COMPAT` of `user_x86_regs_mode`.
const COMPATIBLE: i32 = 2;

/// The code segment of 64-bit programs: `__USER_CS` of `asm/segment.h`.
const CODE_SEGMENT: u64 = 0x33;

impl Core {
    /// The registers; `None` if there are none, or not all.
    pub(crate) fn registers(&self) -> Option<Registers> {
        let it = self.native.as_ref()?.registers.as_ref()?;
        let general: [Option<u64>; Register::COUNT] = [
            it.rax, it.rdx, it.rcx, it.rbx, it.rsi, it.rdi, it.rbp, it.rsp, it.r8, it.r9, it.r10,
            it.r11, it.r12, it.r13, it.r14, it.r15,
        ];
        let mut values = [0; Register::COUNT];
        for (value, register) in values.iter_mut().zip(general) {
            *value = register?;
        }
        Some(Registers {
            general: values,
            pc: Avma(it.rip?),
            system_call: it.orig_rax?.cast_signed(),
        })
    }

    /// The core of a thread with these registers, for tests.
    #[cfg(test)]
    pub(crate) fn of(registers: &Registers) -> Self {
        let mut general = registers.general.into_iter().map(Some);
        let mut next = || general.next().flatten();
        let registers = UserRegisters {
            rax: next(),
            rdx: next(),
            rcx: next(),
            rbx: next(),
            rsi: next(),
            rdi: next(),
            rbp: next(),
            rsp: next(),
            r8: next(),
            r9: next(),
            r10: next(),
            r11: next(),
            r12: next(),
            r13: next(),
            r14: next(),
            r15: next(),
            orig_rax: Some(registers.system_call.cast_unsigned()),
            rip: Some(registers.pc.0),
            cs: Some(CODE_SEGMENT),
            mode: None,
        };
        Self {
            machine: Some(super::MACHINE),
            native: Some(ThreadInfo {
                registers: Some(registers),
            }),
            task: None,
            thread: None,
        }
    }

    /// Whether the thread executes code of another mode than the kernel gives to 64-bit programs.
    pub(crate) fn executes_other_code(&self) -> bool {
        let registers = self.native.as_ref().and_then(|info| info.registers);
        registers.is_some_and(|it| {
            it.mode == Some(COMPATIBLE) || it.cs.is_some_and(|cs| cs != CODE_SEGMENT)
        })
    }
}
