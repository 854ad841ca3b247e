//! Calculating relocations and storing them.

use elf_tools::relocation::{Kind, Quantity, Relocation, Relocations};

use crate::link::resolve::{Resolved, Unresolved};
use crate::placement::Placement;
use crate::plan::Failure;

/// Applies every relocation that can be applied and returns the others with the reason. `bytes` begins with the image,
/// whose bounds the table was checked against when it was read.
pub(super) fn all(
    relocations: &Relocations,
    resolved: &[Result<Resolved, Unresolved>],
    placement: &Placement,
    bytes: &mut [u8],
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (relocation, index) in relocations.entries.iter().zip(0..) {
        let value = match &resolved[relocation.need as usize] {
            Ok(resolved) => calculate(relocation, *resolved, placement),
            Err(unresolved) => {
                failures.push(Failure {
                    relocation: index,
                    reason: unresolved.to_string(),
                });
                continue;
            }
        };
        if !relocation.kind.fits(value) {
            let need = &relocations.needs[relocation.need as usize].reference;
            let reason = format!(
                "`{need}` at {}: {value:#x} does not fit {}",
                relocation.place, relocation.kind
            );
            failures.push(Failure {
                relocation: index,
                reason,
            });
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
