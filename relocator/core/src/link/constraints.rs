//! What the constraints of a table have to add up to.

use elf_tools::relocation::{Constraint, Relocations, RightHandSide};

use crate::link::constant::Constant;
use crate::link::resolve::{Resolved, Unresolved};
use crate::placement::Placement;
use crate::plan::own::Failure;

/// For each constraint of a table what its terms have to add up to; `None` for those among the failures.
pub(super) fn totals(
    relocations: &Relocations,
    constants: &[Option<Constant>],
    resolved: &[Result<Resolved, Unresolved>],
    placement: &Placement,
) -> (Vec<Option<i64>>, Vec<Failure>) {
    let mut failures = Vec::new();
    let mut totals = Vec::with_capacity(relocations.constraints.len());
    // Many constraints have the same need.
    let unresolved: Vec<Option<String>> = resolved
        .iter()
        .map(|resolved| Some(resolved.as_ref().err()?.to_string()))
        .collect();
    for (constraint, index) in relocations.constraints.iter().zip(0..) {
        let total = match &resolved[constraint.need as usize] {
            Ok(resolved) => total(constraint, *resolved, placement)
                .and_then(|total| check_terms(constraint, constants).map(|()| total))
                .map_err(|reason| {
                    let reference = &relocations.needs[constraint.need as usize].reference;
                    format!("`{reference}` at {}: {reason}", constraint.site)
                }),
            Err(_) => Err(unresolved[constraint.need as usize]
                .clone()
                .unwrap_or_default()),
        };
        match total {
            Ok(total) => totals.push(Some(total)),
            Err(reason) => {
                totals.push(None);
                failures.push(Failure { index, reason });
            }
        }
    }
    (totals, failures)
}

fn total(
    constraint: &Constraint,
    resolved: Resolved,
    placement: &Placement,
) -> Result<i64, String> {
    let quantity = match (constraint.right_hand_side, resolved) {
        (RightHandSide::Presence, _) => return Ok(0),
        (RightHandSide::Address, Resolved::Place { address, .. }) => {
            Some(address.distance_from(placement.image))
        }
        (RightHandSide::Size, Resolved::Place { size, .. }) => i64::try_from(size).ok(),
        (RightHandSide::Address | RightHandSide::Size, Resolved::Distance(_)) => {
            return Err("a distance has neither an address nor a size".to_owned());
        }
    };
    let total = quantity.and_then(|quantity| quantity.checked_add(constraint.addend));
    let total = total.ok_or_else(|| "an address beyond 64 bits".to_owned())?;
    if constraint.terms.is_empty() && total != 0 {
        return Err(format!(
            "it is off by {total:#x}, and no constant of the code can take that"
        ));
    }
    Ok(total)
}

/// Terms must be about constants that exist, each at most once.
fn check_terms(constraint: &Constraint, constants: &[Option<Constant>]) -> Result<(), String> {
    for term in &constraint.terms {
        if !matches!(constants.get(term.operand_field as usize), Some(Some(_))) {
            return Err(format!(
                "operand field {} is no constant",
                term.operand_field
            ));
        }
    }
    if !constraint
        .terms
        .is_sorted_by(|a, b| a.operand_field < b.operand_field)
    {
        return Err("the terms are not in order".to_owned());
    }
    Ok(())
}
