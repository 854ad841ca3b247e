//! Constants of instructions: storing others in their place, and making room for longer ones.

use elf_tools::Svma;
use iced_x86::{Code as Opcode, Decoder, DecoderOptions, Instruction, OpKind};

use super::super::Change;
use crate::error::InstructionFault;
use crate::link::constant::Part;
use crate::{Error, Result};

/// Stores new values of constants that fit, and checks by decoding that nothing else changed.
pub(super) fn store(changes: &[Change], bytes: &mut [u8]) -> Result<()> {
    let mut expected: Vec<(Svma, Instruction)> = Vec::with_capacity(changes.len());
    let mut reader = Reader::new(bytes);
    for change in changes {
        let address = change.address;
        // Changes are in order, so the two that an instruction may have follow each other.
        if expected.last().is_none_or(|last| last.0 != address) {
            expected.push((address, reader.at(address)));
        }
        if let Some((_, instruction)) = expected.last_mut() {
            set(instruction, change.part, change.value)
                .ok_or_else(|| fault(address, InstructionFault::NoConstant))?;
        }
    }
    for change in changes {
        bytes[change.place.index()..][..change.width]
            .copy_from_slice(&change.value.to_le_bytes()[..change.width]);
    }
    let mut reader = Reader::new(bytes);
    for (address, expected) in &expected {
        let found = reader.at(*address);
        if found.len() != expected.len() || !is_same(expected, &found) {
            return Err(fault(*address, InstructionFault::Another));
        }
    }
    Ok(())
}

pub(super) fn fault(address: Svma, fault: InstructionFault) -> Error {
    Error::Instruction { address, fault }
}

/// Decodes instructions of an image that is mapped at 0.
pub(super) struct Reader<'a>(Decoder<'a>);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE))
    }

    /// The instruction at `address`; an invalid one where there is none.
    pub(super) fn at(&mut self, address: Svma) -> Instruction {
        match self.0.set_position(address.index()) {
            Ok(()) => {
                self.0.set_ip(address.0);
                self.0.decode()
            }
            Err(_) => Instruction::default(),
        }
    }
}

/// Puts `value` in place of a constant, which is kept as wide as it is. `None` if there is no such
/// constant.
fn set(instruction: &mut Instruction, part: Part, value: i64) -> Option<()> {
    match part {
        Part::Displacement if instruction.is_ip_rel_memory_operand() => {
            let target = instruction.next_ip().wrapping_add_signed(value);
            instruction.set_memory_displacement64(target);
        }
        Part::Displacement => instruction.set_memory_displacement64(value as u64),
        Part::Immediate => {
            let operand = immediate(instruction)?;
            instruction.set_immediate_i64(operand, value);
        }
    }
    Some(())
}

/// Puts `value` in place of a constant and makes it four bytes wide. `None` if the instruction has
/// no such form.
pub(super) fn lengthen(instruction: &mut Instruction, part: Part, value: i64) -> Option<()> {
    let word = i32::try_from(value).ok()?;
    match part {
        Part::Displacement if instruction.is_ip_rel_memory_operand() => None,
        Part::Displacement => {
            // In iced's terms a displacement of 64-bit addressing has 8 bytes; 4 of them are
            // stored.
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(value as u64);
            Some(())
        }
        Part::Immediate => {
            let operand = immediate(instruction)?;
            instruction.set_code(wide_form(instruction.code())?);
            match instruction.op_kind(operand) {
                OpKind::Immediate8to64 => {
                    instruction.set_op_kind(operand, OpKind::Immediate32to64);
                    instruction.set_immediate32to64(value);
                }
                OpKind::Immediate8to32 => {
                    instruction.set_op_kind(operand, OpKind::Immediate32);
                    instruction.set_immediate32(word as u32);
                }
                _ => return None,
            }
            Some(())
        }
    }
}

fn immediate(instruction: &Instruction) -> Option<u32> {
    let is_immediate = |operand: &u32| {
        matches!(
            instruction.op_kind(*operand),
            OpKind::Immediate8
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate32to64
                | OpKind::Immediate64
        )
    };
    (0..instruction.op_count()).find(is_immediate)
}

/// The form of an instruction with a four-byte immediate in place of a one-byte one.
fn wide_form(code: Opcode) -> Option<Opcode> {
    Some(match code {
        Opcode::Add_rm32_imm8 => Opcode::Add_rm32_imm32,
        Opcode::Add_rm64_imm8 => Opcode::Add_rm64_imm32,
        Opcode::Or_rm32_imm8 => Opcode::Or_rm32_imm32,
        Opcode::Or_rm64_imm8 => Opcode::Or_rm64_imm32,
        Opcode::Adc_rm32_imm8 => Opcode::Adc_rm32_imm32,
        Opcode::Adc_rm64_imm8 => Opcode::Adc_rm64_imm32,
        Opcode::Sbb_rm32_imm8 => Opcode::Sbb_rm32_imm32,
        Opcode::Sbb_rm64_imm8 => Opcode::Sbb_rm64_imm32,
        Opcode::And_rm32_imm8 => Opcode::And_rm32_imm32,
        Opcode::And_rm64_imm8 => Opcode::And_rm64_imm32,
        Opcode::Sub_rm32_imm8 => Opcode::Sub_rm32_imm32,
        Opcode::Sub_rm64_imm8 => Opcode::Sub_rm64_imm32,
        Opcode::Xor_rm32_imm8 => Opcode::Xor_rm32_imm32,
        Opcode::Xor_rm64_imm8 => Opcode::Xor_rm64_imm32,
        Opcode::Cmp_rm32_imm8 => Opcode::Cmp_rm32_imm32,
        Opcode::Cmp_rm64_imm8 => Opcode::Cmp_rm64_imm32,
        Opcode::Imul_r32_rm32_imm8 => Opcode::Imul_r32_rm32_imm32,
        Opcode::Imul_r64_rm64_imm8 => Opcode::Imul_r64_rm64_imm32,
        Opcode::Pushq_imm8 => Opcode::Pushq_imm32,
        _ => return None,
    })
}

/// Whether two instructions do the same with the same operands, wherever each of them lies.
pub(super) fn is_same(a: &Instruction, b: &Instruction) -> bool {
    let operation = |i: &Instruction| {
        let prefixes = (
            i.has_lock_prefix(),
            i.has_rep_prefix(),
            i.has_repne_prefix(),
        );
        (i.code(), i.op_count(), prefixes, i.segment_prefix())
    };
    let memory = |i: &Instruction| {
        let registers = (i.memory_base(), i.memory_index(), i.memory_segment());
        (registers, i.memory_index_scale(), i.memory_displacement64())
    };
    let masking = |i: &Instruction| {
        let details = (i.op_mask(), i.zeroing_masking(), i.is_broadcast());
        (details, i.rounding_control())
    };
    let operand = |operand: u32| {
        let (kind, other) = (a.op_kind(operand), b.op_kind(operand));
        kind == other
            && match kind {
                OpKind::Register => a.op_register(operand) == b.op_register(operand),
                OpKind::NearBranch64 => a.near_branch_target() == b.near_branch_target(),
                OpKind::Memory => memory(a) == memory(b),
                _ => a.try_immediate(operand).ok() == b.try_immediate(operand).ok(),
            }
    };
    !a.is_invalid()
        && operation(a) == operation(b)
        && masking(a) == masking(b)
        && (0..a.op_count()).all(operand)
}
