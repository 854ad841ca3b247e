//! Contexts that signals interrupted: where a thread goes on when its handlers return.
//!
//! To run a handler, the kernel saves the registers of the interrupted code in a *signal frame* on
//! the stack, and `rt_sigreturn` takes them from there. So a thread that is stopped in a handler
//! can have a second program counter inside the old vDSO, and a third one if another signal
//! interrupted that handler. No list of these frames exists. This module searches for them, from
//! the stack pointer upwards, and takes for one what looks like a whole `ucontext`.
//!
//! A frame that it finds may still be a copy to which no thread returns: a handler's own, or one
//! left over in a variable that has no value yet. Correcting such a copy changes nothing that runs.
//! It does not find a frame that the program has moved away from the stack pointer's reach
//! (coroutines that are switched inside handlers), nor one whose handler returns through code of
//! its own making.
//!
//! | module | does |
//! |---|---|
//! | `search` | decides where to look, for all threads at once |
//! | `scope` | how much a search reads |
//! | `window` | reads, and looks there |
//! | `range_set` | what was searched already |

mod range_set;
mod scope;
mod search;
mod window;

use std::collections::BTreeSet;
use std::ops::Range;
use std::slice;

use elf_tools::Avma;

use super::{Memory, Registers, Write};
use crate::arch::native::signal_frame;
pub use scope::{Earlier, Scope};
use search::Search;
use window::Checks;

/// A context that a signal interrupted.
///
/// It is in no system call, so the `system_call` of its registers is -1. If it was in one, the
/// kernel decided about that before it wrote the frame (its function `handle_signal`): either the
/// call has failed with `EINTR` and the program counter is behind its instruction, or the thread
/// will make the call again, the program counter is back at the instruction and the register of the
/// call's number has that number again. In that case the registers that a system call changes are
/// no longer what they were when the thread first reached the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted {
    /// Where its `ucontext` is.
    pub at: Avma,
    /// What it goes on with.
    pub registers: Registers,
}

impl Interrupted {
    /// What has to be written for it to go on with other registers.
    ///
    /// Only the general registers and the program counter are: flags, segments, floating point and
    /// the mask of signals stay.
    pub fn write(&self, registers: &Registers) -> Write {
        signal_frame::write(self.at, registers)
    }
}

/// The contexts on a stack that were interrupted inside `text`, innermost first.
///
/// `stack` begins at the stack pointer. Pages of it that cannot be read are left out.
pub fn interrupted(
    stack: Range<Avma>,
    text: &Range<Avma>,
    memory: &dyn Memory,
) -> Vec<Interrupted> {
    let range = window::marks(whole(stack));
    let frames = window::frames(&[range], memory, &mut Checks::default());
    let inside = frames
        .iter()
        .filter_map(|(at, frame)| frame.inside(*at, text));
    inside.collect()
}

/// The contexts of a thread that were interrupted inside `text`, innermost first.
///
/// `registers` are those that it was stopped with, and `writable` is the memory of its process that
/// can be written, as stacks can be. They are searched from the thread's stack pointer and from
/// those of all frames, for a handler can run on another stack than what it interrupts
/// (`sigaltstack`). Where stacks of several threads are parts of one mapping without guard pages,
/// frames of other threads may be found.
pub fn of_thread(
    registers: &Registers,
    writable: &[Range<Avma>],
    text: &Range<Avma>,
    memory: &dyn Memory,
) -> Vec<Interrupted> {
    let texts = slice::from_ref(text);
    of_thread_among(registers, &[], writable, texts, memory, &Scope::whole())
}

/// The contexts of a thread that were interrupted inside one of several texts, and that belong to
/// no stack of other threads: their stack pointers are `neighbours`.
pub fn of_thread_among(
    registers: &Registers,
    neighbours: &[Avma],
    writable: &[Range<Avma>],
    texts: &[Range<Avma>],
    memory: &dyn Memory,
    scope: &Scope,
) -> Vec<Interrupted> {
    let writable = merge(writable);
    let mut neighbours = neighbours.to_vec();
    neighbours.sort();
    let pointers = [registers.stack_pointer()];
    let search = Search::new(&pointers, &neighbours, &writable, texts, memory, scope);
    search.run().contexts.pop().unwrap_or_default()
}

/// What a search of the stacks of all threads has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The contexts that were interrupted inside one of the texts, for each of the threads, each
    /// once. Where a context may belong to two threads, it is in the list of the one whose stack
    /// pointer is nearer.
    pub contexts: Vec<Vec<Interrupted>>,
    /// Contexts whose handlers have returned, as far as that shows: they are on alternate stacks on
    /// which no thread is any more. Runtimes that have alternate stacks in a heap leave many, and
    /// what they were interrupted in has long gone on. They are among `contexts` as well, since a
    /// handler may have gone to a stack of its own making.
    pub returned: BTreeSet<Avma>,
    /// Where contexts may be that the search did not look for, because it had read too much
    /// already. Lowest first.
    pub left_out: Vec<Range<Avma>>,
    /// Where contexts may be, near a stack pointer, that cannot be read before somebody brings the
    /// memory ([`Populated::absent`](super::Populated::absent)). Lowest first.
    pub absent: Vec<Range<Avma>>,
}

/// The contexts of all threads of a process, whose registers these are, that were interrupted
/// inside one of several texts. This takes far less time than one search for each thread.
pub fn of_threads<'a>(
    registers: impl IntoIterator<Item = &'a Registers>,
    writable: &[Range<Avma>],
    texts: &[Range<Avma>],
    memory: &dyn Memory,
    scope: &Scope,
) -> Found {
    let writable = merge(writable);
    let pointers = registers.into_iter().map(Registers::stack_pointer);
    let pointers: Vec<Avma> = pointers.collect();
    Search::new(&pointers, &[], &writable, texts, memory, scope).run()
}

/// Whether a frame is of a context that was interrupted in one of several texts.
fn inside_any(frame: &signal_frame::Ucontext, at: Avma, texts: &[Range<Avma>]) -> bool {
    texts.iter().any(|text| frame.inside(at, text).is_some())
}

/// Where in a range an `ucontext` can begin that is in it as a whole.
fn whole(range: Range<Avma>) -> Range<Avma> {
    let last = range.end.0.saturating_sub(signal_frame::SIZE as u64 - 1);
    range.start..Avma(last).max(range.start)
}

/// Ranges lowest first, of which those that touch or overlap are made one.
pub fn merge(ranges: &[Range<Avma>]) -> Vec<Range<Avma>> {
    let mut sorted: Vec<_> = ranges
        .iter()
        .filter(|range| !range.is_empty())
        .cloned()
        .collect();
    sorted.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<Avma>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests;
