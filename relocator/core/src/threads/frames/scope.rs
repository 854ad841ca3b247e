//! How much a search reads.
//!
//! A process must not stand still for long, whatever it has in its stacks. So a search of a stopped
//! process reads so much and no more, what is nearest to stack pointers first. What it leaves out
//! can be searched while the process goes on. The next search takes over what that has found: it
//! reads the frames again that were there, and what is next to a stack pointer, but nothing else.

use std::ops::Range;

use elf_tools::Avma;

use super::window::{self, Checks};
use super::{inside_any, merge};
use crate::threads::Memory;

/// Most bytes that are read of a process that does not have to go on soon. Recursion may be deep.
/// But a stack of a coroutine has no end that could be told, and behind it may be a heap of any
/// size.
const WHOLE: u64 = 256 << 20;

/// Most bytes that are read of a process that is to go on soon, and for each of its threads.
const BRIEF: (u64, u64) = (1 << 20, 32 << 10);

/// How many frames a search passes on to the next one. Nothing but a program that makes them has so
/// many.
const FRAMES: usize = 512;

/// How much a search reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// In bytes.
    pub(super) budget: u64,
    pub(super) earlier: Earlier,
}

impl Scope {
    /// As much as may matter: for a process that does not run anyway, as in images of a checkpoint.
    pub fn whole() -> Self {
        Self {
            budget: WHOLE,
            earlier: Earlier::default(),
        }
    }

    /// As much as takes a fraction of a millisecond, and some microseconds for each thread.
    pub fn brief(threads: usize, earlier: Earlier) -> Self {
        Self {
            budget: BRIEF.0 + BRIEF.1 * threads as u64,
            earlier,
        }
    }

    #[cfg(test)]
    pub(super) fn of(budget: u64) -> Self {
        Self {
            budget,
            earlier: Earlier::default(),
        }
    }
}

/// What was found in a part of a process while that went on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Earlier {
    /// Where. Lowest first.
    pub(super) searched: Vec<Range<Avma>>,
    /// Places of frames that matter: they were interrupted in a text, or lead to another stack.
    pub(super) frames: Vec<Avma>,
}

impl Earlier {
    /// Searches ranges, of which the lowest come first, for frames of contexts in `texts`.
    pub fn search(ranges: &[Range<Avma>], texts: &[Range<Avma>], memory: &dyn Memory) -> Self {
        let mut earlier = Self::default();
        let mut checks = Checks::default();
        let mut budget = WHOLE;
        for range in ranges {
            if budget == 0 || !earlier.search_range(range, texts, memory, &mut checks, &mut budget)
            {
                break;
            }
        }
        earlier
    }

    /// Where it has looked. Lowest first.
    pub fn searched(&self) -> &[Range<Avma>] {
        &self.searched
    }

    /// Whether there may be more to search.
    fn search_range(
        &mut self,
        range: &Range<Avma>,
        texts: &[Range<Avma>],
        memory: &dyn Memory,
        checks: &mut Checks,
        budget: &mut u64,
    ) -> bool {
        let populated = memory.populated(range.clone(), *budget);
        let mut end = populated.end;
        if populated.at_guard {
            // No stack goes on behind it.
            end = range.end;
        }
        for part in populated.parts {
            let size = (part.end.0 - part.start.0).min(*budget);
            *budget -= size;
            let now = part.start.0..part.start.0 + size;
            let frames = window::frames(std::slice::from_ref(&now), memory, checks);
            let matters = frames.iter().filter(|(at, frame)| {
                let pointer = frame.stack_pointer();
                let goes_on = (*at..range.end).contains(&pointer);
                inside_any(frame, *at, texts) || !goes_on
            });
            self.frames.extend(matters.map(|(at, _)| *at));
            if self.frames.len() > FRAMES {
                self.frames.truncate(FRAMES);
                end = part.start;
                break;
            }
            if Avma(now.end) < part.end {
                end = Avma(now.end);
                break;
            }
        }
        self.searched = merge(&[self.searched.as_slice(), &[range.start..end]].concat());
        end == range.end
    }
}
