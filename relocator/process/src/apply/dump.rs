//! What a dump by CRIU makes of a process: its mark, and the decoy.
//!
//! A dump leaves out the vDSO that has the mark, and the mapping that the mark calls the new vvar.
//! It takes the mapping at the mark's `old_vdso` for the vDSO and that at `old_vvar` for the vvar,
//! and a restore maps zeros in place of every vvar. If the sizes of both and some symbols are those
//! of the kernel that restores, as at home, CRIU unmaps them and moves the kernel's own there
//! (`vdso_proxify`). It asks neither what the text is nor who is inside, so a linked process does
//! not survive that. Therefore the mark of a linked process calls a *decoy* the old vvar: one page
//! of zeros, smaller than any kernel's vvar. CRIU then leaves the text alone but for its jumps,
//! also at home, and the next link finds the text, its record and all threads. If the decoy is above
//! the kernel's mappings, the mark names no new vvar, so that there are zeros where linked code
//! reads, until the process is linked again; CRIU compares the highest vvar that it finds.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name::{VDSO, VVAR};

use super::place::{self, Limits};
use super::recognise::{KernelUnit, is_zeros};
use super::record::Placed;
use super::survey::Survey;
use crate::targets::{Mapping, Step, overlaps};
use relocator::criu::Mark;
use relocator::placement::PAGE;
use relocator::threads::{Memory, Write};

/// The decoy of a process, if its mark names one.
pub(super) fn decoy(survey: &Survey, unit: &KernelUnit) -> Option<Range<Avma>> {
    let mark = unit.mark?;
    let found = mapping_at(&survey.mappings, mark.old_vvar)?;
    let is_decoy = found.size() == PAGE && is_zeros(found) && found.range.end != mark.old_vdso;
    // A link record may have left one page of a placeholder.
    let placeholders = survey.placeholders();
    let mut placeholders = placeholders.iter();
    let is_decoy = is_decoy && !placeholders.any(|one| overlaps(one, &found.range));
    is_decoy.then(|| found.range.clone())
}

fn mapping_at(mappings: &[Mapping], start: Avma) -> Option<&Mapping> {
    mappings.iter().find(|mapping| mapping.range.start == start)
}

/// Makes the next dump of a process one that can be linked again wherever it is restored, when the
/// kernel's mappings have been placed.
///
/// The mark names the decoy before it is mapped, and for a while after it is unmapped, so that none
/// is left behind if the tool is killed.
pub(super) fn guard(
    survey: &Survey,
    unit: &KernelUnit,
    placed: &[Placed],
    limits: Limits,
) -> Vec<Step> {
    let Some((mark, vdso, vvar)) = ends(unit, placed) else {
        return Vec::new();
    };
    let known = decoy(survey, unit);
    let is_above = |range: &Range<Avma>| range.start > vvar;
    let new = || {
        let taken: Vec<_> = placed.iter().map(Placed::range).collect();
        let taken: Vec<_> = taken.into_iter().chain(survey.placeholders()).collect();
        let free = place::apart(vvar, PAGE, &taken, &survey.taken, limits);
        free.map(|at| at..at.offset(PAGE as i64))
    };
    let chosen = known
        .clone()
        .filter(is_above)
        .or_else(new)
        .or(known.clone());
    let Some(chosen) = chosen else {
        return update(mark, vdso, mark.old_vvar, vvar).collect();
    };
    let new_vvar = if is_above(&chosen) {
        Mark::NOWHERE
    } else {
        vvar
    };
    let is_new = known.as_ref() != Some(&chosen);
    let [old, new] = writes(mark, vdso, chosen.start, new_vvar);
    let gone = known.filter(|_| is_new).map(Step::Unmap);
    let mapped = is_new.then_some(Step::Placeholder(chosen));
    gone.into_iter()
        .chain(old)
        .chain(mapped)
        .chain(new)
        .collect()
}

/// Makes the mark name the old vvar again, and removes the decoy. `coming` are placeholders that
/// will be mapped.
///
/// If nothing of the placeholder is a mapping by itself, the decoy stays, or comes: a restore at
/// home would not bring the kernel's vvar along, and a dump would leave out whatever else is there.
pub(super) fn unguard(
    survey: &Survey,
    unit: &KernelUnit,
    placed: &[Placed],
    coming: &[Range<Avma>],
    limits: Limits,
) -> Vec<Step> {
    let Some((mark, vdso, vvar)) = ends(unit, placed) else {
        return Vec::new();
    };
    let decoy = decoy(survey, unit);
    // A tool that was killed may have removed the decoy, or not have mapped it yet.
    let is_guarded = decoy.is_some() || mapping_at(&survey.mappings, mark.old_vvar).is_none();
    let recorded = old_vvar(survey, mark).filter(|_| is_guarded);
    let old = recorded.unwrap_or(mark.old_vvar);
    if !begins(old, survey, coming) || decoy.as_ref().is_some_and(|decoy| decoy.start == old) {
        return guard(survey, unit, placed, limits);
    }
    let gone = decoy.map(Step::Unmap).into_iter();
    gone.chain(update(mark, vdso, old, vvar)).collect()
}

/// Where the old vvar was of the text that the mark is about.
fn old_vvar(survey: &Survey, mark: Mark) -> Option<Avma> {
    let text = survey
        .texts
        .iter()
        .find(|text| text.found.image == mark.old_vdso)?;
    let placeholders = survey.placeholders();
    let mut below = placeholders.iter();
    let found = below.find(|range| range.end == text.mapping.start);
    found.map(|range| range.start)
}

/// Whether a mapping of zeros begins at a place, or will, and none before it reaches it, with which
/// the kernel would join it.
fn begins(at: Avma, survey: &Survey, coming: &[Range<Avma>]) -> bool {
    let mut zeros = survey.mappings.iter().filter(|mapping| is_zeros(mapping));
    let is_there = mapping_at(&survey.mappings, at).is_some_and(is_zeros);
    let will_be = coming.iter().any(|range| range.start == at);
    let is_joined = zeros.any(|zeros| zeros.range.start < at && at <= zeros.range.end);
    (is_there || will_be && !is_joined) && at.0 > 0
}

/// Zeros that a restore has left where linked code read the kernel's data.
pub(super) fn stale(survey: &Survey, memory: &dyn Memory) -> Option<Range<Avma>> {
    let records = survey.texts.iter().filter_map(|text| text.record.as_ref());
    let mut places = records.filter_map(|found| {
        let data = found
            .record
            .kernel
            .iter()
            .filter(|placed| placed.name != VDSO);
        let data: Vec<_> = data.map(Placed::range).collect();
        let start = data.iter().map(|range| range.start).min()?;
        Some(start..data.iter().map(|range| range.end).max()?)
    });
    let is_stale = |place: &Range<Avma>| {
        let found = mapping_at(&survey.mappings, place.start);
        let is_there = found.is_some_and(|found| found.range == *place && is_zeros(found));
        let holds_zeros = || {
            let mut bytes = vec![1; (place.end.0 - place.start.0) as usize];
            memory.read(place.start, &mut bytes) && bytes.iter().all(|&byte| byte == 0)
        };
        is_there && holds_zeros()
    };
    places.find(is_stale)
}

/// The mark, and where the vDSO that has it and the new vvar will be.
fn ends(unit: &KernelUnit, placed: &[Placed]) -> Option<(Mark, Avma, Avma)> {
    let target = |name: &str| placed.iter().find(|one| one.name == name).map(|one| one.to);
    let present = |name: &str| {
        let found = unit.mappings.iter().find(|mapping| mapping.name == name);
        found.map(|mapping| mapping.range.start)
    };
    let end = |name: &str| target(name).or_else(|| present(name));
    Some((unit.mark?, end(VDSO)?, end(VVAR)?))
}

/// Changes what the mark says.
fn update(
    mark: Mark,
    vdso: Avma,
    old_vvar: Avma,
    new_vvar: Avma,
) -> impl Iterator<Item = Step> + use<> {
    writes(mark, vdso, old_vvar, new_vvar).into_iter().flatten()
}

/// The same as single steps: of the old vvar and of the new one, where they change.
fn writes(mark: Mark, vdso: Avma, old_vvar: Avma, new_vvar: Avma) -> [Option<Step>; 2] {
    let fields = [
        (Mark::OLD_VVAR, mark.old_vvar, old_vvar),
        (Mark::NEW_VVAR, mark.new_vvar, new_vvar),
    ];
    fields.map(|(offset, now, wanted)| {
        (now != wanted).then(|| {
            Step::Write(Write {
                at: vdso.offset(offset as i64),
                bytes: wanted.0.to_le_bytes().to_vec(),
            })
        })
    })
}
