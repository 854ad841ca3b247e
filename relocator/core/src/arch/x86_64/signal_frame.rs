//! What the kernel saves of a context that a signal interrupts.
//!
//! A frame is the address that the handler returns to, the `ucontext`, and the `siginfo`; the
//! floating point state follows. Layouts are those of
//! `arch/x86/include/uapi/asm/{ucontext,sigcontext}.h` and `arch/x86/include/asm/sigframe.h`, which
//! are ABI.

use std::mem::offset_of;
use std::ops::Range;

use elf_tools::Avma;
use elf_tools::reentry::Register;
use scroll::{LE, Pread, Pwrite};

use super::patch::ENDBR64;
use crate::threads::frames::Interrupted;
use crate::threads::{Memory, Registers, Write};

/// Bytes of a `ucontext` of the kernel. (That of libc is larger: it adds room for a floating point
/// state.)
pub(crate) const SIZE: usize = size_of::<Fields>();

/// The kernel aligns frames so that the `ucontext` is a multiple of this.
pub(crate) const ALIGNMENT: u64 = 16;

/// Offset of the segments, whose values are rare: by them a search knows where to look closer.
pub(crate) const MARK: usize = CONTEXT + offset_of!(Context, cs);

const CONTEXT: usize = offset_of!(Fields, context);
const GENERAL: usize = CONTEXT + offset_of!(Context, saved);

/// `struct ucontext`. No field has padding before it, so the compiler's layout is the ABI's.
#[derive(Debug, Clone, Copy, Pread)]
#[repr(C)]
struct Fields {
    flags: u64,
    /// For contexts that programs make themselves.
    link: u64,
    stack: Stack,
    context: Context,
    mask: u64,
}

/// `stack_t`: the alternate stack that was set when the signal came.
#[derive(Debug, Clone, Copy, Pread)]
#[repr(C)]
struct Stack {
    start: u64,
    flags: u32,
    /// The kernel does not write it.
    padding: u32,
    size: u64,
}

/// `struct sigcontext_64`
#[derive(Debug, Clone, Copy, Pread)]
#[repr(C)]
struct Context {
    saved: Saved,
    eflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    trap: u64,
    old_mask: u64,
    fault_address: u64,
    floating_point: u64,
    reserved: [u64; 8],
}

/// What a fix-up changes of a context.
#[derive(Debug, Clone, Copy, Pread, Pwrite)]
#[repr(C)]
struct Saved {
    /// In the order of [`ORDER`].
    general: [u64; 16],
    pc: u64,
}

/// The order in which the kernel saves general registers: `r8` to `r15`, `rdi`, `rsi`, `rbp`,
/// `rbx`, `rdx`, `rax`, `rcx`, `rsp`.
const ORDER: [Register; Register::COUNT] = [
    Register(8),
    Register(9),
    Register(10),
    Register(11),
    Register(12),
    Register(13),
    Register(14),
    Register(15),
    Register(5),
    Register(4),
    Register(6),
    Register(3),
    Register(1),
    Register(0),
    Register(2),
    Register(7),
];

/// `UC_FP_XSTATE`: the floating point state is extended.
const EXTENDED: u64 = 1;
/// `UC_SIGCONTEXT_SS`: `ss` is saved. Kernels before 4.6 left it out.
const HAS_SS: u64 = 2;
/// `UC_STRICT_RESTORE_SS`.
const STRICT_SS: u64 = 4;

/// `SS_ONSTACK` and `SS_DISABLE`, one of which may be set, and `SS_AUTODISARM`.
const STACK_MODES: [u32; 3] = [0, 1, 2];
const STACK_DISABLED: u32 = 2;
const AUTODISARM: u32 = 1 << 31;

/// `__USER_CS`, and what Xen puts there.
const CODE_SEGMENTS: [u16; 2] = [0x33, 0xe033];
/// `__USER_DS`, and what Xen puts there.
const STACK_SEGMENTS: [u16; 2] = [0x2b, 0xe02b];

/// Flags that are always set in user mode: the one that is not used, and interrupts.
const FLAGS_SET: u64 = 1 << 1 | 1 << 9;
/// Flags that a program can have: status, trap, direction, I/O privilege, nested task, resume,
/// alignment check, identification.
const FLAGS_KNOWN: u64 = 0x0025_7fd7;

/// User memory is below, with 5 levels of page tables too; without, it ends lower.
const USER_END: u64 = 1 << 56;

/// `X86_TRAP_*` and vectors of the processor are all less.
const TRAPS: u64 = 256;

/// Alignment of a saved floating point state.
const STATE_ALIGNMENT: u64 = 64;
/// Offset of `sw_reserved.magic1` and, behind it, `extended_size` in a floating point state.
const STATE_MAGIC: u64 = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// A legacy state and the header of an extended one; and more than any processor has.
const STATE_SIZES: Range<u32> = 576..1 << 20;

/// `mov rax, 15; syscall` and `mov eax, 15; syscall`: what a handler returns to is `rt_sigreturn`.
/// `endbr64` may be in front.
const RETURNS: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],
];
/// Whether bytes begin like the segments of a context.
pub(crate) fn is_mark(bytes: &[u8]) -> bool {
    let cs = bytes.first_chunk().map(|cs| u16::from_le_bytes(*cs));
    cs.is_some_and(|cs| CODE_SEGMENTS.contains(&cs))
}

/// A saved context that looks whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ucontext(Fields);

impl Ucontext {
    /// Reads the one at an address, if there is one.
    pub(crate) fn read(at: Avma, memory: &dyn Memory) -> Option<Self> {
        let mut bytes = [0; SIZE];
        if !memory.read(at, &mut bytes) {
            return None;
        }
        let found = Self(bytes.pread_with(0, LE).ok()?);
        let whole = found.has_plausible_fields()
            && found.has_plausible_state(at, memory)
            && returns_from_handler(at, memory);
        whole.then_some(found)
    }

    /// As a context that was interrupted in `text`, if it was.
    pub(crate) fn inside(&self, at: Avma, text: &Range<Avma>) -> Option<Interrupted> {
        let pc = Avma(self.0.context.saved.pc);
        text.contains(&pc).then(|| Interrupted {
            at,
            registers: self.registers(),
        })
    }

    /// The stack pointer of what was interrupted.
    pub(crate) fn stack_pointer(&self) -> Avma {
        self.registers().stack_pointer()
    }

    /// The alternate stack that was set when the signal came, if there was one.
    pub(crate) fn alternate_stack(&self) -> Option<Range<Avma>> {
        let Stack {
            start, flags, size, ..
        } = self.0.stack;
        let end = start.checked_add(size)?;
        let enabled = flags & STACK_DISABLED == 0;
        enabled.then_some(Avma(start)..Avma(end))
    }

    fn registers(&self) -> Registers {
        let saved = &self.0.context.saved;
        let mut general = [0; Register::COUNT];
        for (register, value) in ORDER.into_iter().zip(saved.general) {
            general[register.index()] = value;
        }
        Registers {
            general,
            pc: Avma(saved.pc),
            system_call: -1,
        }
    }

    /// What can be told from the fields alone.
    fn has_plausible_fields(&self) -> bool {
        let Fields {
            flags,
            link,
            stack,
            context,
            ..
        } = &self.0;
        flags & !(EXTENDED | HAS_SS | STRICT_SS) == 0
            && *link == 0
            && STACK_MODES.contains(&(stack.flags & !AUTODISARM))
            && is_user(self.stack_pointer().0)
            && is_user(context.saved.pc)
            && context.eflags & FLAGS_SET == FLAGS_SET
            && context.eflags & !FLAGS_KNOWN == 0
            && CODE_SEGMENTS.contains(&context.cs)
            && (flags & HAS_SS == 0 || STACK_SEGMENTS.contains(&context.ss))
            && context.trap < TRAPS
    }

    /// Whether the floating point state is where the kernel puts it. A handler may ask for none at
    /// all; one that cannot be read says nothing.
    fn has_plausible_state(&self, at: Avma, memory: &dyn Memory) -> bool {
        let state = self.0.context.floating_point;
        if state == 0 {
            return true;
        }
        let above = state.checked_sub(at.0).is_some_and(|d| d >= SIZE as u64);
        if !above || !state.is_multiple_of(STATE_ALIGNMENT) || !is_user(state) {
            return false;
        }
        let extended = self.0.flags & EXTENDED != 0;
        match halves(Avma(state + STATE_MAGIC), memory) {
            Some([magic, size]) if extended => {
                magic == MAGIC1 && STATE_SIZES.contains(&size) && ends(state, size, memory)
            }
            _ => true,
        }
    }
}

/// What puts general registers and the program counter into the `ucontext` at an address.
pub(crate) fn write(at: Avma, registers: &Registers) -> Write {
    let saved = Saved {
        general: ORDER.map(|register| registers.general[register.index()]),
        pc: registers.pc.0,
    };
    let mut bytes = vec![0; size_of::<Saved>()];
    // The buffer is as long as the fields.
    let _ = bytes.pwrite_with(saved, 0, LE);
    Write {
        at: at.offset(GENERAL as i64),
        bytes,
    }
}

/// The first page is never mapped.
fn is_user(address: u64) -> bool {
    (0x1000..USER_END).contains(&address)
}

/// Whether an extended state of `size` bytes has the second magic number behind it, as far as that
/// can be read.
fn ends(state: u64, size: u32, memory: &dyn Memory) -> bool {
    // `extended_size` counts the magic number.
    let mut magic = [0; 4];
    let at = Avma(state + u64::from(size) - 4);
    !memory.read(at, &mut magic) || u32::from_le_bytes(magic) == MAGIC2
}

/// Whether the handler returns to `rt_sigreturn`, as far as that can be read: code of files is not
/// part of a checkpoint.
///
/// When the handler has returned, its return address is below the stack pointer, and still there.
fn returns_from_handler(at: Avma, memory: &dyn Memory) -> bool {
    let Some(target) = at.0.checked_sub(8) else {
        return false;
    };
    let mut bytes = [0; 8];
    if !memory.read(Avma(target), &mut bytes) {
        return true;
    }
    let target = u64::from_le_bytes(bytes);
    is_user(target) && is_return(Avma(target), memory)
}

fn is_return(target: Avma, memory: &dyn Memory) -> bool {
    let mut start = [0; ENDBR64.len()];
    let marked = memory.read(target, &mut start) && start == ENDBR64;
    let code = target.offset(if marked { ENDBR64.len() as i64 } else { 0 });
    let mut readable = false;
    for wanted in RETURNS {
        let mut bytes = vec![0; wanted.len()];
        if memory.read(code, &mut bytes) {
            readable = true;
            if bytes == wanted {
                return true;
            }
        }
    }
    !readable
}

/// Two numbers of 4 bytes.
fn halves(at: Avma, memory: &dyn Memory) -> Option<[u32; 2]> {
    let mut bytes = [0; 8];
    let read = memory.read(at, &mut bytes);
    read.then(|| bytes.pread_with(0, LE).ok()).flatten()
}
