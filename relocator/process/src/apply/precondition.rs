//! What a plan needs of a live process, beyond that it can be traced. The tool asks before it stops
//! anything.

use std::fs;
use std::ops::Range;

use elf_tools::Avma;

use super::survey::Survey;
use super::transaction::Transaction;
use crate::targets::{Step, overlaps};
use crate::tracing::TraceableProcess;
use crate::{Error, Refusal, Result};
use relocator::placement::PAGE;

/// Refuses a process of which steps would certainly fail.
pub(super) fn check(
    process: &TraceableProcess,
    survey: &Survey,
    transaction: &Transaction,
) -> Result<()> {
    let refused = |reason| Err(Error::refused(survey.id, reason));
    let steps = || transaction.fixed_steps();
    let changed: Vec<Range<Avma>> = steps().filter_map(covered).collect();
    let first = |special: &[Range<Avma>]| {
        let mut special = special.iter();
        let found = special.find(|range| changed.iter().any(|other| overlaps(other, range)));
        found.map(|range| range.start)
    };
    if let Some(at) = first(&survey.special.sealed) {
        return refused(Refusal::Sealed { at });
    }
    if let Some(at) = first(&survey.special.on_demand)
        && is_asked_by_itself(survey.id)
    {
        return refused(Refusal::Watched { at });
    }
    let bytes: u64 = steps().map(added).sum();
    let more = steps().filter(|step| added(step) > 0).count() + 1;
    process.check_room(bytes, survey.mappings.len(), more)
}

/// What a step moves, unmaps or covers.
fn covered(step: &Step) -> Option<Range<Avma>> {
    match step {
        Step::Replace { at, bytes } => Some(*at..at.offset(bytes.len() as i64)),
        Step::Move { from, .. } => Some(from.clone()),
        Step::Unmap(range) => Some(range.clone()),
        _ => None,
    }
}

/// Bytes that a process has more while a step is carried out.
fn added(step: &Step) -> u64 {
    let size = match step {
        Step::Replace { bytes, .. } | Step::RecoveryCopy(bytes) => bytes.len() as u64,
        Step::Placeholder(range) => range.end.0 - range.start.0,
        _ => 0,
    };
    size.next_multiple_of(PAGE)
}

/// Whether a process has a `userfaultfd` of its own that asks for consent to changes of mappings:
/// the call that makes the change waits until somebody has read the question.
fn is_asked_by_itself(pid: i32) -> bool {
    /// `UFFD_FEATURE_EVENT_REMAP`, `_REMOVE` and `_UNMAP`.
    const EVENTS: u64 = 1 << 2 | 1 << 3 | 1 << 6;
    let files = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut files = files.into_iter().flatten().filter_map(|file| {
        let file = file.ok()?;
        let target = fs::read_link(file.path()).ok()?;
        (target.as_os_str() == "anon_inode:[userfaultfd]").then(|| file.file_name())
    });
    files.any(|file| {
        let path = format!("/proc/{pid}/fdinfo/{}", file.to_string_lossy());
        let info = fs::read_to_string(path).unwrap_or_default();
        // `API:` is followed by the version, the features that were asked for, and those known.
        let api = info.lines().find_map(|line| line.strip_prefix("API:"));
        let features = api.and_then(|api| api.trim().split(':').nth(1));
        let features = features.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        features.is_none_or(|features| features & EVENTS != 0)
    })
}
