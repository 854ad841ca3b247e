//! What is moved out of line, what is not, and what it looks like.

use elf_tools::Svma;
use elf_tools::relocation::Width::{self, I8, I32};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use relocator::plan::Strategy;

use crate::body::{Body, Linked};

/// `mov esi, [rax]`.
const READ: &[u8] = &[0x8b, 0x30];
/// `mov ecx, [rax+4]`.
const READ_NEAR: &[u8] = &[0x8b, 0x48, 4];
/// `lea eax, [rsi+rcx]; ret`.
const RETURN: &[u8] = &[0x8d, 0x04, 0x0e, 0xc3];

/// An instruction of the kinds that these bodies are made of.
#[derive(Debug, PartialEq, Eq)]
enum Listed {
    /// A jump to this place.
    Jump(Svma),
    /// A read of 32 bits at a distance from what a register points to.
    Read {
        into: Register,
        base: Register,
        distance: u64,
    },
    /// A jump to this place if the last comparison found two equals.
    JumpIfEqual(Svma),
    /// A comparison of two registers' bits.
    Test(Register, Register),
    /// An addition to a register.
    Add(Register, u64),
    Return,
    Other(Code),
}

impl From<Instruction> for Listed {
    fn from(instruction: Instruction) -> Self {
        let first = instruction.op0_register();
        let target = Svma(instruction.near_branch_target());
        match (instruction.mnemonic(), instruction.op1_kind()) {
            (Mnemonic::Jmp, _) if instruction.is_jmp_short_or_near() => Self::Jump(target),
            (Mnemonic::Je, _) => Self::JumpIfEqual(target),
            (Mnemonic::Mov, OpKind::Memory) if instruction.memory_index() == Register::None => {
                Self::Read {
                    into: first,
                    base: instruction.memory_base(),
                    distance: instruction.memory_displacement64(),
                }
            }
            (Mnemonic::Test, OpKind::Register) => Self::Test(first, instruction.op1_register()),
            (Mnemonic::Add, OpKind::Immediate8to64 | OpKind::Immediate32to64) => {
                Self::Add(first, instruction.immediate(1))
            }
            (Mnemonic::Ret, _) => Self::Return,
            _ => Self::Other(instruction.code()),
        }
    }
}

/// `mov into, [rax+distance]`.
const fn read(into: Register, distance: u64) -> Listed {
    let base = Register::RAX;
    Listed::Read {
        into,
        base,
        distance,
    }
}

/// The instructions from `at` on.
fn listing(linked: &Linked, at: Svma, count: usize) -> Vec<Listed> {
    let bytes = &linked.image.bytes[at.index()..];
    let mut decoder = Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE);
    decoder.iter().take(count).map(Listed::from).collect()
}

/// Where the body's instructions are now, by the name of where they were from its entry.
fn moved(linked: &Linked) -> Vec<u64> {
    let moved = linked.image.moved.iter();
    moved.map(|m| m.from.0 - linked.entry.0).collect()
}

/// A read without displacement that needs one, with `before` and `behind` around it.
fn out_of_range(before: &[u8], behind: &[u8]) -> Linked {
    let mut body = Body::new();
    let base = body.point();
    body.put(before);
    body.field(base, READ, 0, Width::None, 0x40);
    body.put(behind);
    body.link()
}

#[test]
fn an_operand_out_of_range_and_its_neighbour_are_moved() {
    let mut body = Body::new();
    let base = body.point();
    body.field(base, READ, 0, Width::None, 0x40);
    body.field(base, READ_NEAR, 2, I8, 0x44);
    body.put(RETURN);
    let linked = body.link();
    let plan = linked.plan();
    assert_eq!((plan.strategy, plan.detours), (Strategy::Relocate, 1));
    assert_eq!(
        plan.reason.to_string(),
        "all 3 relocations resolved, 1 instruction moved out of line"
    );
    assert_eq!(moved(&linked), [7, 9]);
    let place = linked.image.moved[0].to;
    // The image has room for it where its call frame information was.
    assert!(place.0.is_multiple_of(16) && place.0 < linked.old.image.loaded_size());
    assert!(!linked.old.image.is_text(place));
    let (from, back) = (linked.entry.offset(7), linked.entry.offset(12));
    assert_eq!(listing(&linked, from, 1), [Listed::Jump(place)]);
    let expected = [
        read(Register::ESI, 0x40),
        read(Register::ECX, 0x44),
        Listed::Jump(back),
    ];
    assert_eq!(listing(&linked, place, 3), expected);
    assert_eq!(linked.image.moved[1].to, place.offset(6));
}

#[test]
fn what_is_left_of_moved_code_traps() {
    // mov edx, 5 makes seven bytes of it.
    let linked = out_of_range(&[], &[&[0xba, 5, 0, 0, 0], RETURN].concat());
    let rest = linked.entry.offset(12).index();
    assert_eq!(linked.image.bytes[rest..rest + 2], [0xcc, 0xcc]);
    assert_eq!(moved(&linked), [7, 9]);
}

#[test]
fn short_branches_become_near_ones() {
    // je +3 behind the read; test edx, edx makes enough of it.
    let linked = out_of_range(&[], &[0x74, 3, 0x85, 0xd2, 0x90, 0x90, 0xc3]);
    assert_eq!(moved(&linked), [7, 9, 11]);
    let place = linked.image.moved[0].to;
    let target = linked.entry.offset(7 + 2 + 2 + 3);
    let expected = [
        read(Register::ESI, 0x40),
        Listed::JumpIfEqual(target),
        Listed::Test(Register::EDX, Register::EDX),
    ];
    assert_eq!(listing(&linked, place, 3), expected);
}

#[test]
fn a_return_ends_moved_code() {
    // nop; nop before, ret behind: five bytes with both.
    let linked = out_of_range(&[0x90, 0x90], &[0xc3]);
    assert_eq!(linked.plan().strategy, Strategy::Relocate);
    assert_eq!(moved(&linked), [7, 8, 9, 11]);
    let (place, last) = (linked.image.moved[0].to, linked.image.moved[3].to);
    assert_eq!(listing(&linked, last, 1), [Listed::Return]);
    assert_eq!(linked.image.jumps_back, [], "no jump back");
    assert_eq!(listing(&linked, place, 3)[2], read(Register::ESI, 0x40));
}

#[test]
fn targets_of_jumps_are_not_moved_over() {
    // jmp over nothing: what follows the read is a target, so the way is backwards.
    let nops = [0x90, 0x90, 0x90];
    let jump_behind = [0x90, 0xc3, 0xeb, 0xfc];
    let linked = out_of_range(&nops, &jump_behind);
    assert_eq!(moved(&linked), [7, 8, 9, 10], "{:?}", linked.plan());
    // Now it is the read itself that is jumped to: it can only be the first.
    let linked = out_of_range(&nops, &[0x90, 0x90, 0x90, 0x74, 0xf9, 0xc3]);
    assert_eq!(moved(&linked), [10, 12, 13, 14]);
}

#[test]
fn where_there_is_no_room_the_function_is_replaced() {
    let call_next = [0xe8, 0, 0, 0, 0];
    let system_call = [0x0f, 0x05];
    let endbr = [0xf3, 0x0f, 0x1e, 0xfa];
    let looping = [0xe2, 0xfe];
    for neighbour in [&call_next[..], &system_call, &endbr, &looping] {
        let linked = out_of_range(neighbour, &[neighbour, &[0xc3]].concat());
        let plan = linked.plan();
        assert_eq!(plan.strategy, Strategy::Proxy, "{neighbour:x?}");
        let expected = format!(
            "`time.page` at {}: the constants at {} (4 bytes), {} (no constant) \
             cannot take values that fit their instructions",
            linked.entry.offset(7 + neighbour.len() as i64),
            linked.entry.offset(3),
            linked.entry.offset(7 + neighbour.len() as i64),
        );
        assert_eq!(plan.reason.to_string(), expected);
        assert_eq!(plan.reason.code(), "constants-contradict");
        assert_eq!(linked.image.moved, []);
    }
    // What follows a system call is where its thread comes back to, but can be the first.
    let linked = out_of_range(&system_call, &[0x90, 0x90, 0x90, 0xc3]);
    assert_eq!(moved(&linked), [9, 11, 12, 13]);
    let linked = out_of_range(&[], &[0x0f, 0x05, 0x90, 0x90, 0x90, 0xc3]);
    assert_eq!(linked.plan().strategy, Strategy::Proxy);
}

#[test]
fn operands_out_of_range_next_to_each_other_share_a_detour() {
    let mut body = Body::new();
    let base = body.point();
    for field in [0x40, 0x80, 0xc0] {
        body.field(base, READ, 0, Width::None, field);
    }
    body.put(RETURN);
    let linked = body.link();
    assert_eq!(linked.plan().detours, 3);
    assert_eq!(moved(&linked), [7, 9, 11]);
    let expected = [
        read(Register::ESI, 0x40),
        read(Register::ESI, 0x80),
        read(Register::ESI, 0xc0),
    ];
    assert_eq!(listing(&linked, linked.image.moved[0].to, 3), expected);
}

#[test]
fn moved_operands_still_point_where_they_did() {
    // mov ecx, [rip+...] behind the operand out of range, with an operand field of its own.
    let mut body = Body::new();
    let base = body.point();
    body.field(base, READ, 0, Width::None, 0x40);
    let site = body.here();
    let operand_field = body.operand_field(&[0x8b, 0x0d, 0, 0, 0, 0], 2, I32);
    let end = body.here();
    body.constraint(site, &[(operand_field, 1)], 0x88 - end.signed());
    body.put(RETURN);
    let linked = body.link();
    assert_eq!(moved(&linked), [7, 9]);
    let page = crate::body::PAGE;
    let expected = [
        read(Register::ESI, 0x40),
        Listed::Read {
            into: Register::ECX,
            base: Register::RIP,
            distance: page + 0x88,
        },
    ];
    assert_eq!(listing(&linked, linked.image.moved[0].to, 2), expected);
}

#[test]
fn a_long_immediate_takes_the_place_of_a_short_one() {
    // add rax, 0x10; mov esi, [rax]: the sum is out of a byte's range, and the read has to stay.
    let mut body = Body::new();
    let base = body.point();
    let add = body.operand_field(&[0x48, 0x83, 0xc0, 0x10], 3, I8);
    let site = body.put(READ);
    let end = body.table.operand_fields[base as usize].place.offset(4);
    body.constraint(site, &[(base, 1), (add, 1)], 0x200 - end.signed());
    body.put(RETURN);
    let linked = body.link();
    assert_eq!(linked.plan().detours, 1);
    assert_eq!(moved(&linked), [7, 11]);
    let expected = [Listed::Add(Register::RAX, 0x200), read(Register::ESI, 0)];
    assert_eq!(listing(&linked, linked.image.moved[0].to, 2), expected);
}
