//! What the constraints of a table have to add up to.

use elf_tools::relocation::{Constraint, Relocations, RightHandSide};

use crate::link::constant::Constant;
use crate::link::resolve::Resolved;
use crate::placement::Placement;
use crate::plan::eligibility::{Failure, Fault};
use crate::reason::{ConstraintFault, Unresolved};

/// For each constraint of a table what its terms have to add up to; `None` for those among the
/// failures.
pub(super) fn totals(
    relocations: &Relocations,
    constants: &[Option<Constant>],
    resolved: &[Result<Resolved, Unresolved>],
    placement: &Placement,
) -> (Vec<Option<i64>>, Vec<Failure>) {
    let mut failures = Vec::new();
    let mut totals = Vec::with_capacity(relocations.constraints.len());
    for (constraint, index) in relocations.constraints.iter().zip(0..) {
        let total = match &resolved[constraint.need as usize] {
            Ok(resolved) => total(constraint, *resolved, placement)
                .and_then(|total| check_terms(constraint, constants).map(|()| total))
                .map_err(Fault::Constraint),
            Err(_) => Err(Fault::Unresolved),
        };
        match total {
            Ok(total) => totals.push(Some(total)),
            Err(fault) => {
                totals.push(None);
                failures.push(Failure { index, fault });
            }
        }
    }
    (totals, failures)
}

fn total(
    constraint: &Constraint,
    resolved: Resolved,
    placement: &Placement,
) -> Result<i64, ConstraintFault> {
    let quantity = match (constraint.right_hand_side, resolved) {
        (RightHandSide::Presence, _) => return Ok(0),
        (RightHandSide::Address, Resolved::Place { address, .. }) => {
            Some(address.distance_from(placement.image))
        }
        (RightHandSide::Size, Resolved::Place { size, .. }) => i64::try_from(size).ok(),
        (RightHandSide::Address | RightHandSide::Size, Resolved::Distance(_)) => {
            return Err(ConstraintFault::Distance);
        }
    };
    let total = quantity.and_then(|quantity| quantity.checked_add(constraint.addend));
    let total = total.ok_or(ConstraintFault::Overflow)?;
    if constraint.terms.is_empty() && total != 0 {
        return Err(ConstraintFault::NoTerms(total));
    }
    Ok(total)
}

/// Terms must be about constants that exist, each at most once.
fn check_terms(
    constraint: &Constraint,
    constants: &[Option<Constant>],
) -> Result<(), ConstraintFault> {
    for term in &constraint.terms {
        if !matches!(constants.get(term.operand_field as usize), Some(Some(_))) {
            return Err(ConstraintFault::NoConstant(term.operand_field));
        }
    }
    if !constraint
        .terms
        .is_sorted_by(|a, b| a.operand_field < b.operand_field)
    {
        return Err(ConstraintFault::Unordered);
    }
    Ok(())
}
