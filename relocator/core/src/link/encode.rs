//! Calculating relocations and storing them, and the constants that were solved for.

use elf_tools::Svma;
use elf_tools::reachability::Code;
use elf_tools::relocation::{Kind, OperandField, Quantity, Relocation, Relocations};
use iced_x86::Instruction;

use crate::error::InstructionFault;
use crate::link::constant::{self, Constant, Reader};
use crate::link::resolve::Resolved;
use crate::placement::Placement;
use crate::plan::eligibility::{Failure, Fault};
use crate::reason::Unresolved;
use crate::{Error, Result};

/// Applies every relocation that can be applied and returns the others with the reason. `bytes` begins with the image,
/// whose bounds the table was checked against when it was read.
pub(super) fn entries(
    relocations: &Relocations,
    resolved: &[Result<Resolved, Unresolved>],
    placement: &Placement,
    bytes: &mut [u8],
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (relocation, index) in relocations.entries.iter().zip(0..) {
        let value = match &resolved[relocation.need as usize] {
            Ok(resolved) => calculate(relocation, *resolved, placement),
            Err(_) => {
                let fault = Fault::Unresolved;
                failures.push(Failure { index, fault });
                continue;
            }
        };
        if !relocation.kind.fits(value) {
            let fault = Fault::OutOfRange(value);
            failures.push(Failure { index, fault });
            continue;
        }
        store(relocation, value, bytes);
    }
    failures
}

fn calculate(relocation: &Relocation, resolved: Resolved, placement: &Placement) -> i128 {
    let addend = match relocation.kind {
        Kind::GlobDat => 0,
        _ => i128::from(relocation.addend),
    };
    match (resolved, relocation.kind.quantity()) {
        (Resolved::Distance(distance), _) => i128::from(distance) + addend,
        (Resolved::Place { address, .. }, Quantity::Distance) => {
            i128::from(address.0) + addend - i128::from(placement.avma(relocation.place).0)
        }
        (Resolved::Place { address, .. }, Quantity::Value) => i128::from(address.0) + addend,
        (Resolved::Place { size, .. }, Quantity::Size) => i128::from(size) + addend,
    }
}

fn store(relocation: &Relocation, value: i128, bytes: &mut [u8]) {
    let width = relocation.kind.width() as usize;
    bytes[relocation.place.index()..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// Stores new values of constants that fit, by operand field, and checks by decoding that nothing else changed.
pub(super) fn constants(
    operand_fields: &[OperandField],
    constants: &[Option<Constant>],
    code: &Code,
    changes: &[(u32, i64)],
    bytes: &mut [u8],
) -> Result<()> {
    let mut expected: Vec<(Svma, Instruction)> = Vec::with_capacity(changes.len());
    let mut reader = Reader::new(bytes);
    for &(operand_field, value) in changes {
        let Some(constant) = constants[operand_field as usize] else {
            continue;
        };
        let address = code.instructions()[constant.instruction as usize].address;
        // Slots are in order, so the two that an instruction may have follow each other.
        if expected.last().is_none_or(|last| last.0 != address) {
            expected.push((address, reader.at(address)));
        }
        if let Some((_, instruction)) = expected.last_mut() {
            constant::set(instruction, constant.part, value)
                .ok_or_else(|| damaged(address, InstructionFault::NoConstant))?;
        }
    }
    for &(operand_field, value) in changes {
        let OperandField { place, width } = operand_fields[operand_field as usize];
        let width = width.bytes() as usize;
        bytes[place.index()..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
    let mut reader = Reader::new(bytes);
    for (address, expected) in &expected {
        let found = reader.at(*address);
        if found.len() != expected.len() || !constant::is_same(expected, &found) {
            return Err(damaged(*address, InstructionFault::Another));
        }
    }
    Ok(())
}

/// An instruction that cannot be changed as intended.
pub(super) fn damaged(address: Svma, fault: InstructionFault) -> Error {
    Error::Instruction { address, fault }
}
