//! All threads of a process, with the contexts that signals have interrupted, and what carries them across.

use std::collections::BTreeSet;
use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::{Memory, Registers, Thread, Verdict, Write, frames};

/// Where threads are looked for.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The text that they are to be carried out of.
    pub text: &'a Range<Avma>,
    /// Memory that can be written, as stacks can be.
    pub writable: &'a [Range<Avma>],
    /// Memory of the process.
    pub memory: &'a dyn Memory,
}

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
    pub reason: String,
}

/// Decides about each thread, and about each context on its stacks that was interrupted in the text.
///
/// Stacks of several threads may be one mapping, so that a frame is found twice; it counts once.
pub fn carry(
    threads: &[Thread],
    surroundings: Surroundings<'_>,
    decide: &dyn Fn(&Registers) -> Verdict,
) -> Carried {
    let Surroundings {
        text,
        writable,
        memory,
    } = surroundings;
    let mut carried = Carried::default();
    let mut seen = BTreeSet::new();
    // Once, and not for each of a thousand threads, whose stacks are a thousand mappings.
    let writable = frames::joined(writable);
    for thread in threads {
        if let Some(registers) = carried.add(thread.id, None, decide(&thread.registers)) {
            let id = thread.id;
            carried.threads.push(Thread { id, registers });
        }
        for context in frames::of_thread(&thread.registers, &writable, text, memory) {
            if !seen.insert(context.at) {
                continue;
            }
            let verdict = decide(&context.registers);
            if let Some(registers) = carried.add(thread.id, Some(context.at), verdict) {
                carried.writes.push(context.write(&registers));
                carried.frames += 1;
            }
        }
    }
    carried
}

impl Carried {
    /// Adds what has to be done about one context; the registers that it goes on with if they are others.
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
