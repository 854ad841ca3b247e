//! What has to be done for a process to be what it was before it was linked.

use std::ops::Range;

use elf_tools::{Avma, Svma};
use nix::unistd::Pid;

use super::content::Content;
use super::link::moves;
use super::recognise::KernelUnit;
use super::record::{Before, Placed, Record};
use super::report::{LinkedText, Outcome, State};
use super::spare::Begun;
use super::stage::{self, Stage};
use super::survey::Survey;
use super::text::Text;
use super::{Job, Planned};
use crate::targets::{Step, WORD, overlaps, subtract};
use crate::{Error, Result};
use relocator::threads::Write;
use relocator::threads::frames::merge;

/// What has to be done, or nothing if the process is not linked.
pub(super) fn job(survey: &Survey, pid: Pid, build_id: &[u8]) -> Result<Planned> {
    let mut outcome = Outcome::new(pid, survey);
    let is_changed = |text: &Text| text.record.is_some() || text.begun.is_some();
    if !survey.texts.iter().any(is_changed) {
        return Ok((None, outcome));
    }
    let unit = survey.unit(pid)?;
    let mut job = Job::default();
    let mut back: Vec<Placed> = Vec::new();
    let mut zeros: Vec<Range<Avma>> = Vec::new();
    for text in &survey.texts {
        match (&text.record, &text.begun) {
            (Some(found), _) => {
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
            (None, Some(begun)) => {
                zeros.extend_from_slice(&begun.zeros);
                undo_begun(text, begun, &mut job)?;
            }
            (None, None) => job.crossings.push((text.before()?, text.unlinked())),
        }
    }
    // Where no text is linked any more, the kernel's mappings are where they belong.
    if !back.is_empty() {
        job.kernel = moves(unit, &back)?;
    }
    free(survey, &job.kernel, pid)?;
    // Old code that no jump covers reads zeros, so they are there before it is: only where a record has taken their place they
    // come back when that is gone.
    let zeros = vacant(&zeros, survey, unit, &back);
    let texts = survey.texts.iter().map(|text| text.found.mapping.clone());
    let before = subtract(zeros.clone(), texts);
    let behind = subtract(zeros, before.iter().cloned());
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

/// One text: entries make system calls until it is what it was.
fn undo_text(text: &Text, record: &Record, job: &mut Job) -> Result<()> {
    let found = &text.found;
    let old = &record.text;
    let mut bytes = record.undone(&found.bytes, found.mapping.start)?;
    let unlinked = text.unlinked();
    let image = (found.image.0 - old.start.0) as usize;
    let stage = Stage::new(text, &unlinked, &bytes[image..], found.size)?;
    let late = stage.finish(&bytes[image..]);
    stage.put(&mut bytes, old.start);
    let mut after = unlinked;
    stage.extend(&mut after);
    let now = record.linked(&found.bytes, found.mapping.start)?;
    job.crossings.push((Some(now), after));
    let mut spare = found.bytes.clone();
    stage.put(&mut spare, found.mapping.start);
    job.early.push(Step::Spare(spare));
    job.early.extend(stage.begin());
    let at = old.start;
    job.late.push(Step::Replace { at, bytes });
    job.late.extend(late);
    unmap_added(text, old, job);
    Ok(())
}

/// One text that a tool was about to replace which was killed: what differs is put back, entries first.
fn undo_begun(text: &Text, begun: &Begun, job: &mut Job) -> Result<()> {
    let found = &text.found;
    let old = begun.base.range();
    let mut after = text.unlinked();
    let now = text.before()?;
    let entries = text.old.code.functions().iter();
    let entries: Vec<Svma> = entries.map(|function| function.entry).collect();
    stage::extend(&mut after, entries.iter().copied());
    job.crossings.push((now, after));
    let base = &begun.base;
    let mut now = Content {
        at: found.mapping.start,
        bytes: found.bytes.clone(),
    };
    for entry in entries {
        let at = entry.at(found.image);
        let word = at..at.offset(WORD as i64);
        if let (Some(now), Some(bytes)) = (now.part_mut(&word), base.part(&word))
            && now != bytes
        {
            now.copy_from_slice(bytes);
            let bytes = bytes.to_vec();
            job.late.push(Step::Write(Write { at, bytes }));
        }
    }
    let now = now.part(&old).unwrap_or_default();
    let rest = Record::difference(&base.bytes, now, old.start).into_iter();
    let rest = rest.map(|Before { at, bytes }| Step::Write(Write { at, bytes }));
    job.late.extend(rest);
    unmap_added(text, &old, job);
    Ok(())
}

/// Unmaps what a link has added to a text.
fn unmap_added(text: &Text, old: &Range<Avma>, job: &mut Job) {
    let found = &text.found.mapping;
    for added in [found.start..old.start, old.end..found.end] {
        if !added.is_empty() {
            job.late.push(Step::Unmap(added));
        }
    }
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
    subtract(merge(ranges), others.chain(kernel))
}

/// The places where the kernel's mappings were must be free still.
fn free(survey: &Survey, moves: &[Step], pid: Pid) -> Result<()> {
    for step in moves {
        let Step::Move { from, to } = step else {
            continue;
        };
        let place = *to..to.offset((from.end.0 - from.start.0) as i64);
        let mut mappings = survey.mappings.iter();
        if let Some(mapping) = mappings.find(|mapping| overlaps(&mapping.range, &place)) {
            let reason = format!(
                "has {} {} at {} now, where a mapping of the kernel's would have to go back to",
                mapping.protection, mapping.name, mapping.range.start
            );
            return Err(refused(pid, reason));
        }
    }
    Ok(())
}
