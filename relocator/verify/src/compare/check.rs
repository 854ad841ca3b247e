//! Checking each approach in a child of its own, so that a crash or a hang costs its own row only.

use elf_tools::symtab::Symtab;

use super::code::Code;
use super::unlinked::Unlinked;
use super::{CompareOptions, Failure, Row};
use crate::calls::{self, CheckedFunction};
use crate::child::{self, Lost, Progress};
use crate::linked::Prepared;
use crate::{Approach, Result};
use relocator::in_words;
use relocator::plan::Policy;

/// A row for each approach, with what calls came to.
pub(super) fn check_all(
    prepared: &Prepared<'_>,
    home: Option<&Symtab>,
    options: &CompareOptions,
) -> Result<Vec<Row>> {
    let rows = Approach::ALL.map(|approach| check(prepared, home, approach, options));
    let rows: Result<Vec<Row>> = rows.into_iter().collect();
    rows.map(share_code)
}

fn check(
    prepared: &Prepared<'_>,
    home: Option<&Symtab>,
    approach: Approach,
    options: &CompareOptions,
) -> Result<Row> {
    let mut row = Row::empty(approach, prepared.callable().len(), None);
    if let Some(other) = approach.code_of() {
        row.code_of = Some(other);
        return Ok(row);
    }
    let size = match approach.into() {
        Code::Linked(policy) => match prepared.try_link(policy) {
            Ok(size) => Some((policy, size)),
            Err(error) => {
                let reason = in_words(&error);
                row.fail(Failure::Refused { reason });
                return Ok(row);
            }
        },
        Code::Unlinked { .. } | Code::Native => None,
    };
    let checked = child::try_run(options.conditions(), |progress| {
        let row = row.clone();
        progress.at("mapping the image");
        match (size, approach.into()) {
            (Some(size), _) => linked(prepared, row, size, options, progress),
            (None, Code::Unlinked { jumps }) => {
                let unlinked = Unlinked::new(prepared, home, jumps);
                on_zeros(prepared, &unlinked, row, options, progress)
            }
            (None, _) => native(prepared, row, options, progress),
        }
    });
    checked.or_else(|lost| {
        row.fail(failure(lost)?);
        Ok(row)
    })
}

/// What a row is told of a child that was lost. What the system refuses is no row's fault.
pub(super) fn failure(lost: Lost) -> Result<Failure> {
    match lost {
        Lost::Error(error) if !error.is_refusal() => Err(error),
        lost => Ok(lost.into()),
    }
}

/// Approaches that have the code of another one cover what that covers, and fail where it fails.
fn share_code(mut rows: Vec<Row>) -> Vec<Row> {
    let all = rows.clone();
    for row in &mut rows {
        let other = all.iter().find(|other| Some(other.approach) == row.code_of);
        if let Some(other) = other {
            row.covered = other.covered;
            row.reason.clone_from(&other.reason);
            row.failure.clone_from(&other.failure);
        }
    }
    rows
}

/// Checks an image that is linked.
fn linked(
    prepared: &Prepared<'_>,
    mut row: Row,
    (policy, size): (Policy, usize),
    options: &CompareOptions,
    progress: &mut Progress,
) -> Result<Row> {
    let approach = row.approach;
    let mapped = prepared.map(policy, size)?;
    let wanted = |strategy| approach.covers(strategy);
    let outcomes = crate::check_functions(prepared, &mapped, &wanted, options.rounds, progress)?;
    for (outcome, plan) in outcomes.into_iter().zip(&mapped.functions) {
        if mapped.entry(plan).is_none() {
            continue;
        }
        if approach.covers(plan.strategy) {
            row.add(&outcome.name, true, outcome.tally());
        } else {
            row.reason.get_or_insert_with(|| {
                format!("{} is {}: {}", outcome.name, plan.strategy, outcome.reason)
            });
        }
    }
    Ok(row)
}

/// Checks code that is on zeros, of which no one promises anything.
fn on_zeros(
    prepared: &Prepared<'_>,
    unlinked: &Unlinked<'_>,
    mut row: Row,
    options: &CompareOptions,
    progress: &mut Progress,
) -> Result<Row> {
    let live = prepared.native()?;
    for function in unlinked.map()? {
        let name = function.names.first().map_or("", String::as_str);
        let checked = CheckedFunction {
            home: None,
            name,
            entry: function.entry,
            native: live.entry(&function.names),
            is_stub: false,
            rounds: options.rounds,
        };
        row.add(name, function.jumps, calls::check(&checked, progress)?);
    }
    let reason = match row.approach {
        Approach::Criu => "other functions than the four that CRIU knows run on zeros",
        _ => "everything runs on zeros",
    };
    row.reason = Some(reason.to_owned());
    Ok(row)
}

/// Checks the running kernel's own functions, as far as the old image has them.
fn native(
    prepared: &Prepared<'_>,
    mut row: Row,
    options: &CompareOptions,
    progress: &mut Progress,
) -> Result<Row> {
    let live = prepared.native()?;
    for names in prepared.callable() {
        let name = names.first().map_or("", String::as_str);
        let Some(entry) = live.entry(&names) else {
            let missing = || format!("the running kernel has no {name}");
            row.reason.get_or_insert_with(missing);
            continue;
        };
        let function = CheckedFunction {
            home: None,
            name,
            entry,
            native: Some(entry),
            is_stub: false,
            rounds: options.rounds,
        };
        row.add(name, true, calls::check(&function, progress)?);
    }
    Ok(row)
}
