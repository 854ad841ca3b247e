//! Which constant of an instruction an operand field is.

use elf_tools::disassembly::{Access, Field};
use elf_tools::reachability::Code;
use elf_tools::relocation::{OperandField, Width};

/// Which constant of an instruction an operand field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Of its memory operand.
    Displacement,
    /// The first one.
    Immediate,
}

/// An operand field, found in the code.
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
