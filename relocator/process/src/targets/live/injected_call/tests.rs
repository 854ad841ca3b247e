//! What the code does, by a decoder.

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
