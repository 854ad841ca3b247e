//! Calculating relocations, and storing them and the constants that the solver chose.

use elf_tools::reachability::Code;
use elf_tools::relocation::{Kind, OperandField, Quantity, Relocation, Relocations};

use crate::Result;
use crate::arch::{Arch, Change};
use crate::link::constant::Constant;
use crate::link::resolve::Resolved;
use crate::placement::Placement;
use crate::plan::eligibility::{Failure, Fault};
use crate::reason::Unresolved;

/// Applies every relocation whose need is met and whose value fits, and returns the others with the
/// reason. `bytes` begins with the image; the reader of the table has checked its places against the
/// image's size.
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

/// Stores new values of constants that fit, by operand field.
pub(super) fn constants(
    arch: &dyn Arch,
    operand_fields: &[OperandField],
    constants: &[Option<Constant>],
    code: &Code,
    changes: &[(u32, i64)],
    bytes: &mut [u8],
) -> Result<()> {
    let change = |&(operand_field, value): &(u32, i64)| {
        let constant = constants[operand_field as usize]?;
        let OperandField { place, width } = operand_fields[operand_field as usize];
        Some(Change {
            address: code.instructions()[constant.instruction as usize].address,
            part: constant.part,
            place,
            width: width.bytes() as usize,
            value,
        })
    };
    let changes: Vec<Change> = changes.iter().filter_map(change).collect();
    arch.store(&changes, bytes)
}
