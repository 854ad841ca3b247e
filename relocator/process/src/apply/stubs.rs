//! Leftovers that are unmapped, and the threads in them: in the stubs of a prepared process.

use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::kernel::RunningKernel;
use super::prepare::ALIGNMENT;
use super::survey::Survey;
use super::text::Text;
use crate::targets::Thread;
use relocator::proxy;
use relocator::threads::carry::{Carried, Contexts, carry};
use relocator::threads::{CodeNow, Crossing, FixUp, Memory, Registers, StuckReason, Verdict};

/// A mapping with stubs of one text.
struct Stubs<'a> {
    range: Range<Avma>,
    text: &'a Text,
    /// What threads find there: each stub as if it overwrote a function.
    code: CodeNow,
    gone: CodeNow,
    /// The functions that each is for.
    entries: Vec<(Svma, Svma)>,
}

/// How threads leave what is to be unmapped, and what cannot be unmapped because one cannot.
pub(super) fn leave(
    survey: &Survey,
    kernel: &RunningKernel,
    threads: &[Thread],
    contexts: &Contexts,
    memory: &dyn Memory,
) -> (Carried, Vec<Range<Avma>>) {
    let mut all = Carried::default();
    let mut in_use = Vec::new();
    for range in &survey.leftovers {
        let decide = |registers: &Registers| match range.contains(&registers.pc) {
            true => stuck(range, registers),
            false => Verdict::Outside,
        };
        if carry(threads, contexts, &decide).stuck.is_empty() {
            continue;
        }
        let stubs: Vec<Stubs<'_>> = survey
            .texts
            .iter()
            .filter_map(|text| Stubs::of(text, range, memory))
            .collect();
        let decide = |registers: &Registers| {
            if !range.contains(&registers.pc) {
                return Verdict::Outside;
            }
            let left = stubs
                .iter()
                .find_map(|stubs| stubs.left(kernel, registers, memory));
            left.map_or_else(|| stuck(range, registers), Verdict::FixUp)
        };
        let carried = carry(threads, contexts, &decide);
        match carried.stuck.is_empty() {
            true => {
                all.threads.extend(carried.threads);
                all.writes.extend(carried.writes);
                all.frames += carried.frames;
            }
            false => in_use.push(range.clone()),
        }
    }
    (all, in_use)
}

fn stuck(range: &Range<Avma>, registers: &Registers) -> Verdict {
    Verdict::Stuck {
        place: Svma(registers.pc.0.wrapping_sub(range.start.0)),
        reason: StuckReason::InUse,
    }
}

impl<'a> Stubs<'a> {
    /// Those of a text in a mapping, if there are any.
    fn of(text: &'a Text, range: &Range<Avma>, memory: &dyn Memory) -> Option<Self> {
        let mut bytes = vec![0; (range.end.0 - range.start.0) as usize];
        if !memory.read(range.start, &mut bytes) {
            return None;
        }
        let mut code = CodeNow::unchanged(bytes.len());
        let mut entries = Vec::new();
        for function in text.old.code.functions() {
            let mut exports = text.old.image.exports_at(function.entry);
            let call = exports.find_map(|export| proxy::system_call(&export.name));
            let stub = call.map(proxy::system_call_stub).unwrap_or_default();
            let mut starts = (text.pristine.len()..bytes.len()).step_by(ALIGNMENT);
            let place = starts.find(|&at| !stub.is_empty() && bytes[at..].starts_with(&stub));
            if let Some(place) = place {
                let place = Svma(place as u64);
                code.patch(place, stub);
                entries.push((place, function.entry));
            }
        }
        (!entries.is_empty()).then(|| Self {
            range: range.clone(),
            text,
            gone: CodeNow::gone(bytes.len()),
            code,
            entries,
        })
    }

    /// How a thread leaves: to the entry of the function, or to its caller if the system call has
    /// been made.
    fn left(
        &self,
        kernel: &RunningKernel,
        registers: &Registers,
        memory: &dyn Memory,
    ) -> Option<FixUp> {
        let crossing = Crossing {
            image: self.range.start,
            ..self.text.crossing(Some(&self.code), &self.gone, kernel)
        };
        let place = Svma(registers.pc.0 - self.range.start.0);
        let fix_up = match crossing.thread(registers, memory) {
            Verdict::FixUp(fix_up) => fix_up,
            Verdict::Untouched => FixUp {
                from: place,
                to: place,
                registers: *registers,
                writes: Vec::new(),
                returns: 0,
            },
            _ => return None,
        };
        if !self.range.contains(&fix_up.registers.pc) {
            return Some(fix_up);
        }
        let found = self.entries.iter().find(|entry| entry.0 == fix_up.to)?;
        let registers = Registers {
            pc: found.1.at(self.text.found.image),
            ..fix_up.registers
        };
        Some(FixUp {
            registers,
            ..fix_up
        })
    }
}
