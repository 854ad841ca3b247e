//! What the sums of a table have to add up to.

use elf_tools::relocation::{Demand, Relocations, Sum};

use crate::link::constant::Constant;
use crate::link::resolve::{Resolved, Unresolved};
use crate::placement::Placement;
use crate::plan::own::Failure;

/// For each sum of a table what its terms have to add up to; `None` for those among the failures.
pub(super) fn totals(
    relocations: &Relocations,
    constants: &[Option<Constant>],
    resolved: &[Result<Resolved, Unresolved>],
    placement: &Placement,
) -> (Vec<Option<i64>>, Vec<Failure>) {
    let mut failures = Vec::new();
    let mut totals = Vec::with_capacity(relocations.sums.len());
    // Many sums have the same need.
    let unresolved: Vec<Option<String>> = resolved
        .iter()
        .map(|resolved| Some(resolved.as_ref().err()?.to_string()))
        .collect();
    for (sum, index) in relocations.sums.iter().zip(0..) {
        let total = match &resolved[sum.need as usize] {
            Ok(resolved) => total(sum, *resolved, placement)
                .and_then(|total| check_terms(sum, constants).map(|()| total))
                .map_err(|reason| {
                    let reference = &relocations.needs[sum.need as usize].reference;
                    format!("`{reference}` at {}: {reason}", sum.site)
                }),
            Err(_) => Err(unresolved[sum.need as usize].clone().unwrap_or_default()),
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

fn total(sum: &Sum, resolved: Resolved, placement: &Placement) -> Result<i64, String> {
    let quantity = match (sum.demand, resolved) {
        (Demand::Presence, _) => return Ok(0),
        (Demand::Address, Resolved::Place { address, .. }) => {
            Some(address.distance_from(placement.image))
        }
        (Demand::Size, Resolved::Place { size, .. }) => i64::try_from(size).ok(),
        (Demand::Address | Demand::Size, Resolved::Distance(_)) => {
            return Err("a distance has neither an address nor a size".to_owned());
        }
    };
    let total = quantity.and_then(|quantity| quantity.checked_add(sum.addend));
    let total = total.ok_or_else(|| "an address beyond 64 bits".to_owned())?;
    if sum.terms.is_empty() && total != 0 {
        return Err(format!(
            "it is off by {total:#x}, and no constant of the code can take that"
        ));
    }
    Ok(total)
}

/// Terms must be about constants that exist, each at most once.
fn check_terms(sum: &Sum, constants: &[Option<Constant>]) -> Result<(), String> {
    for term in &sum.terms {
        if !matches!(constants.get(term.slot as usize), Some(Some(_))) {
            return Err(format!("slot {} is no constant", term.slot));
        }
    }
    if !sum.terms.is_sorted_by(|a, b| a.slot < b.slot) {
        return Err("the terms are not in order".to_owned());
    }
    Ok(())
}
