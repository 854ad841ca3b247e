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

mod window;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::slice;

use elf_tools::Avma;

use super::{Memory, Registers, Write};
use crate::arch::native::signal_frame;

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

/// How far up from a stack pointer is searched. A stack is not that deep, but the memory behind it
/// may be huge: stacks of coroutines are parts of heaps.
const REACH: u64 = 64 << 20;

/// Number of stacks that are searched for one thread. Two are usual: its own and the alternate one.
const STACKS: usize = 64;

/// The contexts on a stack that were interrupted inside `text`, innermost first.
///
/// `stack` begins at the stack pointer. Pages of it that cannot be read are left out.
pub fn interrupted(
    stack: Range<Avma>,
    text: &Range<Avma>,
    memory: &dyn Memory,
) -> Vec<Interrupted> {
    window::frames(whole(stack), memory)
        .filter_map(|(at, frame)| frame.inside(at, text))
        .collect()
}

/// The contexts of a thread that were interrupted inside `text`, innermost first.
///
/// `registers` are those that it was stopped with, and `writable` is the memory of its process that
/// can be written, as stacks can be. They are searched from the thread's stack pointer and from
/// those of all frames, for a handler can run on another stack than what it interrupts
/// (`sigaltstack`). Where stacks of several threads are parts of one mapping, a frame may be found
/// for more than one of them. Where there are many threads, `writable` had better be sorted, with
/// what touches made one, for all of them at once.
pub fn of_thread(
    registers: &Registers,
    writable: &[Range<Avma>],
    text: &Range<Avma>,
    memory: &dyn Memory,
) -> Vec<Interrupted> {
    of_texts(registers, writable, slice::from_ref(text), memory)
}

/// The contexts of a thread that were interrupted inside one of several texts.
pub(crate) fn of_texts(
    registers: &Registers,
    writable: &[Range<Avma>],
    texts: &[Range<Avma>],
    memory: &dyn Memory,
) -> Vec<Interrupted> {
    let pointer = registers.stack_pointer();
    let mut stacks = Stacks::new(writable, pointer);
    let mut found = Vec::new();
    while let Some(stack) = stacks.next() {
        let mut end = stack.end;
        for (at, frame) in window::frames(stack, memory) {
            // Behind an alternate stack is memory that has nothing to do with this thread.
            if at >= end {
                break;
            }
            end = frame.alternate_end(at).map_or(end, |top| top.min(end));
            found.extend(texts.iter().find_map(|text| frame.inside(at, text)));
            stacks.leads_to(frame.stack_pointer());
        }
    }
    found
}

/// Where in a range an `ucontext` can begin that is in it as a whole.
fn whole(range: Range<Avma>) -> Range<Avma> {
    let last = range.end.0.saturating_sub(signal_frame::SIZE as u64 - 1);
    range.start..Avma(last).max(range.start)
}

/// The stacks of a thread that are still to be searched.
struct Stacks<'a> {
    /// Memory, without the borders between mappings: they can divide a stack. Lowest first.
    memory: Cow<'a, [Range<Avma>]>,
    /// Stack pointers that frames lead to, and which may have been dealt with.
    pointers: VecDeque<Avma>,
    /// What was searched. Nothing is searched twice, so that frames which lead to each other come
    /// to an end.
    searched: Vec<Range<Avma>>,
}

impl<'a> Stacks<'a> {
    fn new(writable: &'a [Range<Avma>], pointer: Avma) -> Self {
        Self {
            memory: match is_joined(writable) {
                true => Cow::Borrowed(writable),
                false => Cow::Owned(merge(writable)),
            },
            pointers: VecDeque::from([pointer]),
            searched: Vec::new(),
        }
    }

    fn leads_to(&mut self, pointer: Avma) {
        if !self.is_searched(pointer) {
            self.pointers.push_back(pointer);
        }
    }

    /// The next one: addresses where an `ucontext` may begin.
    fn next(&mut self) -> Option<Range<Avma>> {
        while self.searched.len() < STACKS {
            let start = self.pointers.pop_front()?;
            if let Some(stack) = self.above(start) {
                self.searched.push(stack.clone());
                return Some(stack);
            }
        }
        None
    }

    /// What is to be searched from a stack pointer on.
    fn above(&self, start: Avma) -> Option<Range<Avma>> {
        if self.is_searched(start) {
            return None;
        }
        let behind = self.memory.partition_point(|memory| memory.end <= start);
        let memory = self.memory.get(behind)?;
        if !memory.contains(&start) {
            return None;
        }
        let stack = whole(start..memory.end);
        let reach = stack.end.min(Avma(start.0.saturating_add(REACH)));
        let searched = self.searched.iter().map(|searched| searched.start);
        let end = searched
            .filter(|&other| other > start)
            .fold(reach, Avma::min);
        (start < end).then_some(start..end)
    }

    fn is_searched(&self, pointer: Avma) -> bool {
        self.searched
            .iter()
            .any(|searched| searched.contains(&pointer))
    }
}

/// Whether ranges are as [`merge`] makes them.
fn is_joined(ranges: &[Range<Avma>]) -> bool {
    let are_apart = |pair: &[Range<Avma>]| pair[0].end < pair[1].start;
    ranges.iter().all(|range| !range.is_empty()) && ranges.windows(2).all(are_apart)
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
