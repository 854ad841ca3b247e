//! What has to be done for a process to be what it was before it was linked.

use std::ops::Range;

use elf_tools::Avma;
use nix::unistd::Pid;

use super::link::moves;
use super::recognise::KernelUnit;
use super::record::{Placed, Record};
use super::report::{LinkedText, Outcome, State};
use super::survey::Survey;
use super::text::Text;
use super::{Job, Planned, layout};
use crate::target::{Step, meet, without};
use crate::threads::Write;
use crate::threads::frames::joined;
use crate::{Error, Result};

/// What has to be done, or nothing if the process is not linked.
pub(super) fn job(survey: &Survey, pid: Pid, build_id: &[u8]) -> Result<Planned> {
    let mut outcome = Outcome::new(pid, survey);
    if survey.texts.iter().all(|text| text.record.is_none()) {
        return Ok((None, outcome));
    }
    let unit = survey.unit(pid)?;
    let mut job = Job::default();
    let mut back: Vec<Placed> = Vec::new();
    let mut zeros: Vec<Range<Avma>> = Vec::new();
    for text in &survey.texts {
        let Some(found) = &text.record else {
            job.crossings.push((text.before()?, text.unlinked()));
            continue;
        };
        let record = &found.record;
        if record.new != build_id {
            let reason = "was linked to another kernel, and is on this one now: it cannot be put back to what it was \
                          there, only be linked to this one";
            return Err(refused(pid, reason));
        }
        if back.is_empty() {
            back = record.kernel.iter().map(turned).collect();
        }
        zeros.extend_from_slice(&record.zeros);
        undo_text(text, record, &mut job)?;
        outcome.texts.push(LinkedText::recorded(text, record));
    }
    job.kernel = moves(unit, &back)?;
    match job.kernel.is_empty() {
        true => job.early.clear(),
        false => free(survey, &job.kernel, pid)?,
    }
    // Old code that no jump covers reads zeros, so they are there before it is: only where a record has taken their place they
    // come back when that is gone.
    let zeros = vacant(&zeros, survey, unit, &back);
    let texts = survey.texts.iter().map(|text| text.found.mapping.clone());
    let before = without(zeros.clone(), texts);
    let behind = without(zeros, before.iter().cloned());
    job.late.splice(0..0, before.into_iter().map(Step::Zero));
    job.late.extend(behind.into_iter().map(Step::Zero));
    job.late.extend(survey.discard());
    outcome.state = State::RolledBack;
    outcome.kernel = back;
    Ok((Some(job), outcome))
}

fn refused(pid: Pid, reason: impl Into<String>) -> Error {
    Error::Process {
        pid: pid.as_raw(),
        reason: reason.into(),
    }
}

/// A mapping on its way back.
fn turned(placed: &Placed) -> Placed {
    Placed {
        from: placed.to,
        to: placed.from,
        ..placed.clone()
    }
}

/// One text: entries make system calls until it is replaced.
fn undo_text(text: &Text, record: &Record, job: &mut Job) -> Result<()> {
    let found = &text.found;
    let now = record.linked(&found.bytes, found.mapping.start)?;
    let mut after = text.unlinked();
    layout::extend(&mut after, &record.entries);
    job.crossings.push((Some(now), after));
    for entry in &record.entries {
        if let Some(word) = entry.stage {
            job.early.push(Step::Write(Write {
                at: entry.at.at(found.image),
                bytes: word.to_vec(),
            }));
        }
    }
    let mut bytes = found.bytes.clone();
    record.undo(&mut bytes, found.mapping.start)?;
    let old = &record.text;
    let offset = (old.start.0 - found.mapping.start.0) as usize;
    let size = (old.end.0 - old.start.0) as usize;
    let bytes = bytes
        .get(offset..offset + size)
        .ok_or_else(|| Error::Unlinkable {
            what: format!("the vDSO at {}", found.image),
            reason: "its link record speaks of more than there is".to_owned(),
        })?;
    job.late.push(Step::Replace {
        at: old.start,
        bytes: bytes.to_vec(),
    });
    for added in [found.mapping.start..old.start, old.end..found.mapping.end] {
        if !added.is_empty() {
            job.late.push(Step::Unmap(added));
        }
    }
    Ok(())
}

/// What of some ranges nobody else has taken: nothing is there now but the kernel's mappings, which go back, and pages that links
/// have added.
fn vacant(
    ranges: &[Range<Avma>],
    survey: &Survey,
    unit: &KernelUnit,
    back: &[Placed],
) -> Vec<Range<Avma>> {
    let ours = unit.mappings.iter().map(|mapping| &mapping.range);
    let ours: Vec<_> = ours
        .chain(survey.texts.iter().map(|text| &text.found.mapping))
        .collect();
    let others = survey.mappings.iter().map(|mapping| mapping.range.clone());
    let others = others.filter(|range| !ours.contains(&range));
    let kernel = back
        .iter()
        .map(|placed| placed.to..placed.to.offset(placed.size as i64));
    without(joined(ranges), others.chain(kernel))
}

/// The places where the kernel's mappings were must be free still.
fn free(survey: &Survey, moves: &[Step], pid: Pid) -> Result<()> {
    for step in moves {
        let Step::Move { from, to } = step else {
            continue;
        };
        let place = *to..to.offset((from.end.0 - from.start.0) as i64);
        let mut mappings = survey.mappings.iter();
        if let Some(mapping) = mappings.find(|mapping| meet(&mapping.range, &place)) {
            let reason = format!(
                "has {} {} at {} now, where a mapping of the kernel's would have to go back to",
                mapping.protection, mapping.name, mapping.range.start
            );
            return Err(refused(pid, reason));
        }
    }
    Ok(())
}
