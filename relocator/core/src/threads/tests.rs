//! Threads in functions that CRIU has overwritten with its jumps.

use elf_tools::image::Image;
use elf_tools::reentry::Register;
use kernel_fixtures::fixture;

use super::*;
use crate::link::New;
use crate::placement::Placement;
use crate::plan::Policy;

const BASE: Avma = Avma(0x7f00_0000_0000);
const STACK: u64 = 0x7fff_0000_1000;
const TARGET: Avma = Avma(0x3_0960);

/// A stack that holds its own addresses.
struct Stack;

impl Memory for Stack {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        bytes.copy_from_slice(&at.0.to_le_bytes()[..bytes.len()]);
        true
    }
}

/// What becomes of a thread at each of the boundaries of a function among the first bytes that a
/// jump takes.
fn verdicts(rax: u64) -> Vec<(u64, Registers, Verdict)> {
    let image = Image::parse(fixture::find("operands").unwrap().image).unwrap();
    let entry = image.export("__vdso_clock_gettime").unwrap().address;
    let old = Old::read(image).unwrap();
    let reentry = elf_tools::reentry::derive(&old.image, &old.code).unwrap();
    let placement = Placement {
        image: BASE,
        mappings: Vec::new(),
    };
    let linked = crate::link::link(&old, &New::default(), &placement, Policy::Syscall).unwrap();
    let mut before = CodeNow::unchanged(old.image.bytes().len());
    before.patch(entry, criu::jump(TARGET).to_vec());
    let crossing = Crossing {
        old: &old,
        reentry: &reentry,
        before: Some(&before),
        after: &linked.code_now(),
        processor: None,
        image: BASE,
    };
    let places = 0..criu::JUMP as u64;
    let is_boundary = |offset: &u64| {
        *offset == criu::LOAD as u64 || old.code.index_of(Svma(entry.0 + offset)).is_some()
    };
    let all = places.filter(is_boundary).map(|offset| {
        let mut general = [0x1111; Register::COUNT];
        general[Register::RAX.index()] = rax;
        general[Register::RSP.index()] = STACK;
        let registers = Registers {
            general,
            pc: Svma(entry.0 + offset).at(BASE),
            system_call: -1,
        };
        (offset, registers, crossing.thread(&registers, &Stack))
    });
    all.collect()
}

fn stack_pointer(registers: &Registers) -> u64 {
    registers.general[Register::RSP.index()]
}

#[test]
fn a_thread_in_the_jump_begins_anew() {
    let all = verdicts(TARGET.0);
    let found = all.iter().find(|(offset, ..)| *offset == criu::LOAD as u64);
    let Some((_, registers, Verdict::FixUp(fix_up))) = found else {
        panic!("{found:?}");
    };
    assert_eq!(fix_up.registers.general, registers.general);
    assert_eq!(
        fix_up.registers.pc,
        registers.pc.offset(-(criu::LOAD as i64))
    );
}

#[test]
fn a_thread_in_what_the_jump_was_put_over_is_put_back_by_its_recipe() {
    let all = verdicts(7);
    let entry = all[0].1.pc;
    assert_eq!(all[0].2, Verdict::Untouched);
    let mut pushed = 0;
    for (offset, registers, verdict) in &all[1..] {
        match verdict {
            Verdict::FixUp(fix_up) => {
                assert_eq!(fix_up.registers.pc, entry, "{offset}");
                pushed += usize::from(stack_pointer(&fix_up.registers) > stack_pointer(registers));
            }
            // No instruction of the function begins there, and the jump was not executed.
            Verdict::Stuck { .. } => assert_eq!(*offset, criu::LOAD as u64),
            other => panic!("{offset}: {other:?}"),
        }
    }
    assert!(pushed > 0, "{all:?}");
}
