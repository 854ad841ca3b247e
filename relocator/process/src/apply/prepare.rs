//! Plans what makes a process ready for a dump: a state in which it can be restored on any kernel,
//! its home included, by any tool, at any moment.
//!
//! A restore does one of three things to an old text. At home CRIU replaces it by the kernel's own,
//! and its placeholder by the kernel's vvar. Elsewhere CRIU overwrites 16 bytes of the entries that
//! it knows. Or this tool links it. None is right for a thread in linked code, in a jump, or in the
//! new vDSO. So in a prepared process
//!
//! - the text is what it was before the link, of the same size, and its entries jump to *stubs*
//!   that make the system call, in a mapping of their own: the only boundary of the text that
//!   threads come to is an entry, which is right in whatever replaces it, and in a stub they stay;
//! - no thread and no signal frame is elsewhere in the text or in the new vDSO;
//! - the placeholder is where the old vvar was, and the mark says so.
//!
//! The mapping of the stubs begins with a copy of the text and has its record. So it is a recovery
//! copy: to `apply` and `rollback` the process is one whose link was interrupted, whenever the tool
//! that prepares it is killed, and afterwards.
//!
//! Functions that no system call replaces run their own code, as they did before the link.

use std::ops::Range;

use elf_tools::{Avma, BuildId, Svma};

use super::chunk::MemoryChunk;
use super::dump;
use super::kernel::RunningKernel;
use super::link::{moves, placed};
use super::outcome::{ApplyOutcome, ApplyState, LinkedText};
use super::place::{self, REACH, Unit, UnitPlace};
use super::recognise::{KernelUnit, is_zeros};
use super::record::{Entry, Placed, Record};
use super::survey::Survey;
use super::text::Text;
use super::undo::{unmap_before, unmap_behind, vacant};
use super::{Planned, Transaction};
use crate::targets::{Step, WORD, overlaps};
use crate::{Error, Result, Unlinkable};
use elf_tools::symtab::mapping_name::VDSO;
use relocator::criu;
use relocator::placement::PAGE;
use relocator::plan::Strategy;
use relocator::proxy;
use relocator::threads::frames::merge;
use relocator::threads::{CodeNow, Write};

/// Stubs begin at a multiple of this.
pub(super) const ALIGNMENT: usize = 16;

/// Bytes of a record, at most.
const RECORD: usize = PAGE as usize;

/// The transaction, or none if there is nothing to prepare.
pub(super) fn plan(survey: &Survey, kernel: &RunningKernel) -> Result<Planned> {
    let mut outcome = ApplyOutcome::new(survey);
    if survey.texts.is_empty() {
        return Ok((None, outcome));
    }
    let unit = survey.unit()?;
    let placed = make_way(survey, unit, kernel)?;
    let placeholders = survey.placeholders();
    let coming = vacant(&placeholders, survey, unit, &placed);
    let mark = dump::unguard(survey, unit, &placed, &coming, kernel.limits);
    let is_prepared = |text: &Text| text.interrupted.as_ref().is_some_and(|one| one.is_prepared);
    let stays = placed.iter().all(|placed| placed.from == placed.to);
    if survey.texts.iter().all(is_prepared) && mark.is_empty() && stays {
        outcome.state = ApplyState::AlreadyPrepared;
        return Ok((None, outcome));
    }
    let mut transaction = Transaction {
        kernel: moves(unit, &placed)?,
        evacuates: true,
        ..Transaction::default()
    };
    let mut taken: Vec<Range<Avma>> = placed.iter().map(Placed::range).collect();
    taken.extend(placeholders.iter().cloned());
    taken.extend(mark.iter().filter_map(|step| match step {
        Step::Placeholder(range) => Some(range.clone()),
        _ => None,
    }));
    let origins = survey.origins.complete(&placed);
    for text in &survey.texts {
        let base = kernel.base(text, vdso(&placed));
        let mut draft = Draft::new(text, base);
        let size = (draft.stubs_end() as u64).next_multiple_of(PAGE);
        let span = &draft.base.range();
        let at = place::near(REACH, span, size, &taken, &survey.taken, kernel.limits);
        let at = at.map_err(|unreachable| Error::Unlinkable {
            what: format!("the vDSO at {}", text.found.image),
            reason: Unlinkable::NoPlace(unreachable),
        })?;
        taken.push(at..at.offset(size as i64));
        draft.jump(at);
        let record = draft.record(text, kernel, &origins, &placeholders);
        let record = draft.put(record, at, &mut transaction)?;
        outcome.texts.push(LinkedText {
            added: size,
            ..LinkedText::recorded(text, &record)
        });
        transaction
            .crossings
            .push((text.before()?, draft.after(text)));
        draft.replace(text, &mut transaction);
    }
    transaction
        .late
        .extend(whole(&placeholders, coming, survey));
    transaction.late.extend(mark);
    transaction.late.extend(survey.discard());
    outcome.state = ApplyState::Prepared;
    outcome.kernel = placed;
    Ok((Some(transaction), outcome))
}

/// Maps what is missing of placeholders. A dump finds a placeholder by where it begins, and a restore
/// at home by its size: one of which a part is there becomes a mapping as a whole, since the kernel
/// does not always join its parts. Nothing reads it meanwhile: the text makes system calls.
fn whole(placeholders: &[Range<Avma>], coming: Vec<Range<Avma>>, survey: &Survey) -> Vec<Step> {
    let mut steps = Vec::new();
    for place in placeholders {
        let parts = survey.mappings.iter().filter(|mapping| {
            let range = &mapping.range;
            is_zeros(mapping) && place.start <= range.start && range.end <= place.end
        });
        let parts: Vec<Range<Avma>> = parts.map(|mapping| mapping.range.clone()).collect();
        let own = coming.iter().filter(|range| overlaps(range, place));
        let own: Vec<Range<Avma>> = own.cloned().collect();
        let all = merge(&parts.iter().chain(&own).cloned().collect::<Vec<_>>());
        let is_in_parts = parts.len() + own.len() > 1;
        if is_in_parts && all == [place.clone()] {
            steps.extend(parts.into_iter().map(Step::Unmap));
            steps.push(Step::Placeholder(place.clone()));
        } else {
            steps.extend(own.into_iter().map(Step::Placeholder));
        }
    }
    steps
}

/// The kernel's mappings: they stay, unless they are where the placeholder has to be.
fn make_way(survey: &Survey, unit: &KernelUnit, kernel: &RunningKernel) -> Result<Vec<Placed>> {
    let placeholders = survey.placeholders();
    let is_in_way = |range: &Range<Avma>| placeholders.iter().any(|one| overlaps(one, range));
    let mut mappings = unit.mappings.iter();
    if !mappings.any(|mapping| is_in_way(&mapping.range)) {
        return Ok(placed(unit, UnitPlace::Stays));
    }
    let texts = survey.texts.iter().map(|text| &text.found.mapping);
    let first = texts.min_by_key(|text| text.start).cloned();
    let first = first.unwrap_or(Avma(0)..Avma(0));
    let (all, limits) = (&survey.taken, kernel.limits);
    let mappings = &unit.mappings;
    let size = Unit { mappings }.size();
    let at = place::near(u64::MAX, &first, size, &placeholders, all, limits);
    let at = at.map_err(|unreachable| Error::Unlinkable {
        what: "the kernel's mappings".to_owned(),
        reason: Unlinkable::NoPlace(unreachable),
    })?;
    Ok(placed(unit, UnitPlace::At(at)))
}

fn vdso(placed: &[Placed]) -> Option<Avma> {
    placed.iter().find(|one| one.name == VDSO).map(|one| one.to)
}

/// A text that is prepared.
struct Draft {
    /// What the process gets back if it is not linked any more.
    base: MemoryChunk,
    image: Avma,
    /// The functions, and where in the mapping of the stubs the stub of each is.
    stubs: Vec<(Svma, usize, Vec<u8>)>,
    /// All functions.
    functions: Vec<Svma>,
    /// What entries are to begin with.
    words: Vec<(Svma, Vec<u8>)>,
}

impl Draft {
    fn new(text: &Text, base: MemoryChunk) -> Self {
        let functions = text.old.code.functions().iter();
        let functions: Vec<Svma> = functions.map(|function| function.entry).collect();
        let mut end = base.bytes.len().next_multiple_of(PAGE as usize) + RECORD;
        let mut stubs = Vec::new();
        for &entry in &functions {
            let exports = text.old.image.exports_at(entry);
            let sizes = exports.clone().map(|export| export.size as usize);
            let mut calls = exports.filter_map(|export| proxy::system_call(&export.name));
            if let Some(call) = calls.next().filter(|_| sizes.max() >= Some(WORD)) {
                let stub = proxy::system_call_stub(call);
                let start = end.next_multiple_of(ALIGNMENT);
                end = start + stub.len();
                stubs.push((entry, start, stub));
            }
        }
        Self {
            image: text.found.image,
            base,
            stubs,
            functions,
            words: Vec::new(),
        }
    }

    /// The first byte behind the last stub.
    fn stubs_end(&self) -> usize {
        let ends = self.stubs.iter().map(|(_, start, stub)| start + stub.len());
        let record = self.base.bytes.len().next_multiple_of(PAGE as usize) + RECORD;
        ends.max().unwrap_or(record)
    }

    /// Makes entries jump to stubs in a mapping at `at`.
    fn jump(&mut self, at: Avma) {
        for (entry, start, _) in &self.stubs {
            let place = entry.at(self.image);
            let jump = proxy::jump(place, at.offset(*start as i64));
            let word = place..place.offset(WORD as i64);
            if let (Some(own), true) = (self.base.part(&word), jump.len() <= WORD) {
                let mut word = own.to_vec();
                word[..jump.len()].copy_from_slice(&jump);
                self.words.push((*entry, word));
            }
        }
    }

    /// What the text will be.
    fn bytes(&self) -> Vec<u8> {
        let mut all = self.base.clone();
        for (entry, word) in &self.words {
            let at = entry.at(self.image);
            if let Some(place) = all.part_mut(&(at..at.offset(word.len() as i64))) {
                place.copy_from_slice(word);
            }
        }
        all.bytes
    }

    fn writes(&self) -> impl Iterator<Item = Step> {
        self.words.iter().map(|(entry, word)| {
            Step::Write(Write {
                at: entry.at(self.image),
                bytes: word.clone(),
            })
        })
    }

    /// The record, but for what was there before.
    fn record(
        &self,
        text: &Text,
        kernel: &RunningKernel,
        placed: &[Placed],
        placeholders: &[Range<Avma>],
    ) -> Record {
        let old = text.old.image.build_id();
        let bytes = self.bytes();
        let entry = |&at: &Svma| {
            let start = at.at(self.image).0 - self.base.at.0;
            let mut first = [0; WORD];
            for (byte, known) in first.iter_mut().zip(bytes.iter().skip(start as usize)) {
                *byte = *known;
            }
            let word = self.words.iter().find(|word| word.0 == at);
            Entry {
                at,
                strategy: word.map_or(Strategy::Keep, |_| Strategy::Syscall),
                replaced: word.map_or(0, |word| word.1.len() as u32),
                bytes: first,
            }
        };
        Record {
            old: old.map_or(&[][..], BuildId::as_bytes).to_vec(),
            new: kernel.build_id().to_vec(),
            image: self.image,
            text: self.base.range(),
            before: Vec::new(),
            kernel: placed.to_vec(),
            placeholders: placeholders.to_vec(),
            entries: self.functions.iter().map(entry).collect(),
            moved: Vec::new(),
            jumps_back: Vec::new(),
            overwritten: text.overwritten(&self.base),
        }
    }

    /// Maps the stubs, behind a copy of the text with its record, and leads entries to them.
    fn put(&self, record: Record, at: Avma, transaction: &mut Transaction) -> Result<Record> {
        let mut bytes = self.bytes();
        let start = bytes.len().next_multiple_of(PAGE as usize);
        bytes.resize(self.stubs_end().next_multiple_of(PAGE as usize), 0);
        let entries = self.functions.iter().map(|entry| {
            let entry = entry.at(self.image);
            entry..entry.offset(criu::JUMP as i64)
        });
        let kept: Vec<_> = entries.collect();
        let stored = record.store(&self.base.bytes, &mut bytes, self.base.at, start, &kept)?;
        if stored.at.end.0 - stored.at.start.0 > RECORD as u64 {
            return Err(Error::Unlinkable {
                what: format!("the vDSO at {}", self.image),
                reason: Unlinkable::NoRoomForRecord,
            });
        }
        for (_, start, stub) in &self.stubs {
            bytes[*start..][..stub.len()].copy_from_slice(stub);
        }
        transaction.early.push(Step::Replace { at, bytes });
        transaction.early.extend(self.writes());
        Ok(stored.record)
    }

    /// What threads find in the text, in the beginning or in the end: a restore may overwrite all
    /// entries.
    fn after(&self, text: &Text) -> CodeNow {
        let mut after = text.unlinked();
        for entry in &self.functions {
            after.overwrite(*entry, criu::JUMP);
        }
        after
    }

    /// Puts the text in place, unless only its entries differ.
    fn replace(&self, text: &Text, transaction: &mut Transaction) {
        if text.record.is_none() && text.interrupted.is_none() {
            return;
        }
        // The copy in front of the stubs does not say what linked code was.
        if text.record.is_some() {
            let copy = text.found.bytes.clone();
            transaction.early.insert(0, Step::RecoveryCopy(copy));
        }
        unmap_before(text, &self.base.range(), transaction);
        transaction.late.push(Step::Replace {
            at: self.base.at,
            bytes: self.bytes(),
        });
        unmap_behind(text, &self.base.range(), transaction);
    }
}

#[cfg(test)]
mod tests;
