//! Plans a rollback: the steps that make a process what it was before it was linked.

use std::ops::Range;

use elf_tools::symtab::mapping_name::VDSO;
use elf_tools::{Avma, Svma};

use super::chunk::MemoryChunk;
use super::dump;
use super::interim::{self, InterimEntries};
use super::kernel::RunningKernel;
use super::link::moves;
use super::outcome::{ApplyOutcome, ApplyState, LinkedText};
use super::recognise::KernelUnit;
use super::record::{Before, Placed, Record};
use super::survey::Survey;
use super::text::Text;
use super::{Planned, Transaction};
use crate::targets::{Step, WORD, overlaps, subtract};
use crate::{Error, Refusal, Result};
use relocator::threads::Write;
use relocator::threads::frames::merge;

/// The transaction, or none if the process is not linked.
pub(super) fn plan(survey: &Survey, kernel: &RunningKernel) -> Result<Planned> {
    let mut outcome = ApplyOutcome::new(survey);
    let is_changed = |text: &Text| text.record.is_some() || text.interrupted.is_some();
    if !survey.texts.iter().any(is_changed) {
        return Ok((None, outcome));
    }
    let unit = survey.unit()?;
    let mut transaction = Transaction::default();
    let mut back: Vec<Placed> = Vec::new();
    let mut placeholders: Vec<Range<Avma>> = Vec::new();
    for text in &survey.texts {
        match (&text.record, &text.interrupted) {
            (Some(found), _) => {
                let record = &found.record;
                if record.new != kernel.build_id() {
                    return Err(Error::refused(survey.id, Refusal::LinkedElsewhere));
                }
                if back.is_empty() {
                    back = record.kernel.iter().map(turned).collect();
                }
                placeholders.extend_from_slice(&record.placeholders);
                undo_text(text, record, &mut transaction)?;
                outcome.texts.push(LinkedText::recorded(text, record));
            }
            (None, Some(interrupted)) => {
                placeholders.extend_from_slice(&interrupted.placeholders);
                if back.is_empty() {
                    back = home(survey, unit).unwrap_or_default();
                }
                let base = kernel.base(text, vdso(unit, &back));
                undo_interrupted(text, &base, &mut transaction)?;
            }
            (None, None) => transaction
                .crossings
                .push((text.before()?, text.unlinked())),
        }
    }
    // Where no text is linked any more, the kernel's mappings are where they belong.
    if !back.is_empty() {
        transaction.kernel = moves(unit, &back)?;
    }
    free(survey, &transaction.kernel)?;
    // What was mapped when a dump would have looked for it is mapped again when the mark says so.
    // Old code that no jump covers reads zeros, so they are there before it is: only where a record
    // has taken their place they come back when that is gone.
    let placeholders = vacant(&placeholders, survey, unit, &back);
    let mark = dump::unguard(survey, unit, &back, &placeholders, kernel.limits);
    let texts = survey.texts.iter().map(|text| text.found.mapping.clone());
    let before = subtract(placeholders.clone(), texts);
    let behind = subtract(placeholders, before.iter().cloned());
    transaction
        .late
        .splice(0..0, before.into_iter().map(Step::Placeholder));
    transaction
        .late
        .extend(behind.into_iter().map(Step::Placeholder));
    transaction.late.extend(mark);
    transaction.late.extend(survey.discard());
    outcome.state = ApplyState::RolledBack;
    outcome.kernel = back;
    Ok((Some(transaction), outcome))
}

/// How the kernel's mappings go back from where an interrupted apply has put them or found them, if
/// they can.
fn home(survey: &Survey, unit: &KernelUnit) -> Option<Vec<Placed>> {
    let back = survey.origins.back(unit)?;
    let moves = moves(unit, &back).ok()?;
    free(survey, &moves).is_ok().then_some(back)
}

/// Where the kernel's vDSO will be.
fn vdso(unit: &KernelUnit, placed: &[Placed]) -> Option<Avma> {
    let moved = placed.iter().find(|one| one.name == VDSO).map(|one| one.to);
    moved.or_else(|| unit.vdso().map(|vdso| vdso.range.start))
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
fn undo_text(text: &Text, record: &Record, transaction: &mut Transaction) -> Result<()> {
    let found = &text.found;
    let old = &record.text;
    let mut bytes = record.undone(&found.bytes, found.mapping.start)?;
    let unlinked = text.unlinked();
    let image = (found.image.0 - old.start.0) as usize;
    let relocated = |entry| text.was_relocated(entry);
    let interim = InterimEntries::new(text, &unlinked, &bytes[image..], found.size, &relocated)?;
    let late = interim.finish(&bytes[image..]);
    interim.put(&mut bytes, old.start);
    let mut after = unlinked;
    interim.extend(&mut after);
    let now = record.linked(&found.bytes, found.mapping.start)?;
    transaction.crossings.push((Some(now), after));
    let mut copy = found.bytes.clone();
    interim.put(&mut copy, found.mapping.start);
    transaction.early.push(Step::RecoveryCopy(copy));
    transaction.early.extend(interim.begin());
    let at = old.start;
    unmap_before(text, old, transaction);
    transaction.late.push(Step::Replace { at, bytes });
    transaction.late.extend(late);
    unmap_behind(text, old, transaction);
    Ok(())
}

/// One text of an interrupted apply: what differs comes back, entries first.
fn undo_interrupted(text: &Text, base: &MemoryChunk, transaction: &mut Transaction) -> Result<()> {
    let found = &text.found;
    let old = base.range();
    let mut after = text.unlinked();
    let now = text.before()?;
    let entries = text.old.code.functions().iter();
    let entries: Vec<Svma> = entries.map(|function| function.entry).collect();
    interim::extend(&mut after, entries.iter().copied());
    transaction.crossings.push((now, after));
    let mut now = MemoryChunk {
        at: found.mapping.start,
        bytes: found.bytes.clone(),
    };
    unmap_before(text, &old, transaction);
    let mut words = Vec::new();
    for entry in entries {
        let at = entry.at(found.image);
        let word = at..at.offset(WORD as i64);
        if let (Some(now), Some(bytes)) = (now.part(&word), base.part(&word))
            && now != bytes
        {
            let bytes = bytes.to_vec();
            words.push(Write { at, bytes });
        }
    }
    for write in interim::at_once(words) {
        let range = write.at..write.at.offset(write.bytes.len() as i64);
        if let Some(now) = now.part_mut(&range) {
            now.copy_from_slice(&write.bytes);
        }
        transaction.late.push(Step::Write(write));
    }
    let now = now.part(&old).unwrap_or_default();
    let rest = Record::difference(&base.bytes, now, old.start);
    let rest = in_pieces(&rest, base).into_iter().map(Step::Write);
    transaction.late.extend(rest);
    unmap_behind(text, &old, transaction);
    Ok(())
}

/// Writes that put back what differs. Stand-ins of an interim text begin at multiples of their
/// alignment, and each goes at once: the next tool knows a whole one, and not what is left of one.
fn in_pieces(differences: &[Before], base: &MemoryChunk) -> Vec<Write> {
    const PIECE: u64 = interim::ALIGNMENT as u64;
    let all = base.range();
    let pieces = differences.iter().map(|one| {
        let start = one.at.0 / PIECE * PIECE;
        let end = (one.at.0 + one.bytes.len() as u64).next_multiple_of(PIECE);
        Avma(start.max(all.start.0))..Avma(end.min(all.end.0))
    });
    let pieces: Vec<Range<Avma>> = pieces.collect();
    let writes = merge(&pieces).into_iter().filter_map(|piece| {
        let bytes = base.part(&piece)?.to_vec();
        let at = piece.start;
        Some(Write { at, bytes })
    });
    writes.collect()
}

/// Unmaps what a link has added before a text. That goes before the text does: a text beside a
/// record is a linked one.
pub(super) fn unmap_before(text: &Text, old: &Range<Avma>, transaction: &mut Transaction) {
    unmap(text.found.mapping.start..old.start, transaction);
}

/// Unmaps what a link has added behind a text.
pub(super) fn unmap_behind(text: &Text, old: &Range<Avma>, transaction: &mut Transaction) {
    unmap(old.end..text.found.mapping.end, transaction);
}

fn unmap(added: Range<Avma>, transaction: &mut Transaction) {
    if !added.is_empty() {
        transaction.late.push(Step::Unmap(added));
    }
}

/// What is still free of some ranges: nothing is there now but the kernel's mappings, which go
/// back, and pages that links have added.
pub(super) fn vacant(
    ranges: &[Range<Avma>],
    survey: &Survey,
    unit: &KernelUnit,
    back: &[Placed],
) -> Vec<Range<Avma>> {
    let ours = unit.mappings.iter().map(|mapping| mapping.range.clone());
    let ours = ours.chain(survey.texts.iter().map(|text| text.found.mapping.clone()));
    let others = survey.mappings.iter().map(|mapping| mapping.range.clone());
    // A text that was being replaced may be in several mappings.
    let others = subtract(others.collect(), ours).into_iter();
    let kernel = back.iter().map(Placed::range);
    subtract(merge(ranges), others.chain(kernel))
}

/// The places where the kernel's mappings were must be free still.
fn free(survey: &Survey, moves: &[Step]) -> Result<()> {
    for step in moves {
        let Step::Move { from, to } = step else {
            continue;
        };
        let place = *to..to.offset((from.end.0 - from.start.0) as i64);
        let mut mappings = survey.mappings.iter();
        if let Some(mapping) = mappings.find(|mapping| overlaps(&mapping.range, &place)) {
            let reason = Refusal::PlaceTaken {
                at: mapping.range.start,
                by: format!("{} {}", mapping.protection, mapping.name),
            };
            return Err(Error::refused(survey.id, reason));
        }
    }
    Ok(())
}
