//! The memory of a process that stands still.
//!
//! The process cannot bring a page then, so nothing here waits for one:
//!
//! | a page | is read |
//! |---|---|
//! | that is present | by `process_vm_readv` |
//! | of memory without a file | by `/proc/PID/mem`, for which the kernel does not wait for a `userfaultfd`: its fault cannot be repeated, so it fails |
//! | of a file, and not present | not at all: the file may be served (FUSE). The process has not written it either, so no signal has left anything there |
//!
//! What a `userfaultfd` would have to bring first is remembered, so that it can be brought while the
//! process goes on.

use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use elf_tools::Avma;
use nix::unistd::Pid;

use super::ProcessMemory;
use super::pagemap::Pagemap;
use crate::maps::{self, SpecialMemory};
use crate::targets::{Mapping, overlaps, subtract};
use relocator::threads::frames::merge;
use relocator::threads::{Memory, Populated};

/// The memory of a process whose threads do not run.
#[derive(Debug)]
pub(crate) struct StandingMemory {
    memory: ProcessMemory,
    file: Option<File>,
    pagemap: Option<Pagemap>,
    /// Where a page that is neither present nor swapped out holds nothing that the process has
    /// written: all but what a `userfaultfd` fills when it is touched, and what other processes
    /// share. Lowest first.
    quiet: Vec<Range<Avma>>,
    /// What a `userfaultfd` fills.
    on_demand: Vec<Range<Avma>>,
    /// Memory without a file that is shared: what is not present may have been written all the same.
    shared: Vec<Range<Avma>>,
    /// Files.
    files: Vec<Range<Avma>>,
    absent: RefCell<Vec<Range<Avma>>>,
}

impl StandingMemory {
    /// Of a process with these mappings, of which some are special.
    pub(crate) fn new(pid: Pid, mappings: &[Mapping], special: &SpecialMemory) -> Self {
        let readable = mappings.iter().filter(|mapping| mapping.protection.read);
        let others = readable.filter(|mapping| maps::kernel_name(mapping).is_none());
        let ranges = others.clone().map(|mapping| mapping.range.clone());
        let ranges = merge(&ranges.collect::<Vec<_>>());
        let files = others.filter(|mapping| !mapping.is_anonymous());
        let files = merge(
            &files
                .map(|mapping| mapping.range.clone())
                .collect::<Vec<_>>(),
        );
        let loud = [special.on_demand.as_slice(), special.shared.as_slice()].concat();
        Self {
            memory: ProcessMemory::of(pid),
            file: File::open(format!("/proc/{pid}/mem")).ok(),
            pagemap: Pagemap::open(pid).ok(),
            quiet: without(&ranges, &loud),
            files: without(&files, &special.shared),
            on_demand: merge(&special.on_demand),
            shared: merge(&special.shared),
            absent: RefCell::default(),
        }
    }

    /// What was not read because somebody has to bring it, since this was last asked.
    pub(crate) fn take_absent(&self) -> Vec<Range<Avma>> {
        merge(&self.absent.take())
    }

    fn missing(&self, range: &Range<Avma>) -> Vec<Range<Avma>> {
        let asked = self.pagemap.as_ref();
        let missing = asked.and_then(|pagemap| pagemap.missing(range.clone()).ok());
        missing.unwrap_or_default()
    }

    /// Reads what is not all present.
    fn read_partly(&self, at: Avma, bytes: &mut [u8], missing: &[Range<Avma>]) -> bool {
        let is_in = |known: &[Range<Avma>]| {
            let mut missing = missing.iter();
            missing.any(|part| around(known, part).any(|other| overlaps(other, part)))
        };
        let file = self.file.as_ref().filter(|_| !is_in(&self.files));
        let read = file.is_some_and(|file| file.read_exact_at(bytes, at.0).is_ok());
        if !read && is_in(&self.on_demand) {
            self.absent.borrow_mut().extend_from_slice(missing);
        }
        read
    }

    /// What may be in memory of which a page that is not there says nothing.
    fn unknown(&self, range: Range<Avma>, found: &mut Populated) {
        let demand: Vec<Range<Avma>> = around(&self.on_demand, &range).cloned().collect();
        let plain = subtract(vec![range.clone()], demand.iter().cloned());
        let shared = plain.iter().flat_map(|plain| {
            let part =
                |shared: &Range<Avma>| shared.start.max(plain.start)..shared.end.min(plain.end);
            around(&self.shared, plain).map(part)
        });
        found.parts.extend(shared);
        for part in demand {
            let part = part.start.max(range.start)..part.end.min(range.end);
            self.on_demand(part, found);
        }
        found.parts.sort_by_key(|part| part.start);
    }

    fn on_demand(&self, range: Range<Avma>, found: &mut Populated) {
        let missing = self.missing(&range);
        found
            .parts
            .extend(subtract(vec![range.clone()], missing.iter().cloned()));
        let cut = |part: Range<Avma>| part.start.max(range.start)..part.end.min(range.end);
        found.absent.extend(missing.into_iter().map(cut));
    }
}

/// The ranges that may overlap with one, of ranges that are lowest first and apart.
fn around<'a>(
    known: &'a [Range<Avma>],
    range: &'a Range<Avma>,
) -> impl Iterator<Item = &'a Range<Avma>> {
    let first = known.partition_point(|known| known.end <= range.start);
    let rest = known[first..].iter();
    rest.take_while(|known| known.start < range.end)
}

/// What is left of ranges that are lowest first and apart, without others.
fn without(ranges: &[Range<Avma>], others: &[Range<Avma>]) -> Vec<Range<Avma>> {
    let others = merge(others);
    let left = ranges
        .iter()
        .flat_map(|range| subtract(vec![range.clone()], around(&others, range).cloned()));
    left.collect()
}

impl Memory for StandingMemory {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let range = at..Avma(at.0.saturating_add(bytes.len() as u64));
        let missing = self.missing(&range);
        match missing.is_empty() {
            true => self.memory.read(at, bytes),
            false => self.read_partly(at, bytes, &missing),
        }
    }

    fn read_ranges(&self, ranges: &[Range<Avma>], bytes: &mut [u8]) -> usize {
        self.memory.read_ranges(ranges, bytes)
    }

    fn populated(&self, range: Range<Avma>, enough: u64) -> Populated {
        let mut found = Populated {
            parts: Vec::new(),
            absent: Vec::new(),
            end: range.end,
            at_guard: false,
        };
        let mut at = range.start;
        let mut left = enough;
        for known in around(&self.quiet, &range) {
            let known = known.start.max(at)..known.end.min(range.end);
            if at < known.start {
                self.unknown(at..known.start, &mut found);
            }
            at = known.end;
            let pagemap = self.pagemap.as_ref();
            match pagemap.and_then(|pagemap| pagemap.populated(known.clone(), left).ok()) {
                None => found.parts.push(known),
                Some(populated) => {
                    let size = populated.parts.iter().map(|part| part.end.0 - part.start.0);
                    left = left.saturating_sub(size.sum());
                    found.parts.extend(populated.parts);
                    if populated.end < known.end || left == 0 {
                        found.end = populated.end;
                        found.at_guard = populated.at_guard;
                        return found;
                    }
                }
            }
        }
        if at < range.end {
            self.unknown(at..range.end, &mut found);
        }
        found
    }
}

/// Reads memory of a stopped thread's process, without waiting for a `userfaultfd`.
pub(crate) fn read_now(pid: Pid, at: Avma, bytes: &mut [u8]) -> bool {
    let memory = File::open(format!("/proc/{pid}/mem"));
    memory.is_ok_and(|memory| memory.read_exact_at(bytes, at.0).is_ok())
}
