//! All threads of a process, with the contexts that signals have interrupted, and what carries them
//! across.

use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::frames::{self, Found, Scope};
use super::{Memory, Registers, StuckReason, Thread, Verdict, Write};

/// What carries threads across.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carried {
    /// Threads that go on with other registers.
    pub threads: Vec<Thread>,
    /// Memory that has to be written, contexts in signal frames among it.
    pub writes: Vec<Write>,
    /// Number of contexts in signal frames that go on with other registers.
    pub frames: usize,
    /// Contexts that cannot be carried across.
    pub stuck: Vec<Stuck>,
}

/// A context that cannot be carried across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The thread that it belongs to.
    pub thread: i32,
    /// The `ucontext` that holds it, if it was interrupted by a signal.
    pub frame: Option<Avma>,
    /// Where it is in the image.
    pub place: Svma,
    /// Why.
    pub reason: StuckReason,
}

/// What signals have interrupted in threads, by thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts(Found);

impl Contexts {
    /// Finds those that were interrupted inside one of `texts`. The search takes longer than
    /// everything else about threads, so one search serves all texts and all threads.
    ///
    /// Each context counts once, also where stacks of several threads are one mapping.
    pub fn of(
        threads: &[Thread],
        writable: &[Range<Avma>],
        texts: &[Range<Avma>],
        memory: &dyn Memory,
        scope: &Scope,
    ) -> Self {
        let registers = threads.iter().map(|thread| &thread.registers);
        Self(frames::of_threads(
            registers, writable, texts, memory, scope,
        ))
    }

    /// Where contexts may be that nobody has looked for: [`Found::left_out`].
    pub fn left_out(&self) -> &[Range<Avma>] {
        &self.0.left_out
    }

    /// Where contexts may be that cannot be read yet: [`Found::absent`].
    pub fn absent(&self) -> &[Range<Avma>] {
        &self.0.absent
    }
}

/// Decides about each of these threads, and about each of its contexts.
pub fn carry(
    threads: &[Thread],
    contexts: &Contexts,
    decide: &dyn Fn(&Registers) -> Verdict,
) -> Carried {
    let mut carried = Carried::default();
    let found = &contexts.0;
    for (thread, contexts) in threads.iter().zip(&found.contexts) {
        if let Some(registers) = carried.add(thread.id, None, decide(&thread.registers)) {
            let id = thread.id;
            carried.threads.push(Thread { id, registers });
        }
        for context in contexts {
            let verdict = decide(&context.registers);
            if matches!(verdict, Verdict::Stuck { .. }) && found.returned.contains(&context.at) {
                // What it says may be anything by now, and no thread returns to it.
                continue;
            }
            if let Some(registers) = carried.add(thread.id, Some(context.at), verdict) {
                carried.writes.push(context.write(&registers));
                carried.frames += 1;
            }
        }
    }
    carried
}

impl Carried {
    /// Adds what has to be done about one context; the registers that it goes on with if they are
    /// others.
    fn add(&mut self, thread: i32, frame: Option<Avma>, verdict: Verdict) -> Option<Registers> {
        match verdict {
            Verdict::Outside | Verdict::Untouched => None,
            Verdict::FixUp(fix_up) => {
                self.writes.extend(fix_up.writes);
                Some(fix_up.registers)
            }
            Verdict::Stuck { place, reason } => {
                self.stuck.push(Stuck {
                    thread,
                    frame,
                    place,
                    reason,
                });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::frames::Interrupted;
    use super::*;

    /// One context cannot be carried across: the link waits for its handler, unless that has
    /// returned.
    #[test]
    fn a_context_whose_handler_has_returned_does_not_hinder() {
        let registers = Registers {
            general: [0; elf_tools::reentry::Register::COUNT],
            pc: Avma(0x1000),
            system_call: -1,
        };
        let at = Avma(0x2000);
        let outside = Registers {
            pc: Avma(0x9000),
            ..registers
        };
        let thread = Thread {
            id: 1,
            registers: outside,
        };
        let decide = |registers: &Registers| match registers.pc {
            Avma(0x1000) => Verdict::Stuck {
                place: Svma(0x10),
                reason: StuckReason::UnknownCallers,
            },
            _ => Verdict::Outside,
        };
        let stuck = |returned: &[Avma]| {
            let contexts = Contexts(Found {
                contexts: vec![vec![Interrupted { at, registers }]],
                returned: BTreeSet::from_iter(returned.iter().copied()),
                left_out: Vec::new(),
                absent: Vec::new(),
            });
            carry(&[thread], &contexts, &decide).stuck.len()
        };
        assert_eq!(
            (stuck(&[]), stuck(&[Avma(0x2008)]), stuck(&[at])),
            (1, 1, 0)
        );
    }
}
