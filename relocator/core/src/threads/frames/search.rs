//! The search through the stacks of all threads at once.
//!
//! A *stack* here is what may be above a stack pointer: a thread's, or one that a frame leads to.
//! It ends where it certainly ends, at the end of the mappings, at a guard page, or at the end of
//! the alternate stack that a frame on it says. Stacks overlap where they are parts of one mapping,
//! but each address is searched once, for all of them. A frame counts for each stack that it is in.
//!
//! The search goes from all stack pointers at once to larger and larger distances, so that what it
//! leaves out, if it must, is the farthest from all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use elf_tools::Avma;

use super::range_set::RangeSet;
use super::scope::{Earlier, Scope};
use super::window::{self, Checks};
use super::{Found, Interrupted};
use crate::arch::native::signal_frame::Ucontext;
use crate::threads::Memory;

/// To what distance of stack pointers is searched before anything farther is looked at. Most frames
/// are in the first: a frame takes some kilobytes, and what a handler calls not much more.
const REACHES: [u64; 5] = [NEXT, NEAR, 4 << 20, 64 << 20, u64::MAX];

/// What is searched of each stack whatever an earlier search has seen of it: signals come all the
/// time, and handlers do not call that deep.
const NEXT: u64 = 32 << 10;

/// What is that near to a stack pointer is certainly a part of its stack, or next to it.
const NEAR: u64 = 256 << 10;

/// How many stacks a thread can have, by the frames that lead to them. Two are usual: its own and
/// the alternate one.
const STACKS: usize = 64;

/// What may be above a stack pointer.
struct Stack {
    thread: usize,
    pointer: Avma,
    /// A frame of it begins before this.
    end: Avma,
    /// Up to where it was searched; addresses of [`window::marks`].
    next: u64,
}

/// A frame that was found.
struct Frame {
    at: Avma,
    frame: Ucontext,
}

/// A search in one process.
pub(super) struct Search<'a> {
    /// Where stacks can be, lowest first and without the borders between mappings.
    writable: &'a [Range<Avma>],
    memory: &'a dyn Memory,
    texts: &'a [Range<Avma>],
    stacks: Vec<Stack>,
    /// Indices of stacks by their pointers.
    by_pointer: BTreeMap<Avma, Vec<usize>>,
    /// How many stacks each thread has.
    counts: Vec<usize>,
    /// Stack pointers of threads that are not searched, but end the stacks below.
    neighbours: &'a [Avma],
    guards: BTreeSet<u64>,
    searched: RangeSet,
    left_out: RangeSet,
    /// What is near a stack pointer and cannot be read now.
    absent: RangeSet,
    budget: u64,
    earlier: &'a Earlier,
    /// Frames in no stack, so far.
    loose: Vec<Frame>,
    contexts: Vec<Vec<Interrupted>>,
    /// Stack pointers of all threads, and of all frames.
    pointers: BTreeSet<Avma>,
    /// Contexts on alternate stacks, and where these begin.
    on_alternate: Vec<(Avma, Avma)>,
}

impl<'a> Search<'a> {
    /// Of threads with these stack pointers.
    pub(super) fn new(
        pointers: &[Avma],
        neighbours: &'a [Avma],
        writable: &'a [Range<Avma>],
        texts: &'a [Range<Avma>],
        memory: &'a dyn Memory,
        scope: &'a Scope,
    ) -> Self {
        let mut search = Self {
            writable,
            memory,
            texts,
            stacks: Vec::new(),
            by_pointer: BTreeMap::new(),
            counts: vec![0; pointers.len()],
            neighbours,
            guards: BTreeSet::new(),
            searched: RangeSet::default(),
            left_out: RangeSet::default(),
            absent: RangeSet::default(),
            budget: scope.budget,
            earlier: &scope.earlier,
            loose: Vec::new(),
            contexts: vec![Vec::new(); pointers.len()],
            pointers: pointers.iter().chain(neighbours).copied().collect(),
            on_alternate: Vec::new(),
        };
        for (thread, &pointer) in pointers.iter().enumerate() {
            search.add(thread, pointer);
        }
        search
    }

    pub(super) fn run(mut self) -> Found {
        let mut checks = Checks::default();
        for reach in REACHES {
            loop {
                let ranges = self.next_ranges(reach);
                if ranges.is_empty() {
                    break;
                }
                let frames = window::frames(&ranges, self.memory, &mut checks);
                self.add_frames(frames);
            }
            if reach == NEXT {
                let frames = self.seen_earlier(&mut checks);
                self.add_frames(frames);
            }
        }
        let returned = self.returned();
        Found {
            contexts: self.contexts,
            returned,
            left_out: self.left_out.to_addresses(),
            absent: self.absent.to_addresses(),
        }
    }

    fn add_frames(&mut self, frames: Vec<(Avma, Ucontext)>) {
        let found = frames.into_iter().map(|(at, frame)| Frame { at, frame });
        self.loose.extend(found);
        self.loose.sort_by_key(|found| found.at);
        while self.count() {}
    }

    /// What is there now of the frames that an earlier search has found; and what it has searched
    /// is not searched again.
    fn seen_earlier(&mut self, checks: &mut Checks) -> Vec<(Avma, Ucontext)> {
        let places = self.earlier.frames.iter();
        let mark = |at: Avma| window::marks(at..at).start;
        let places = places.filter(|at| !self.searched.contains(mark(**at)));
        let frames = places.filter_map(|&at| Some((at, checks.frame(at, self.memory)?)));
        let frames = frames.collect();
        for range in &self.earlier.searched {
            self.searched.insert(range.start.0..range.end.0);
        }
        frames
    }

    /// Adds a stack of a thread, unless its pointer leads nowhere.
    fn add(&mut self, thread: usize, pointer: Avma) {
        let above = self.writable.partition_point(|range| range.end <= pointer);
        let range = self
            .writable
            .get(above)
            .filter(|range| range.contains(&pointer));
        let known = self.by_pointer.get(&pointer);
        let is_known = |&index: &usize| self.stacks[index].thread == thread;
        if known.is_some_and(|known| known.iter().any(is_known)) || self.counts[thread] >= STACKS {
            return;
        }
        let Some(range) = range else {
            return;
        };
        self.counts[thread] += 1;
        let above = self.neighbours.partition_point(|&other| other <= pointer);
        let end = super::whole(pointer..range.end).end;
        let end = self
            .neighbours
            .get(above)
            .map_or(end, |&other| other.min(end));
        self.by_pointer
            .entry(pointer)
            .or_default()
            .push(self.stacks.len());
        self.stacks.push(Stack {
            thread,
            pointer,
            end,
            next: window::marks(pointer..end).start,
        });
    }

    /// What is to be searched up to a distance from all stack pointers, and was not yet.
    fn next_ranges(&mut self, reach: u64) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for index in 0..self.stacks.len() {
            self.extend(index, reach, &mut ranges);
        }
        ranges
    }

    /// The same of one stack.
    fn extend(&mut self, index: usize, reach: u64, ranges: &mut Vec<Range<u64>>) {
        let stack = &self.stacks[index];
        let end = stack.end.min(Avma(stack.pointer.0.saturating_add(reach)));
        let end = window::marks(stack.pointer..end).end;
        let mut at = stack.next;
        if at >= end {
            return;
        }
        let mut guard = self.guards.range(at..end).next().copied();
        while let Some(gap) = self.searched.first_gap(at..guard.unwrap_or(end)) {
            at = self.search(gap.clone(), reach, ranges);
            if at < gap.end {
                self.guards.insert(at);
                guard = Some(at);
            }
        }
        let stack = &mut self.stacks[index];
        stack.next = stack.next.max(end);
        if let Some(guard) = guard {
            stack.end = stack.end.min(Avma(guard));
        }
    }

    /// Has a gap searched, up to its end or to a guard page; says to where.
    fn search(&mut self, gap: Range<u64>, reach: u64, ranges: &mut Vec<Range<u64>>) -> u64 {
        if self.budget == 0 {
            self.searched.insert(gap.clone());
            self.left_out.insert(gap.clone());
            return gap.end;
        }
        let asked = Avma(gap.start)..Avma(gap.end);
        let populated = self.memory.populated(asked, self.budget);
        let mut end = populated.end.0.clamp(gap.start, gap.end);
        if end < gap.end && !populated.at_guard {
            // It is too much.
            self.left_out.insert(end..gap.end);
            end = gap.end;
        }
        self.searched.insert(gap.start..end);
        for part in populated.absent {
            let part = part.start.0.max(gap.start)..part.end.0.min(end);
            match reach {
                0..=NEAR => self.absent.insert(part),
                _ => self.left_out.insert(part),
            }
        }
        for part in populated.parts {
            self.take(part.start.0.max(gap.start)..part.end.0.min(end), ranges);
        }
        end
    }

    /// Takes a part as far as the budget goes.
    fn take(&mut self, part: Range<u64>, ranges: &mut Vec<Range<u64>>) {
        if part.is_empty() {
            return;
        }
        let size = (part.end - part.start).min(self.budget);
        self.budget -= size;
        let (now, never) = (part.start..part.start + size, part.start + size..part.end);
        if !now.is_empty() {
            ranges.push(now);
        }
        self.left_out.insert(never);
    }

    /// Counts loose frames that are in a stack, lowest first; whether there was one.
    fn count(&mut self) -> bool {
        let before = self.loose.len();
        for found in std::mem::take(&mut self.loose) {
            match self.owner(found.at) {
                Some(owner) => self.belongs(&found, owner),
                None => self.loose.push(found),
            }
        }
        self.loose.len() < before
    }

    /// The stack that something is in: the one with the nearest pointer below, of all that have not
    /// ended there.
    fn owner(&self, at: Avma) -> Option<usize> {
        let below = self.by_pointer.range(..=at).rev();
        let mut below = below.flat_map(|(_, stacks)| stacks.iter().copied());
        below.find(|&index| at < self.stacks[index].end)
    }

    fn belongs(&mut self, found: &Frame, owner: usize) {
        let &Frame { at, ref frame } = found;
        let pointer = frame.stack_pointer();
        self.pointers.insert(pointer);
        let stack = &mut self.stacks[owner];
        let thread = stack.thread;
        if let Some(alternate) = frame.alternate_stack()
            && alternate.contains(&at)
            && !alternate.contains(&pointer)
        {
            self.on_alternate.push((at, alternate.start));
            if alternate.contains(&stack.pointer) {
                // With this frame the thread went to the alternate stack, on which it still is.
                // Behind that is memory that has nothing to do with it.
                stack.end = stack.end.min(alternate.end);
            }
        }
        let context = self.texts.iter().find_map(|text| frame.inside(at, text));
        self.contexts[thread].extend(context);
        if !self.is_covered(pointer) {
            self.add(thread, pointer);
        }
    }

    /// Contexts that threads went to alternate stacks with, on which none is below the context. The
    /// handler runs there, and so does what interrupts it.
    fn returned(&self) -> BTreeSet<Avma> {
        let on_alternate = self.on_alternate.iter();
        let gone = on_alternate.filter(|&&(at, start)| {
            let mut below = self.pointers.range(start..=at);
            below.next().is_none()
        });
        gone.map(|&(at, _)| at).collect()
    }

    /// Whether a stack pointer leads to nothing that is not searched anyway.
    fn is_covered(&self, pointer: Avma) -> bool {
        let mark = window::marks(pointer..pointer).start;
        self.searched.contains(mark) && self.owner(pointer).is_some()
    }
}
