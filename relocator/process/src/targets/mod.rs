//! What stands between a plan and the world: a process that is linked.
//!
//! Planning reads a [`Target`] and decides on [`Step`]s; carrying them out is the target's business. So the same plan
//! serves a live process, checkpoint files, and tests.

pub mod live;

use std::fmt;
use std::ops::Range;

use elf_tools::Avma;

use crate::Result;
use relocator::threads::{Memory, Write};

pub use relocator::threads::Thread;

/// Bytes of code that change at once, if they are at a multiple of it.
pub const WORD: usize = 8;

/// A process whose threads stand still, or an image of one.
pub trait Target: Memory {
    /// Its mappings, lowest first.
    fn mappings(&self) -> Result<Vec<Mapping>>;

    /// Where its program was told that its vDSO is: `AT_SYSINFO_EHDR` of the auxiliary vector.
    fn auxv_vdso(&self) -> Option<Avma>;

    /// Its threads.
    fn threads(&self) -> Result<Vec<Thread>>;

    /// Carries out steps in their order: all of them, or none.
    fn carry_out(&mut self, steps: &[Step]) -> Result<()>;
}

/// A part of the address space that is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where.
    pub range: Range<Avma>,
    /// What may be done with it.
    pub protection: Protection,
    /// What `/proc/PID/maps` calls it: a path, a name in brackets, or nothing. Anybody can make a file of any name, so this
    /// alone says little.
    pub name: String,
}

impl Mapping {
    /// Whether it holds code of its process alone.
    pub fn is_private_code(&self) -> bool {
        let protection = self.protection;
        protection.read && protection.execute && !protection.write && !protection.shared
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
    /// Bytes are written, where they may only be executed as well. [`WORD`] bytes change at once.
    Write(Write),
    /// Whole pages of code are put in the place of others, all at once. They are private, and can be read and executed.
    Replace {
        /// The first page.
        at: Avma,
        /// What they hold.
        bytes: Vec<u8>,
    },
    /// Pages of code are kept, anywhere, until all steps are done: for whoever comes after this tool if it is killed.
    RecoveryCopy(Vec<u8>),
    /// A mapping of the kernel's is moved as a whole, over what is mapped there: nothing, or pages of zeros.
    Move {
        /// Where it is.
        from: Range<Avma>,
        /// Where its first byte will be.
        to: Avma,
    },
    /// Private pages of zeros, which can only be read, are mapped where nothing is.
    Placeholder(Range<Avma>),
    /// Pages are unmapped.
    Unmap(Range<Avma>),
}

/// Where a process can read and write: what stacks may be in.
pub(crate) fn writable(mappings: &[Mapping]) -> Vec<Range<Avma>> {
    let writable = mappings.iter().filter(|mapping| {
        let protection = mapping.protection;
        protection.read && protection.write
    });
    writable.map(|mapping| mapping.range.clone()).collect()
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
