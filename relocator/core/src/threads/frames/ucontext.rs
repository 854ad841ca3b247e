//! What the kernel saves of a context that a signal interrupts, on x86-64.
//!
//! A frame is the address that the handler returns to, the `ucontext`, and the `siginfo`; the floating point state follows.
//! Layouts are those of `arch/x86/include/uapi/asm/{ucontext,sigcontext}.h` and `arch/x86/include/asm/sigframe.h`, which are
//! ABI.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::reentry::Register;

use super::super::{Memory, Registers, Write};
use super::Interrupted;

/// Bytes of a `ucontext` of the kernel. (That of libc is larger: it adds room for a floating point state.)
pub(super) const SIZE: usize = 304;

/// The kernel aligns frames so that the `ucontext` is a multiple of this.
pub(super) const ALIGNMENT: u64 = 16;

/// Offset of `cs`, followed by `gs`, `fs` and `ss` of 2 bytes each.
pub(super) const SEGMENTS: usize = 184;

const FLAGS: usize = 0;
const LINK: usize = 8;
const STACK_START: usize = 16;
const STACK_FLAGS: usize = 24;
const STACK_SIZE: usize = 32;
const GENERAL: usize = 40;
const PC: usize = 168;
const EFLAGS: usize = 176;
const SS: usize = SEGMENTS + 6;
const TRAP: usize = 200;
const FLOATING_POINT: usize = 224;

/// The order in which general registers are saved, at [`GENERAL`]. The program counter follows.
const ORDER: [Register; Register::COUNT] = [
    Register(8),
    Register(9),
    Register(10),
    Register(11),
    Register(12),
    Register(13),
    Register(14),
    Register(15),
    Register::RDI,
    Register::RSI,
    Register::RBP,
    Register::RBX,
    Register::RDX,
    Register::RAX,
    Register::RCX,
    Register::RSP,
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
/// Flags that a program can have: status, trap, direction, I/O privilege, nested task, resume, alignment check,
/// identification.
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
const RETURNS: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05],
    &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05],
];
/// `endbr64`, which may be in front of it.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// Whether bytes begin like the segments of a context.
pub(super) fn is_code_segment(bytes: &[u8]) -> bool {
    let cs = bytes.first_chunk().map(|cs| u16::from_le_bytes(*cs));
    cs.is_some_and(|cs| CODE_SEGMENTS.contains(&cs))
}

/// A saved context that looks whole.
#[derive(Debug, Clone)]
pub(super) struct Ucontext {
    bytes: [u8; SIZE],
}

impl Ucontext {
    /// Reads the one at an address, if there is one.
    pub(super) fn read(at: Avma, memory: &dyn Memory) -> Option<Self> {
        let mut found = Self { bytes: [0; SIZE] };
        let whole = memory.read(at, &mut found.bytes)
            && found.has_plausible_words()
            && found.has_plausible_state(at, memory)
            && returns_from_handler(at, memory);
        whole.then_some(found)
    }

    /// As a context that was interrupted in `text`, if it was.
    pub(super) fn inside(&self, at: Avma, text: &Range<Avma>) -> Option<Interrupted> {
        let registers = self.registers();
        text.contains(&registers.pc)
            .then_some(Interrupted { at, registers })
    }

    /// The stack pointer of what was interrupted.
    pub(super) fn stack_pointer(&self) -> Avma {
        Avma(self.registers().general[Register::RSP.index()])
    }

    /// Where the alternate stack ends that was set when the signal came, if this frame is on it.
    pub(super) fn alternate_end(&self, at: Avma) -> Option<Avma> {
        let start = self.word(STACK_START);
        let end = start.checked_add(self.word(STACK_SIZE))?;
        let enabled = self.stack_flags() & STACK_DISABLED == 0;
        (enabled && (start..end).contains(&at.0)).then_some(Avma(end))
    }

    fn registers(&self) -> Registers {
        let mut general = [0; Register::COUNT];
        for (index, register) in ORDER.into_iter().enumerate() {
            general[register.index()] = self.word(GENERAL + 8 * index);
        }
        Registers {
            general,
            pc: Avma(self.word(PC)),
            system_call: -1,
        }
    }

    /// What can be told from the bytes alone. `uc_link` is for contexts that programs make themselves.
    fn has_plausible_words(&self) -> bool {
        let flags = self.word(FLAGS);
        let eflags = self.word(EFLAGS);
        flags & !(EXTENDED | HAS_SS | STRICT_SS) == 0
            && self.word(LINK) == 0
            && STACK_MODES.contains(&(self.stack_flags() & !AUTODISARM))
            && is_user(self.stack_pointer().0)
            && is_user(self.word(PC))
            && eflags & FLAGS_SET == FLAGS_SET
            && eflags & !FLAGS_KNOWN == 0
            && is_code_segment(&self.bytes[SEGMENTS..])
            && (flags & HAS_SS == 0 || STACK_SEGMENTS.contains(&self.ss()))
            && self.word(TRAP) < TRAPS
    }

    /// Whether the floating point state is where the kernel puts it. None at all is what a handler may ask for; one that
    /// cannot be read says nothing.
    fn has_plausible_state(&self, at: Avma, memory: &dyn Memory) -> bool {
        let state = self.word(FLOATING_POINT);
        if state == 0 {
            return true;
        }
        let above = state.checked_sub(at.0).is_some_and(|d| d >= SIZE as u64);
        if !above || !state.is_multiple_of(STATE_ALIGNMENT) || !is_user(state) {
            return false;
        }
        let extended = self.word(FLAGS) & EXTENDED != 0;
        match words(Avma(state + STATE_MAGIC), memory) {
            Some([magic, size]) if extended => {
                magic == MAGIC1 && STATE_SIZES.contains(&size) && ends(state, size, memory)
            }
            _ => true,
        }
    }

    fn ss(&self) -> u16 {
        u16::from_le_bytes([self.bytes[SS], self.bytes[SS + 1]])
    }

    /// The other half of the word is padding, which nobody writes.
    fn stack_flags(&self) -> u32 {
        self.word(STACK_FLAGS) as u32
    }

    /// The word at an offset, which is inside.
    fn word(&self, offset: usize) -> u64 {
        let (words, _) = self.bytes.as_chunks();
        u64::from_le_bytes(words[offset / 8])
    }
}

/// What puts general registers and the program counter into the `ucontext` at an address.
pub(super) fn write(at: Avma, registers: &Registers) -> Write {
    let general = ORDER.map(|register| registers.general[register.index()]);
    let words = general.into_iter().chain([registers.pc.0]);
    Write {
        at: at.offset(GENERAL as i64),
        bytes: words.flat_map(u64::to_le_bytes).collect(),
    }
}

/// The first page is never mapped.
fn is_user(address: u64) -> bool {
    (0x1000..USER_END).contains(&address)
}

/// Whether an extended state of `size` bytes has the second magic number behind it, as far as that can be read.
fn ends(state: u64, size: u32, memory: &dyn Memory) -> bool {
    // `extended_size` counts the magic number.
    let mut magic = [0; 4];
    let at = Avma(state + u64::from(size) - 4);
    !memory.read(at, &mut magic) || u32::from_le_bytes(magic) == MAGIC2
}

/// Whether the handler returns to `rt_sigreturn`, as far as that can be read: code of files is not part of a checkpoint.
///
/// When the handler has returned, its return address is below the stack pointer, and still there.
fn returns_from_handler(at: Avma, memory: &dyn Memory) -> bool {
    let Some(target) = at.0.checked_sub(8) else {
        return false;
    };
    let Some([low, high]) = words(Avma(target), memory) else {
        return true;
    };
    let target = u64::from(high) << 32 | u64::from(low);
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

fn words(at: Avma, memory: &dyn Memory) -> Option<[u32; 2]> {
    let mut bytes = [0; 8];
    let read = memory.read(at, &mut bytes);
    let (words, _) = bytes.as_chunks();
    read.then(|| [u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1])])
}
