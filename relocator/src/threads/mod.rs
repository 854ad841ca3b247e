//! Carrying threads across that were stopped inside an old image.
//!
//! A thread that may still read the vvar goes back to the entry of the function that it is in (*re-entry*): whatever was put
//! there then answers it. One that reads nothing any more goes on, unless the code that it would run on was overwritten.
//! What cannot be recovered is said, before anything is written.
//!
//! Nothing here knows what a process is: registers and memory come in, registers and writes go out. So the same code
//! serves a live process, checkpoint files, and tests.

pub mod frames;

use elf_tools::reentry::{ReentryTable, Register};
use elf_tools::{Avma, Svma};

use crate::link::{LinkedImage, Old};

/// The registers of a thread that was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// General registers, by [`Register::index`].
    pub general: [u64; Register::COUNT],
    /// The instruction that is executed next.
    pub pc: Avma,
    /// The number of the system call that the thread is in or, if it is none, -1: `orig_rax`.
    pub system_call: i64,
}

/// Memory of the process.
pub trait Memory {
    /// Fills `bytes` from the memory at `at`; whether all of it could be read.
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool;
}

/// What has to be done about a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is not inside the image.
    Outside,
    /// It can go on as it is.
    Untouched,
    /// It has to be moved.
    FixUp(FixUp),
    /// It cannot be carried across.
    Stuck {
        /// Where it is in the image.
        place: Svma,
        /// Why.
        reason: String,
    },
}

/// A change that carries a thread across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixUp {
    /// The boundary of the old image that it was stopped at.
    pub from: Svma,
    /// Where it goes on: the entry of its function, or where its instruction is now.
    pub to: Svma,
    /// Its registers, all of them.
    pub registers: Registers,
    /// Memory that has to be written.
    pub writes: Vec<Write>,
    /// How many return addresses it leaves behind: what a shadow stack has too many.
    pub returns: usize,
}

/// Bytes to be written to memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub at: Avma,
    /// What.
    pub bytes: Vec<u8>,
}

/// An image that threads are to be carried out of, and what takes its place.
#[derive(Debug, Clone, Copy)]
pub struct Crossing<'a> {
    /// The old image, at home.
    pub old: &'a Old,
    /// Its recipes.
    pub reentry: &'a ReentryTable,
    /// What is in the process now, if that is not the old image but what it was linked to earlier.
    pub before: Option<&'a LinkedImage>,
    /// What will be there.
    pub after: &'a LinkedImage,
    /// Where the first byte of all of them is.
    pub image: Avma,
}

impl Crossing<'_> {
    /// What has to be done about a thread with these registers.
    pub fn thread(&self, registers: &Registers, memory: &dyn Memory) -> Verdict {
        let _ = (registers, memory);
        todo!()
    }
}
