//! Constants of instructions: which one an operand field is, and instructions with other constants in their place.

use elf_tools::Svma;
use elf_tools::disassembly::{Access, Field};
use elf_tools::reachability::Code;
use elf_tools::relocation::{OperandField, Width};
use iced_x86::{Code as Opcode, Decoder, DecoderOptions, Instruction, OpKind};

/// Longest instruction in bytes.
pub(super) const LONGEST: usize = 15;

/// Which constant of an instruction an operand field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Of its memory operand.
    Displacement,
    /// The first one.
    Immediate,
}

/// A operand field, found in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Constant {
    /// Index into the code's instructions.
    pub(super) instruction: u32,
    pub(super) part: Part,
    /// What the image has there.
    pub(super) value: i64,
}

/// Finds each operand field; `None` where no instruction has such a constant.
pub(super) fn find(
    code: &Code,
    bytes: &[u8],
    operand_fields: &[OperandField],
) -> Vec<Option<Constant>> {
    let instructions = code.instructions();
    let find = |operand_field: &OperandField| {
        let after = instructions.partition_point(|i| i.address <= operand_field.place);
        let index = after.checked_sub(1)?;
        let instruction = &instructions[index];
        let is = |field: Field| {
            instruction.address.offset(i64::from(field.offset)) == operand_field.place
                && u64::from(field.size) == operand_field.width.bytes()
        };
        let part = match operand_field.width {
            Width::None => {
                let can = instruction.access != Access::None
                    && instruction.displacement.size == 0
                    && instruction.address == operand_field.place;
                can.then_some(Part::Displacement)?
            }
            _ if is(instruction.displacement) => Part::Displacement,
            _ if is(instruction.immediate) => Part::Immediate,
            _ => return None,
        };
        Some(Constant {
            instruction: index as u32,
            part,
            value: value(bytes, operand_field)?,
        })
    };
    operand_fields.iter().map(find).collect()
}

fn value(bytes: &[u8], operand_field: &OperandField) -> Option<i64> {
    let stored = bytes.get(operand_field.place.index()..)?;
    match operand_field.width {
        Width::None => Some(0),
        Width::I8 => stored.first().map(|&byte| i64::from(byte as i8)),
        Width::I32 => stored
            .first_chunk()
            .map(|word| i64::from(i32::from_le_bytes(*word))),
    }
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

/// Puts `value` in place of a constant, which is kept as wide as it is. `None` if there is no such constant.
pub(super) fn set(instruction: &mut Instruction, part: Part, value: i64) -> Option<()> {
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

/// Puts `value` in place of a constant and makes it four bytes wide. `None` if the instruction has no such form.
pub(super) fn widen(instruction: &mut Instruction, part: Part, value: i64) -> Option<()> {
    let word = i32::try_from(value).ok()?;
    match part {
        Part::Displacement if instruction.is_ip_rel_memory_operand() => None,
        Part::Displacement => {
            // In iced's terms a displacement of 64-bit addressing has 8 bytes; 4 of them are stored.
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
