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
use crate::targets::{Mapping, Step};
use relocator::criu::Mark;
use relocator::placement::PAGE;
use relocator::threads::{Memory, Write};

/// The decoy of a process, if its mark names one.
pub(super) fn decoy(survey: &Survey, unit: &KernelUnit) -> Option<Range<Avma>> {
    let mark = unit.mark?;
    let found = mapping_at(&survey.mappings, mark.old_vvar)?;
    let is_decoy = found.size() == PAGE && is_zeros(found) && found.range.end != mark.old_vdso;
    is_decoy.then(|| found.range.clone())
}

fn mapping_at(mappings: &[Mapping], start: Avma) -> Option<&Mapping> {
    mappings.iter().find(|mapping| mapping.range.start == start)
}

/// Makes the next dump of a process one that can be linked again wherever it is restored, when the
/// kernel's mappings have been placed.
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
    let mut steps = Vec::new();
    let mut gone = None;
    let decoy = match known.clone().filter(is_above) {
        Some(decoy) => Some(decoy),
        None => {
            let taken: Vec<_> = placed
                .iter()
                .map(Placed::range)
                .chain(survey.placeholders())
                .collect();
            let free = place::apart(vvar, PAGE, &taken, &survey.mappings, limits);
            let new = free.map(|at| at..at.offset(PAGE as i64));
            steps.extend(new.clone().map(Step::Placeholder));
            gone = known.clone().filter(|_| new.is_some());
            new.or(known)
        }
    };
    let wanted = match decoy {
        Some(decoy) => Mark {
            old_vvar: decoy.start,
            new_vvar: if is_above(&decoy) {
                Mark::NOWHERE
            } else {
                vvar
            },
            ..mark
        },
        None => Mark {
            new_vvar: vvar,
            ..mark
        },
    };
    steps.extend(write(mark, wanted, vdso));
    steps.extend(gone.map(Step::Unmap));
    steps
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
    let old = match &decoy {
        Some(_) => old_vvar(survey, mark),
        None => Some(mark.old_vvar),
    };
    let Some(old_vvar) = old.filter(|old| begins(*old, survey, coming)) else {
        return guard(survey, unit, placed, limits);
    };
    let wanted = Mark {
        old_vvar,
        new_vvar: vvar,
        ..mark
    };
    let written = write(mark, wanted, vdso).into_iter();
    written.chain(decoy.map(Step::Unmap)).collect()
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
        let mut bytes = vec![1; (place.end.0 - place.start.0) as usize];
        found.is_some_and(|found| found.range == *place && is_zeros(found))
            && memory.read(place.start, &mut bytes)
            && bytes.iter().all(|&byte| byte == 0)
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

/// Changes the mark: what it says of the old vvar first, so that no dump in between drops both.
fn write(now: Mark, wanted: Mark, vdso: Avma) -> Vec<Step> {
    let fields = [
        (Mark::OLD_VVAR, now.old_vvar, wanted.old_vvar),
        (Mark::NEW_VVAR, now.new_vvar, wanted.new_vvar),
    ];
    let differing = fields.into_iter().filter(|(_, now, wanted)| now != wanted);
    let writes = differing.map(|(offset, _, wanted)| Write {
        at: vdso.offset(offset as i64),
        bytes: wanted.0.to_le_bytes().to_vec(),
    });
    writes.map(Step::Write).collect()
}
