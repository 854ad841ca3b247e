//! A transaction: all changes to a process, in their order.
//!
//! Planning fills it in while the process runs. When its threads have stopped, they get their
//! verdicts, and the transaction becomes a list of steps.

use std::cell::Cell;
use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::kernel::RunningKernel;
use super::stubs;
use super::survey::Survey;
use crate::targets::{Mapping, Step, StoppedTarget, Thread, writable};
use crate::{Error, Obstacle, Result};
use relocator::threads::carry::{Carried, Contexts, Stuck, carry};
use relocator::threads::{CodeNow, Crossing, Memory, Registers, StuckReason, Verdict};

/// All changes, in this order: threads leave the old texts, `early`, threads leave the new
/// vDSO, `kernel`, `late`. After each step the process could go on.
#[derive(Debug, Clone, Default)]
pub(super) struct Transaction {
    /// Each text: what threads find there now, and what they will.
    pub(super) crossings: Vec<(Option<CodeNow>, CodeNow)>,
    /// Droppable memory in which random states may be, which nobody may use as they are.
    pub(super) stale: Vec<Range<Avma>>,
    /// Makes texts independent of the kernel's mappings.
    pub(super) early: Vec<Step>,
    /// Moves them.
    pub(super) kernel: Vec<Step>,
    /// Makes texts final.
    pub(super) late: Vec<Step>,
    /// Whether threads leave texts and the new vDSO altogether, wherever they can, because something
    /// else may be there later.
    pub(super) evacuates: bool,
}

/// Threads that are carried across.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Number of all threads.
    pub threads: usize,
    /// Of those, threads that were inside an old text, or in the new vDSO while that had to be
    /// moved, and go on elsewhere.
    pub moved: usize,
    /// Contexts in signal frames that do.
    pub frames: usize,
    /// Where contexts may be that the tool has not looked for, because stacks are too large.
    pub left_out: Vec<Range<Avma>>,
}

impl Transaction {
    /// The steps that are known before any thread has stopped.
    pub(super) fn fixed_steps(&self) -> impl Iterator<Item = &Step> {
        self.early.iter().chain(&self.kernel).chain(&self.late)
    }

    /// Places that the steps need to be as they were.
    pub(super) fn places(&self) -> Vec<Range<Avma>> {
        let steps = self.fixed_steps();
        let place = |step: &Step| {
            let (at, size) = match step {
                Step::Replace { at, bytes } => (*at, bytes.len() as u64),
                Step::Move { from, to } => (*to, from.end.0 - from.start.0),
                Step::Placeholder(range) | Step::Unmap(range) => return Some(range.clone()),
                Step::Registers(_)
                | Step::Write(_)
                | Step::RecoveryCopy(_)
                | Step::Separate(_)
                | Step::Forget(_) => {
                    return None;
                }
            };
            Some(at..at.offset(size as i64))
        };
        steps.filter_map(place).collect()
    }

    /// All steps for a stopped process, or what is in the way.
    pub(super) fn steps(
        &self,
        survey: &Survey,
        kernel: &RunningKernel,
        target: &impl StoppedTarget,
        mappings: &[Mapping],
    ) -> Result<(Vec<Step>, Crossed)> {
        let threads = target.threads()?;
        let writable = writable(mappings);
        let leftovers = survey.leftovers.iter().cloned();
        let texts: Vec<Range<Avma>> = survey.occupied().chain(leftovers).collect();
        let contexts = Contexts::of(&threads, &writable, &texts, target, &target.scope());
        if !contexts.absent().is_empty() {
            return Err(Error::Busy {
                pid: survey.id,
                reason: Obstacle::Absent {
                    ranges: contexts.absent().to_vec(),
                },
            });
        }
        let gone = survey
            .texts
            .iter()
            .map(|text| CodeNow::gone(text.found.bytes.len()));
        let gone: Vec<CodeNow> = gone.collect();
        let crossings = survey.texts.iter().zip(&self.crossings).zip(&gone);
        let crossings = crossings.map(|((text, (before, after)), gone)| {
            let crossing = text.crossing(before.as_ref(), after, kernel);
            let away = Crossing {
                after: gone,
                ..crossing
            };
            (text.found.mapping.clone(), crossing, away)
        });
        // By address, so that each context is asked about once, however many texts there are.
        let mut crossings: Vec<_> = crossings.collect();
        crossings.sort_by_key(|(range, ..)| range.start);
        let decide = |registers: &Registers| {
            let first = crossings.partition_point(|(range, ..)| range.end <= registers.pc);
            let Some((range, crossing, away)) = crossings.get(first) else {
                return Verdict::Outside;
            };
            let left = self
                .evacuates
                .then(|| decide(away, range, registers, target));
            match left {
                Some(verdict) if !matches!(verdict, Verdict::Stuck { .. }) => verdict,
                _ => decide(crossing, range, registers, target),
            }
        };
        let mut old = carry(&threads, &contexts, &decide);
        let (left, in_use) = stubs::leave(survey, kernel, &threads, &contexts, target);
        add(&mut old, left);
        let (new, is_answered) = self.leave_kernel(survey, kernel, target, &threads, &contexts);
        let mut stuck = old.stuck.iter().chain(&new.stuck);
        if let Some(first) = stuck.next() {
            let mut threads = threads.iter();
            let thread = threads.find(|thread| thread.id == first.thread);
            let goes_on = thread.is_some_and(|thread| {
                first.frame.is_none() && self.can_go_on(survey, kernel, &thread.registers, target)
            });
            return Err(Error::Busy {
                pid: first.thread,
                reason: obstacle(first, stuck.count(), goes_on),
            });
        }
        let crossed = Crossed {
            threads: threads.len(),
            moved: old.threads.len() + new.threads.len(),
            frames: old.frames + new.frames,
            left_out: contexts.left_out().to_vec(),
        };
        let mut steps = fix_ups(old);
        steps.splice(0..0, self.stale.iter().cloned().map(Step::Forget));
        let new = fix_ups(new);
        // Those that leave before anything else can make the calls that the rest takes: there may
        // be no other thread.
        match is_answered {
            true => steps.extend(new.into_iter().chain(self.early.iter().cloned())),
            false => steps.extend(self.early.iter().cloned().chain(new)),
        }
        let is_in_use = |step: &&Step| matches!(step, Step::Unmap(range) if in_use.contains(range));
        let rest = self.kernel.iter().chain(&self.late);
        steps.extend(rest.filter(|step| !is_in_use(step)).cloned());
        Ok((steps, crossed))
    }

    /// Whether a thread would leave the text that it is in by itself, with a right result: the new
    /// vDSO has its data, and of an old text it must be code that reads nothing more.
    fn can_go_on(
        &self,
        survey: &Survey,
        kernel: &RunningKernel,
        registers: &Registers,
        target: &impl StoppedTarget,
    ) -> bool {
        let vdso = survey.found.kernel.as_ref().and_then(|unit| unit.vdso());
        if vdso.is_some_and(|vdso| vdso.range.contains(&registers.pc)) {
            return true;
        }
        let mut texts = survey.texts.iter().zip(&self.crossings);
        texts.any(|(text, (before, after))| {
            let crossing = text.crossing(before.as_ref(), after, kernel);
            text.found.mapping.contains(&registers.pc) && crossing.can_go_on(registers, target)
        })
    }

    /// Makes threads leave the new vDSO if that moves; whether each goes to an entry that is right
    /// already, before anything is written.
    fn leave_kernel(
        &self,
        survey: &Survey,
        kernel: &RunningKernel,
        target: &impl StoppedTarget,
        threads: &[Thread],
        contexts: &Contexts,
    ) -> (Carried, bool) {
        let unit = survey.found.kernel.as_ref();
        let Some(vdso) = unit.and_then(|unit| unit.vdso()) else {
            return (Carried::default(), true);
        };
        let all_answered = Cell::new(true);
        let decide = |registers: &Registers| {
            let is_inside = vdso.range.contains(&registers.pc);
            if !is_inside || !self.evacuates && self.kernel.is_empty() {
                return Verdict::Outside;
            }
            let left = kernel.leave(vdso.range.start, &survey.texts, registers, target);
            if let Verdict::FixUp(fix_up) = &left {
                let is_answered = self.is_answered(survey, fix_up.registers.pc);
                all_answered.set(all_answered.get() && is_answered);
            }
            left
        };
        let left = carry(threads, contexts, &decide);
        (left, all_answered.get())
    }

    /// Whether something is in place of the function at an entry of an old text, which gives right
    /// answers: a jump, or what a link has put there. The function itself reads what is gone.
    fn is_answered(&self, survey: &Survey, entry: Avma) -> bool {
        let mut texts = survey.texts.iter().zip(&self.crossings);
        texts.any(|(text, (before, _))| {
            let place = Svma(entry.0.wrapping_sub(text.found.image.0));
            let patched = before.as_ref().and_then(|before| before.patched(place));
            text.found.mapping.contains(&entry) && patched.is_some()
        })
    }
}

/// Decides about a thread in an old text. It is moved before the text is changed, so where it goes
/// must be right before and afterwards: only entries of functions are.
fn decide(
    crossing: &Crossing<'_>,
    text: &Range<Avma>,
    registers: &Registers,
    memory: &dyn Memory,
) -> Verdict {
    if !text.contains(&registers.pc) {
        return Verdict::Outside;
    }
    match crossing.thread(registers, memory) {
        Verdict::FixUp(fix_up) if !is_entry(crossing, fix_up.to) => Verdict::Stuck {
            place: fix_up.from,
            reason: StuckReason::MovedAfterwards,
        },
        // Nothing there is executed but the injected call of a killed tool, from which a thread
        // finds its way by itself.
        Verdict::Outside => Verdict::Stuck {
            place: Svma(registers.pc.0.wrapping_sub(crossing.image.0)),
            reason: StuckReason::ForeignSystemCall,
        },
        verdict => verdict,
    }
}

fn is_entry(crossing: &Crossing<'_>, place: Svma) -> bool {
    let mut functions = crossing.old.code.functions().iter();
    functions.any(|function| function.entry == place)
}

fn add(all: &mut Carried, more: Carried) {
    all.threads.extend(more.threads);
    all.writes.extend(more.writes);
    all.frames += more.frames;
    all.stuck.extend(more.stuck);
}

fn fix_ups(carried: Carried) -> Vec<Step> {
    let mut steps: Vec<Step> = carried.writes.into_iter().map(Step::Write).collect();
    if !carried.threads.is_empty() {
        steps.push(Step::Registers(carried.threads));
    }
    steps
}

fn obstacle(first: &Stuck, others: usize, goes_on: bool) -> Obstacle {
    Obstacle::Inside {
        place: first.place,
        frame: first.frame,
        why: first.reason.clone(),
        others,
        goes_on,
    }
}
