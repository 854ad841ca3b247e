//! Frames in memory that is made up. Real ones are in `tests/tests/signal_frames.rs`.

use std::collections::BTreeMap;
use std::mem::offset_of;

use elf_tools::reentry::Register;
use nix::libc::{self, ucontext_t};
use proptest::prelude::*;

use super::*;

mod all_threads;

const PAGE: u64 = 0x1000;
const TEXT: Range<Avma> = Avma(0x7ffe_0000_1000)..Avma(0x7ffe_0000_2000);
const STACK: u64 = 0x7ffd_0000_0000;
const ALTERNATE: u64 = 0x5500_0000_0000;
const RESTORER: u64 = 0x7f00_0000_0ff0;

const MACHINE: usize = offset_of!(ucontext_t, uc_mcontext);
const PC: usize = MACHINE + 8 * libc::REG_RIP as usize;
const EFLAGS: usize = MACHINE + 8 * libc::REG_EFL as usize;
const SEGMENTS: usize = MACHINE + 8 * libc::REG_CSGSFS as usize;
const POINTER: usize = MACHINE + 8 * libc::REG_RSP as usize;
const TRAP: usize = MACHINE + 8 * libc::REG_TRAPNO as usize;
const STATE: usize = MACHINE + offset_of!(libc::mcontext_t, fpregs);
const ALTERNATE_STACK: usize = offset_of!(ucontext_t, uc_stack);
const MODE: usize = ALTERNATE_STACK + offset_of!(libc::stack_t, ss_flags);
const SIZE: usize = 304;

/// By DWARF number.
const REGISTERS: [i32; Register::COUNT] = [
    libc::REG_RAX,
    libc::REG_RDX,
    libc::REG_RCX,
    libc::REG_RBX,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_RBP,
    libc::REG_RSP,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Memory with holes.
#[derive(Clone, Default)]
struct Pages(BTreeMap<u64, Vec<u8>>);

impl Pages {
    /// With a stack and what handlers return to.
    fn new() -> Self {
        let mut pages = Self::default();
        pages.map(STACK..STACK + 4 * PAGE);
        pages.map_restorer();
        pages
    }

    /// Maps what handlers return to.
    fn map_restorer(&mut self) {
        self.map(RESTORER / PAGE * PAGE..RESTORER / PAGE * PAGE + 2 * PAGE);
        self.put(RESTORER, &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05]);
    }

    fn map(&mut self, range: Range<u64>) {
        for page in range.step_by(PAGE as usize) {
            self.0.insert(page, vec![0; PAGE as usize]);
        }
    }

    fn byte(&mut self, at: u64) -> &mut u8 {
        &mut self.0.get_mut(&(at / PAGE * PAGE)).unwrap()[(at % PAGE) as usize]
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            *self.byte(at) = *byte;
        }
    }

    fn put_word(&mut self, at: u64, word: u64) {
        self.put(at, &word.to_le_bytes());
    }

    /// A frame as the kernel builds it, of a signal that came with this context. `uc` is where the
    /// `ucontext` is to be.
    fn put_frame(&mut self, uc: u64, registers: &Registers) {
        self.put_word(uc - 8, RESTORER);
        for (number, register) in REGISTERS.into_iter().zip(registers.general) {
            self.put_word(uc + (MACHINE + 8 * number as usize) as u64, register);
        }
        let state = (uc + 448).next_multiple_of(64);
        for (offset, word) in [
            (0, 7),
            (MODE, 2),
            (PC, registers.pc.0),
            (EFLAGS, 0x246),
            (SEGMENTS, 0x002b_0000_0000_0033),
            (STATE, state),
        ] {
            self.put_word(uc + offset as u64, word);
        }
        self.put(state + 464, b"SXPF");
        self.put(state + 468, &832u32.to_le_bytes());
        self.put(state + 828, b"EXPF");
    }
}

impl Memory for Pages {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let mut at = at.0;
        for byte in bytes {
            let Some(page) = self.0.get(&(at / PAGE * PAGE)) else {
                return false;
            };
            *byte = page[(at % PAGE) as usize];
            at = at.wrapping_add(1);
        }
        true
    }
}

fn registers(pc: u64, pointer: u64) -> Registers {
    let mut general = std::array::from_fn(|index| 0x1111_1111_1111 * index as u64);
    general[Register::RSP.index()] = pointer;
    Registers {
        general,
        pc: Avma(pc),
        system_call: -1,
    }
}

fn inside(pointer: u64) -> Registers {
    registers(TEXT.start.0 + 0x123, pointer)
}

const STACK_RANGE: Range<Avma> = Avma(STACK)..Avma(STACK + 4 * PAGE);
const ALTERNATE_RANGE: Range<Avma> = Avma(ALTERNATE)..Avma(ALTERNATE + 2 * PAGE);

fn places(found: &[Interrupted]) -> Vec<u64> {
    found.iter().map(|found| found.at.0).collect()
}

fn search(pages: &Pages) -> Vec<u64> {
    places(&interrupted(STACK_RANGE, &TEXT, pages))
}

/// Those of a thread whose stack pointer is there.
fn of(pointer: u64, writable: &[Range<Avma>], pages: &Pages) -> Vec<u64> {
    places(&of_thread(&registers(1, pointer), writable, &TEXT, pages))
}

const UC: u64 = STACK + 0x400;

fn one() -> Pages {
    let mut pages = Pages::new();
    pages.put_frame(UC, &inside(STACK + 0xc00));
    pages
}

#[test]
fn a_frame_is_found_with_its_registers() {
    let registers = inside(STACK + 0xc00);
    let found = interrupted(STACK_RANGE, &TEXT, &one());
    let at = Avma(UC);
    assert_eq!(found, [Interrupted { at, registers }]);
}

#[test]
fn a_frame_is_found_wherever_a_page_ends_in_it() {
    for uc in (STACK + 16..STACK + 2 * PAGE).step_by(16) {
        let mut pages = Pages::new();
        pages.put_frame(uc, &inside(STACK));
        assert_eq!(search(&pages), [uc]);
    }
}

#[test]
fn only_what_was_interrupted_in_the_text_is_found() {
    for (pc, is_found) in [
        (TEXT.start.0 - 1, false),
        (TEXT.start.0, true),
        (TEXT.end.0 - 1, true),
        (TEXT.end.0, false),
    ] {
        let mut pages = Pages::new();
        pages.put_frame(UC, &registers(pc, STACK));
        assert_eq!(search(&pages).len(), usize::from(is_found), "{pc:#x}");
    }
}

#[test]
fn changed_registers_are_found_where_they_were_written() {
    let mut pages = one();
    let [found] = interrupted(STACK_RANGE, &TEXT, &pages)[..] else {
        panic!("one frame");
    };
    assert_eq!(found.write(&found.registers).bytes.len(), 17 * 8);
    let before = pages.0.clone();
    let same = found.write(&found.registers);
    pages.put(same.at.0, &same.bytes);
    assert_eq!(pages.0, before, "nothing else is touched");
    let mut changed = registers(TEXT.start.0, STACK + 0xd00);
    changed.general[Register::RDI.index()] = 7;
    let write = found.write(&changed);
    pages.put(write.at.0, &write.bytes);
    let again = interrupted(STACK_RANGE, &TEXT, &pages);
    assert_eq!(again[0].registers, changed);
}

#[test]
fn what_does_not_look_whole_is_no_frame() {
    for (offset, word) in [
        (0, 8),
        (0, 7 | 1 << 32),
        (offset_of!(ucontext_t, uc_link), STACK),
        (MODE, 3),
        (MODE, 1 << 30),
        (POINTER, 0),
        (POINTER, 1 << 56),
        (EFLAGS, 0x46),
        (EFLAGS, 0x244),
        (EFLAGS, 0x24e),
        (EFLAGS, 0x246 | 1 << 17),
        (EFLAGS, 0x246 | 1 << 32),
        (SEGMENTS, 0x002b_0000_0000_0023),
        (SEGMENTS, 0x0000_0000_0000_0033),
        (TRAP, 256),
        (STATE, UC + 448 + 8),
        (STATE, UC + 256),
        (STATE, UC - 0x100),
        (STATE, 1 << 56),
        (448 + 464, u64::from_le_bytes(*b"SXPE\x40\x03\0\0")),
        (448 + 464, u64::from_le_bytes(*b"SXPF\0\0\0\0")),
        (448 + 464, u64::from_le_bytes(*b"SXPF\0\0\0\xff")),
        (448 + 828, 0),
    ] {
        let mut pages = one();
        pages.put_word(UC + offset as u64, word);
        assert_eq!(search(&pages), [0; 0], "{word:#x} at {offset}");
    }
}

#[test]
fn what_a_kernel_or_a_handler_may_write_is_accepted() {
    for (offset, word) in [
        (0, 6),
        (MODE, 1),
        (MODE, 1 << 31),
        // Padding that nobody writes.
        (MODE, 2 | 0xdead_beef << 32),
        (EFLAGS, 0x0025_7fd7),
        (SEGMENTS, 0xe02b_0000_0000_e033),
        (SEGMENTS, 0x002b_1234_5678_0033),
        (STATE, 0),
        (TRAP, 14),
        (SIZE - 8, u64::MAX),
    ] {
        let mut pages = one();
        pages.put_word(UC + offset as u64, word);
        assert_eq!(search(&pages), [UC], "{word:#x} at {offset}");
    }
    let mut old = one();
    old.put_word(UC, 0);
    old.put_word(UC + SEGMENTS as u64, 0x33);
    assert_eq!(search(&old), [UC], "without ss, as before 4.6");
}

#[test]
fn a_handler_must_return_to_sigreturn() {
    let mut pages = one();
    pages.put(RESTORER, &[0xb8, 15, 0, 0, 0, 0x0f, 0x05]);
    assert_eq!(search(&pages), [UC]);
    pages.put(
        RESTORER,
        &[0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 15, 0, 0, 0, 0x0f, 0x05],
    );
    assert_eq!(search(&pages), [UC]);
    pages.put(RESTORER, &[0xb8, 14, 0, 0, 0, 0x0f, 0x05]);
    assert_eq!(search(&pages), [0; 0]);
    let mut pages = one();
    pages.put_word(UC - 8, 0);
    assert_eq!(search(&pages), [0; 0]);
    // It cannot be seen: the last bytes of it, or all.
    let mut pages = one();
    pages.put_word(UC - 8, RESTORER + 0x1100);
    assert_eq!(search(&pages), [UC]);
    // Code at the end of what is mapped is read as far as it is needed.
    pages.put_word(UC - 8, RESTORER + 0x1009);
    pages.put(RESTORER + 0x1009, &[0xb8, 15, 0, 0, 0, 0x0f, 0x05]);
    assert_eq!(search(&pages), [UC]);
    pages.put(RESTORER + 0x1009, &[0xb8, 14]);
    assert_eq!(search(&pages), [0; 0]);
}

#[test]
fn a_handler_that_has_returned_is_still_in_its_frame() {
    let pages = one();
    let at = |pointer| places(&interrupted(Avma(pointer)..STACK_RANGE.end, &TEXT, &pages));
    assert_eq!(at(UC - 8), [UC]);
    assert_eq!(at(UC), [UC], "before rt_sigreturn");
    assert_eq!(at(UC + 1), [0; 0]);
}

#[test]
fn a_frame_that_is_cut_off_is_none() {
    let pages = one();
    for end in UC - 16..UC + SIZE as u64 + 16 {
        let found = interrupted(Avma(STACK)..Avma(end), &TEXT, &pages);
        assert_eq!(
            found.len(),
            usize::from(end >= UC + SIZE as u64),
            "{end:#x}"
        );
    }
    let nothing = Avma(STACK + PAGE)..Avma(STACK);
    assert_eq!(interrupted(nothing, &TEXT, &pages), []);
    let everything = Avma(0x7ffc_ffff_f000)..Avma(STACK + 0x10_0000);
    assert_eq!(places(&interrupted(everything, &TEXT, &pages)), [UC]);
}

#[test]
fn pages_that_cannot_be_read_hide_only_themselves() {
    let ucs = [0x100, 0xf80, 0x1800, 0x2400, 0x3200].map(|offset| STACK + offset);
    let mut pages = Pages::new();
    for uc in ucs {
        pages.put_frame(uc, &inside(STACK));
    }
    assert_eq!(search(&pages), ucs);
    for (page, lost) in [(0, 0..2), (1, 1..3), (2, 3..4), (3, 4..5)] {
        let mut holed = pages.clone();
        holed.0.remove(&(STACK + page * PAGE));
        let mut left = ucs.to_vec();
        left.drain(lost);
        assert_eq!(search(&holed), left, "without page {page}");
    }
}

/// A thread in a handler on the alternate stack, which interrupted one on the main stack, which
/// interrupted a vDSO.
fn two_stacks() -> Pages {
    let mut pages = one();
    pages.map(ALTERNATE..ALTERNATE + 2 * PAGE);
    pages.put_frame(ALTERNATE + 0x600, &registers(0x40_0000, STACK + 0x80));
    pages.put_word(ALTERNATE + 0x600 + ALTERNATE_STACK as u64, ALTERNATE);
    pages.put_word(ALTERNATE + 0x600 + MODE as u64, 0);
    pages.put_word(ALTERNATE + 0x600 + MODE as u64 + 8, PAGE);
    pages
}

#[test]
fn frames_lead_to_other_stacks() {
    let pages = two_stacks();
    let writable = [STACK_RANGE, ALTERNATE_RANGE];
    assert_eq!(of(ALTERNATE + 0x100, &writable, &pages), [UC]);
    assert_eq!(of(ALTERNATE + 0x700, &writable, &pages), [0; 0]);
    assert_eq!(of(STACK + 0x80, &writable, &pages), [UC]);
    assert_eq!(of(STACK + 0x480, &writable, &pages), [0; 0]);
    assert_eq!(of(ALTERNATE + 0x100, &[ALTERNATE_RANGE], &pages), [0; 0]);
    assert_eq!(of(ALTERNATE + 0x100, &[STACK_RANGE], &pages), [0; 0]);
}

#[test]
fn what_is_behind_an_alternate_stack_does_not_count() {
    let mut pages = two_stacks();
    let behind = ALTERNATE + PAGE + 0x100;
    pages.put_frame(behind, &inside(ALTERNATE + 0x1800));
    let writable = [STACK_RANGE, ALTERNATE_RANGE];
    assert_eq!(of(ALTERNATE + 0x100, &writable, &pages), [UC]);
    pages.put_word(ALTERNATE + 0x600 + MODE as u64, 2);
    assert_eq!(of(ALTERNATE + 0x100, &writable, &pages), [behind, UC]);
}

/// Go's runtime has its alternate stacks in its heap, above the stacks of goroutines.
#[test]
fn a_handler_that_has_left_its_alternate_stack_has_returned() {
    let mut pages = Pages::new();
    let (start, uc) = (STACK + PAGE, STACK + PAGE + 0x600);
    pages.put_frame(uc, &inside(STACK + 3 * PAGE));
    pages.put_word(uc + ALTERNATE_STACK as u64, start);
    pages.put_word(uc + MODE as u64, 0);
    pages.put_word(uc + MODE as u64 + 8, PAGE);
    let returned = |pages: &Pages, pointers: &[u64]| {
        let all: Vec<Registers> = pointers.iter().map(|&at| registers(1, at)).collect();
        let found = of_threads(&all, &[STACK_RANGE], &[TEXT], pages, &Scope::whole());
        assert_eq!(places(&found.contexts.concat()), [uc], "{pointers:x?}");
        found.returned.iter().map(|at| at.0).collect::<Vec<u64>>()
    };
    assert_eq!(returned(&pages, &[STACK + 8]), [uc]);
    assert_eq!(returned(&pages, &[start - 8]), [uc]);
    // A thread is in the handler, or about to return from it.
    for pointer in [start, uc - 8, uc] {
        assert_eq!(returned(&pages, &[pointer]), [0; 0]);
        assert_eq!(returned(&pages, &[STACK + 8, pointer]), [0; 0]);
    }
    // Another signal has interrupted the handler, whose own handler is elsewhere.
    let mut nested = pages.clone();
    nested.put_frame(STACK + 0x100, &registers(0x40_0000, start + 0x40));
    assert_eq!(returned(&nested, &[STACK + 8]), [0; 0]);
    // The kernel did not change the stack for it: nothing says that the thread has left it.
    pages.put_word(uc + MODE as u64, 2);
    assert_eq!(returned(&pages, &[STACK + 8]), [0; 0]);
}

#[test]
fn a_stack_may_be_several_mappings() {
    let mut pages = Pages::new();
    let uc = STACK + 2 * PAGE - 0x40;
    pages.put_frame(uc, &inside(STACK + 3 * PAGE));
    let pieces =
        [2, 0, 1, 3].map(|page| Avma(STACK + page * PAGE)..Avma(STACK + (page + 1) * PAGE));
    assert_eq!(of(STACK + 8, &pieces, &pages), [uc]);
    assert_eq!(of(STACK + 8, &pieces[1..2], &pages), [0; 0]);
}

#[test]
fn frames_that_lead_to_each_other_are_found_once() {
    let mut pages = Pages::new();
    pages.map(ALTERNATE..ALTERNATE + 2 * PAGE);
    let writable = [STACK_RANGE, ALTERNATE_RANGE];
    pages.put_frame(UC, &inside(ALTERNATE));
    pages.put_frame(ALTERNATE + 0x100, &inside(STACK));
    pages.put_frame(ALTERNATE + 0x800, &inside(ALTERNATE + 0x100));
    let found = of(STACK + 0x200, &writable, &pages);
    assert_eq!(found, [UC, ALTERNATE + 0x100, ALTERNATE + 0x800]);
}

#[test]
fn a_search_ends() {
    // Each frame leads to one further down, so that there is always more to search.
    let mut pages = Pages::new();
    let mut ucs: Vec<u64> = (STACK + 0x10..STACK + 3 * PAGE).step_by(0x550).collect();
    for &uc in &ucs {
        pages.put_frame(uc, &inside(uc - 0x550));
    }
    ucs.reverse();
    assert_eq!(
        of(ucs[0], &[STACK_RANGE], &pages),
        ucs,
        "each is found once"
    );
    // A mapping that is larger than any memory.
    let all = [Avma(0)..Avma(u64::MAX)];
    assert_eq!(of(u64::MAX - 100, &all, &pages), [0; 0]);
}

proptest! {
    #[test]
    fn frames_in_anything_are_found(
        noise in proptest::collection::vec(any::<u8>(), 4 * PAGE as usize),
        gaps in proptest::collection::vec(0u64..80, 1..5),
    ) {
        let mut pages = Pages::new();
        pages.put(STACK, &noise);
        let mut uc = STACK;
        let mut ucs = Vec::new();
        for gap in gaps {
            uc += 16 + 16 * gap;
            pages.put_frame(uc, &inside(uc + 0x600));
            // The mode of a frame is half a word; what is around it is noise.
            ucs.push(uc);
            uc += 448 + 48 + 832;
        }
        for &uc in &ucs {
            for (offset, word) in [(8, 0), (TRAP, 6)] {
                pages.put_word(uc + offset as u64, word);
            }
        }
        prop_assert_eq!(search(&pages), ucs.clone());
        prop_assert_eq!(of(STACK, &[STACK_RANGE], &pages), ucs);
    }

    #[test]
    fn damage_is_refused_or_harmless(
        changes in proptest::collection::vec((0u64..1400, any::<u8>()), 1..4),
    ) {
        let mut pages = one();
        for (offset, byte) in changes {
            *pages.byte(UC - 8 + offset) = byte;
        }
        let found = interrupted(STACK_RANGE, &TEXT, &pages);
        prop_assert!(found.len() <= 1);
        for found in found {
            prop_assert_eq!(found.at, Avma(UC));
            prop_assert!(TEXT.contains(&found.registers.pc));
            let write = found.write(&found.registers);
            let mut there = vec![0; write.bytes.len()];
            prop_assert!(pages.read(write.at, &mut there));
            prop_assert_eq!(write.bytes, there);
        }
    }

    #[test]
    fn any_address_is_harmless(start: u64, end: u64, pointer: u64, uc in 0..4 * PAGE) {
        let mut pages = Pages::new();
        pages.map(u64::MAX / PAGE * PAGE - PAGE..u64::MAX / PAGE * PAGE);
        let uc = STACK + (uc / 16 * 16).clamp(16, 2 * PAGE);
        pages.put_frame(uc, &inside(pointer));
        let range = Avma(start.max(end.saturating_sub(1 << 24)))..Avma(end);
        interrupted(range, &TEXT, &pages);
        of(STACK, &[STACK_RANGE, Avma(start)..Avma(end)], &pages);
    }
}
