//! What stands between a plan and the world: a process, or an image of one.
//!
//! | trait or type | is |
//! |---|---|
//! | [`Target`] | all that the tool asks of a process before it changes it: survey, recognition, placement and planning read nothing else |
//! | [`StoppedTarget`] | one whose threads have stopped: verdicts about threads need it, and it carries out [`Step`]s |
//! | [`live::Running`] | a live process that goes on meanwhile: a [`Target`] |
//! | [`live::Live`] | a live process whose threads have stopped: both |
//!
//! Planning code takes no process number and opens no file of `/proc`. So the same plan serves a
//! live process, images of a checkpoint, and the pretended memory of tests.

pub mod live;
#[cfg(test)]
pub(crate) mod pretended;

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use elf_tools::Avma;

use crate::Result;
use crate::maps::SpecialMemory;
use relocator::threads::frames::Scope;
use relocator::threads::{Memory, Write};

pub use relocator::threads::Thread;

/// Bytes of code that change at once on every kernel, if they are at a multiple of it.
pub const WORD: usize = 8;

/// A process that can be linked, or an image of one, seen from outside.
///
/// Every answer is about one moment. Where the process goes on meanwhile ([`live::Running`])
/// answers may contradict each other; what was planned from them is compared with a
/// [`StoppedTarget`] before anything is written.
///
/// # What images of a checkpoint have to bring
///
/// An implementor for images at rest answers as the restored process would on the new kernel,
/// before any of its threads runs:
///
/// - [`Memory::read`]: bytes of private pages from the images, of pages of files that were not
///   dumped from those files, zeros for anonymous pages without content. The kernel's own data
///   pages cannot be read (`false`); its vDSO reads as the new kernel's, with CRIU's mark where a
///   restore leaves one.
/// - [`Target::mappings`]: the dumped ones with the names that `/proc/PID/maps` would give them (a
///   program's old vDSO is anonymous memory after a restore), and those of the new kernel where the
///   restore will put them.
/// - [`Target::auxv_vdso`]: from the saved auxiliary vector.
/// - [`Target::special`]: by the flags of the dumped mappings. Without droppable memory `getrandom`
///   loses its fast path.
/// - [`StoppedTarget::threads`]: the saved registers of every thread, by their numbers in the
///   image.
/// - [`StoppedTarget::carry_out`]: new images take the place of the old ones at once, by renaming
///   them, or not at all.
pub trait Target: Memory {
    /// The number by which errors and reports name it.
    fn id(&self) -> i32;

    /// Its mappings, lowest first.
    fn mappings(&self) -> Result<Vec<Mapping>>;

    /// Where its auxiliary vector says that its vDSO is (`AT_SYSINFO_EHDR`). After a restore that
    /// is the old one.
    fn auxv_vdso(&self) -> Option<Avma>;

    /// The memory that is not as most is. What is filled on demand, as after a restore with lazy
    /// pages, matters for targets that say of pages that they hold nothing ([`Memory::populated`]):
    /// such a page does not hold zeros.
    fn special(&self) -> Result<SpecialMemory>;

    /// What its main stack and its heap may still take.
    fn growth(&self) -> Growth {
        Growth::default()
    }

    /// Where its threads are, as far as the target knows without stopping them.
    fn whereabouts(&self) -> Result<Vec<Whereabouts>>;
}

/// A target whose threads do not execute anything.
pub trait StoppedTarget: Target {
    /// Its threads, of which there is at least one.
    fn threads(&self) -> Result<Vec<Thread>>;

    /// Whether what was known of its mappings is still true of these ranges and of stacks, if that
    /// can be told without reading all of them. If so, the target goes on with what was known.
    fn confirms(&self, _known: &Rc<Vec<Mapping>>, _ranges: &[Range<Avma>]) -> Result<bool> {
        Ok(false)
    }

    /// How much of its stacks is searched for contexts that signals have interrupted.
    fn scope(&self) -> Scope {
        Scope::whole()
    }

    /// Whether all droppable memory that there was in `ranges` is still that, each range as a
    /// mapping of its own.
    fn holds_droppable(&self, ranges: &[Range<Avma>]) -> Result<bool> {
        Ok(self.special()?.droppable == ranges)
    }

    /// Carries out steps in their order: all of them, or none.
    fn carry_out(&mut self, steps: &[Step]) -> Result<()>;
}

/// What a process may still take of its address space without mapping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growth {
    /// Bytes that the main stack may have (`RLIMIT_STACK`); `None` if that is unknown.
    pub stack: Option<u64>,
    /// Where the heap begins (`brk`), whether it has anything or not; `None` if that is unknown.
    pub heap: Option<Avma>,
}

/// Where a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its number.
    pub thread: i32,
    /// Its next instruction; `None` if that is unknown, as of a thread that runs.
    pub pc: Option<Avma>,
}

/// A part of the address space that is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where.
    pub range: Range<Avma>,
    /// What may be done with it.
    pub protection: Protection,
    /// What `/proc/PID/maps` calls it: a path, a name in brackets, or nothing. Any program can make
    /// a file of any name, so this alone says little.
    pub name: String,
}

impl Mapping {
    /// Whether it holds code of its process alone.
    pub fn is_private_code(&self) -> bool {
        let protection = self.protection;
        protection.read && protection.execute && !protection.write && !protection.shared
    }

    /// Whether it is memory of its process alone that no file is behind. The kernel gives such
    /// memory no name, one in brackets, or one that the process has asked for.
    pub fn is_anonymous(&self) -> bool {
        let is_file = !self.name.is_empty() && !self.name.starts_with('[');
        !self.protection.shared && !is_file
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.range.end.0.saturating_sub(self.range.start.0)
    }
}

/// What may be done with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protection {
    /// It can be read.
    pub read: bool,
    /// It can be written.
    pub write: bool,
    /// It can be executed.
    pub execute: bool,
    /// What is written is seen by others.
    pub shared: bool,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |is_set, letter| if is_set { letter } else { '-' };
        let kind = if self.shared { 's' } else { 'p' };
        let [read, write, execute] = [
            flag(self.read, 'r'),
            flag(self.write, 'w'),
            flag(self.execute, 'x'),
        ];
        write!(f, "{read}{write}{execute}{kind}")
    }
}

/// One change of a target. After each of them the process could go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Threads go on with other registers.
    Registers(Vec<Thread>),
    /// Bytes are written, where they may only be executed as well. [`WORD`] bytes change at once,
    /// and so do all within a page where the kernel lets a tracer write code by a file.
    Write(Write),
    /// Whole pages of code are put in the place of others, all at once. They are private, and can
    /// be read and executed.
    Replace {
        /// The first page.
        at: Avma,
        /// What they hold.
        bytes: Vec<u8>,
    },
    /// Pages of code are kept, anywhere, until all steps are done: the next tool reads them if this
    /// one is killed.
    RecoveryCopy(Vec<u8>),
    /// A mapping of the kernel's is moved as a whole, to where nothing is mapped, or pages of a
    /// vvar placeholder.
    Move {
        /// Where it is.
        from: Range<Avma>,
        /// Where its first byte will be.
        to: Avma,
    },
    /// A vvar placeholder, private pages of zeros which can only be read, is mapped where nothing
    /// is.
    Placeholder(Range<Avma>),
    /// Pages are unmapped.
    Unmap(Range<Avma>),
    /// Pages of code become a mapping of their own: the kernel does not join them with what is next
    /// to them, since only they are left out of core dumps.
    Separate(Range<Avma>),
    /// Droppable memory becomes zeros, without being touched.
    Forget(Range<Avma>),
}

/// Where a process can read and write: what stacks may be in.
pub(crate) fn writable(mappings: &[Mapping]) -> Vec<Range<Avma>> {
    let writable = mappings.iter().filter(|mapping| {
        let protection = mapping.protection;
        protection.read && protection.write
    });
    writable.map(|mapping| mapping.range.clone()).collect()
}

/// The mapping that an address is in, of mappings that are lowest first.
pub(crate) fn mapping_of(mappings: &[Mapping], at: Avma) -> Option<&Mapping> {
    let first = mappings.partition_point(|mapping| mapping.range.end <= at);
    let mapping = mappings.get(first)?;
    mapping.range.contains(&at).then_some(mapping)
}

/// Whether ranges share an address.
pub(crate) fn overlaps(range: &Range<Avma>, other: &Range<Avma>) -> bool {
    range.start < other.end && other.start < range.end
}

/// What is left of ranges without others.
pub(crate) fn subtract(
    ranges: Vec<Range<Avma>>,
    others: impl IntoIterator<Item = Range<Avma>>,
) -> Vec<Range<Avma>> {
    others.into_iter().fold(ranges, |ranges, other| {
        let parts = ranges.into_iter().flat_map(|range| {
            let below = range.start..range.end.min(other.start);
            let above = range.start.max(other.end)..range.end;
            [below, above]
        });
        parts.filter(|part| part.start < part.end).collect()
    })
}
