//! Carrying threads across that were stopped inside an old image.
//!
//! A thread that may still read the vvar goes back to the entry of the function that it is in
//! (*re-entry*), and the code that is there then answers it. A thread that reads nothing any more
//! goes on, unless the code ahead of it was overwritten. A thread that cannot be recovered gets a
//! [`StuckReason`] before anything is written.
//!
//! This module does not know what a process is: registers and memory come in, registers and writes
//! go out. So the same code serves a live process, checkpoint files, and tests. It knows neither
//! the linker nor its plan either, only the code that threads find: [`CodeNow`].
//!
//! | module | does |
//! |---|---|
//! | `code_now` | what code is there at some moment |
//! | `reentry` | recipes of code that was linked |
//! | `stopped` | what a recipe makes of one thread |
//! | [`frames`] | contexts that signals interrupted |
//! | `memory` | what is asked of the memory of a process |
//! | [`carry`](mod@carry) | all threads of a process |
//! | [`random`] | states of `getrandom` |

pub mod carry;
mod code_now;
pub mod frames;
mod memory;
pub mod random;
mod reason;
mod reentry;
mod stopped;

use elf_tools::disassembly::{Flow, Instruction};
use elf_tools::processor::ProcessorFeatures;
use elf_tools::reentry::{Context, ReentryTable};
use elf_tools::{Avma, Svma};

use crate::arch::native;
pub use crate::arch::native::Registers;
use crate::criu;
use crate::input::Old;
pub use code_now::{CodeNow, Moved, Patch};
pub use memory::{Memory, Populated};
pub use reason::{RecipeFault, StuckReason};
use stopped::Stopped;

impl Registers {
    /// Whether the kernel will make the thread repeat a system call that was interrupted:
    /// `ERESTARTSYS` to `ERESTARTNOHAND`, and `ERESTART_RESTARTBLOCK`, none of which a program ever
    /// sees. `linux/errno.h`
    pub fn repeats_system_call(&self) -> bool {
        let result = self.result() as i64;
        self.system_call >= 0 && matches!(result, -514..=-512 | -516)
    }
}

/// A thread of a process that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub id: i32,
    /// What it goes on with.
    pub registers: Registers,
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
        reason: StuckReason,
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
    /// What is in the process now, if that is not the old image as it was.
    pub before: Option<&'a CodeNow>,
    /// What will be there.
    pub after: &'a CodeNow,
    /// What the processor has that threads run on, if that is known: none may come to an
    /// instruction that needs more.
    pub processor: Option<ProcessorFeatures>,
    /// Where the first byte of all of them is.
    pub image: Avma,
}

/// The instruction that a thread executes next: the system call, if that is to be repeated.
fn instruction(place: Svma, registers: &Registers) -> Option<Svma> {
    match registers.repeats_system_call() {
        true => place.0.checked_sub(native::SYSTEM_CALL_SIZE).map(Svma),
        false => Some(place),
    }
}

/// Whether a thread at an offset in code that overwrites a function executes that code. CRIU writes
/// its jumps without looking at threads, so under one of those a thread may still be in the
/// function itself.
fn is_in_patch(patch: &[u8], offset: usize, registers: &Registers) -> bool {
    match criu::target(patch) {
        None => true,
        Some(target) => native::criu::is_executed(target, offset, registers),
    }
}

impl Crossing<'_> {
    /// What has to be done about a thread with these registers.
    pub fn thread(&self, registers: &Registers, memory: &dyn Memory) -> Verdict {
        let Some(place) = self.place(registers.pc) else {
            return Verdict::Outside;
        };
        let stopped = Stopped {
            image: self.image,
            registers,
            memory,
            was_linked: self.was_linked(),
        };
        let verdict = match self.replaced(place, registers) {
            Some((entry, bytes)) => stopped.in_replacement(entry, place, bytes),
            None => match self.boundary(place, registers) {
                Some(boundary) => self.go_on(boundary, place, &stopped),
                None => Err(StuckReason::NoInstruction),
            },
        };
        verdict.unwrap_or_else(|reason| Verdict::Stuck { place, reason })
    }

    /// Whether a thread with these registers, which is in code of the old image, can go on there
    /// with a right result as long as that is in place: it reads nothing any more that depends on
    /// the kernel.
    pub fn can_go_on(&self, registers: &Registers, memory: &dyn Memory) -> bool {
        let Some(place) = self.place(registers.pc) else {
            return false;
        };
        let stopped = Stopped {
            image: self.image,
            registers,
            memory,
            was_linked: self.was_linked(),
        };
        if self.replaced(place, registers).is_some() {
            return false;
        }
        let boundary = self.boundary(place, registers);
        let all = boundary.map_or(&[][..], |boundary| self.reentry.at(boundary));
        let mut all = all
            .iter()
            .filter(|context| stopped.is_in(context))
            .peekable();
        let mut special = self.old.code.special();
        let is_whole = !special.any(|(_, one)| self.is_lacking(one));
        let executes = |boundary| is_whole || !self.meets(boundary, |one| self.is_lacking(one));
        let is_known = all.peek().is_some() && boundary.is_some_and(executes);
        is_known && all.all(|context| !context.reads)
    }

    /// Whether constants of the code are others than at home.
    fn was_linked(&self) -> bool {
        self.before.is_some_and(|code| code.is_relocated)
    }

    /// The function whose entry was overwritten earlier, if a thread is in what it was overwritten
    /// with, and the bytes from the thread's instruction on.
    fn replaced(&self, place: Svma, registers: &Registers) -> Option<(Svma, &[u8])> {
        let place = instruction(place, registers)?;
        let patches = self.before?.patches.iter();
        let around = patches.filter_map(|Patch { entry, code }| {
            let offset = place.0.checked_sub(entry.0)? as usize;
            let rest = code.get(offset..).filter(|rest| !rest.is_empty())?;
            is_in_patch(code, offset, registers).then_some((*entry, rest))
        });
        // Of functions that are shorter than what may be overwritten, it is in the nearest.
        around.max_by_key(|around| around.0)
    }

    /// The place in the image that an address means; `None` outside of it.
    fn place(&self, pc: Avma) -> Option<Svma> {
        let before = self.before.map_or(0, |code| code.size);
        let size = self.old.image.bytes().len().max(before) as u64;
        let offset = pc.0.checked_sub(self.image.0)?;
        (offset < size).then_some(Svma(offset))
    }

    /// The boundary of the old image that a thread is at. One that is to repeat a system call is at
    /// its instruction.
    fn boundary(&self, place: Svma, registers: &Registers) -> Option<Svma> {
        let place = instruction(place, registers)?;
        let moved = self.before.and_then(|code| code.moved_from(place));
        let boundary = moved.unwrap_or(place);
        self.old.code.index_of(boundary).map(|_| boundary)
    }

    fn go_on(
        &self,
        boundary: Svma,
        place: Svma,
        stopped: &Stopped<'_>,
    ) -> Result<Verdict, StuckReason> {
        let contexts: Vec<&Context> = self.reentry.at(boundary).iter().collect();
        if contexts.iter().any(|context| context.function == boundary) {
            // At an entry everything is as it is at an entry, whatever is there now.
            return Ok(self.entered(boundary, place, stopped));
        }
        // The code that is there now has a table of its own, which knows its constants. What that
        // does not know, the table of the old image may, where no constant matters.
        let now = self.before.and_then(|code| code.reentry.as_ref());
        let here = instruction(place, stopped.registers);
        let known = now.zip(here).map(|(table, here)| {
            let linked = Stopped {
                was_linked: false,
                ..*stopped
            };
            self.go_on_by(table, here, boundary, place, &linked)
        });
        match known {
            Some(Ok(verdict)) => Ok(verdict),
            _ => self.go_on_by(self.reentry, boundary, boundary, place, stopped),
        }
    }

    /// The same by the contexts that a table has at an address.
    fn go_on_by(
        &self,
        reentry: &ReentryTable,
        at: Svma,
        boundary: Svma,
        place: Svma,
        stopped: &Stopped<'_>,
    ) -> Result<Verdict, StuckReason> {
        let all = reentry.at(at).iter();
        let all: Vec<&Context> = all.filter(|context| stopped.is_in(context)).collect();
        if all.is_empty() {
            return Err(StuckReason::UnknownCallers);
        }
        let reads = all.iter().any(|context| context.reads);
        if !reads && !self.meets_changes(boundary) {
            return Ok(self.unchanged(boundary, place, stopped));
        }
        let mut found: Option<FixUp> = None;
        for context in all {
            let recipe = reentry.recipe(context);
            let recipe = recipe.map_err(|reason| StuckReason::NoRecipe(reason.clone()))?;
            let fix_up = stopped.re_enter(boundary, context, recipe)?;
            match &found {
                Some(other) if *other != fix_up => {
                    return Err(StuckReason::Ambiguous(other.to, fix_up.to));
                }
                _ => found = Some(fix_up),
            }
        }
        found.map(Verdict::FixUp).ok_or(StuckReason::UnknownCallers)
    }

    /// A thread at the entry of a function: it stays there, or goes there from a copy of the
    /// instruction.
    fn entered(&self, entry: Svma, place: Svma, stopped: &Stopped<'_>) -> Verdict {
        match entry == place {
            true => Verdict::Untouched,
            false => Verdict::FixUp(stopped.moved(entry, entry)),
        }
    }

    /// A thread whose instruction is what it was: it goes on with it, wherever it is now.
    fn unchanged(&self, boundary: Svma, place: Svma, stopped: &Stopped<'_>) -> Verdict {
        let now = self.after.moved_to(boundary).unwrap_or(boundary);
        match now == place || stopped.registers.repeats_system_call() {
            true => Verdict::Untouched,
            false => Verdict::FixUp(stopped.moved(boundary, now)),
        }
    }

    /// Whether a thread that goes on from a boundary may execute what was overwritten there or is
    /// no longer there, or what its processor cannot.
    fn meets_changes(&self, boundary: Svma) -> bool {
        let is_overwritten = |at: Svma| {
            self.after.patches.iter().any(|Patch { entry, code }| {
                // At the entry, what was put there does what the function did.
                (entry.0 + 1..entry.0 + code.len() as u64).contains(&at.0)
            })
        };
        self.meets(boundary, |one| {
            is_overwritten(one.address) || self.is_lacking(one)
        })
    }

    /// Whether the processor cannot execute an instruction.
    fn is_lacking(&self, instruction: &Instruction) -> bool {
        let lacks = |has| !instruction.needs.without(has).is_empty();
        self.processor.is_some_and(lacks)
    }

    /// Whether a thread that goes on from a boundary may come to such an instruction, or to a place
    /// that is not known.
    fn meets(&self, boundary: Svma, is_met: impl Fn(&Instruction) -> bool) -> bool {
        let code = &self.old.code;
        let Some(start) = code.index_of(boundary) else {
            return true;
        };
        let mut seen = vec![false; code.instructions().len()];
        let mut pending = vec![start];
        while let Some(index) = pending.pop() {
            let Some(instruction) = code.instructions().get(index as usize) else {
                return true;
            };
            if std::mem::replace(&mut seen[index as usize], true) {
                continue;
            }
            if is_met(instruction) {
                return true;
            }
            let next = Some(index + 1);
            let target = |target: Svma| code.index_of(target);
            let (next, target) = match instruction.flow {
                Flow::Next => (next, None),
                Flow::Jump(to) => (None, target(to)),
                Flow::Branch(to) | Flow::Call(to) => (next, target(to)),
                Flow::Return | Flow::Stop => (None, None),
                Flow::Indirect => return true,
            };
            pending.extend(next.into_iter().chain(target));
        }
        false
    }
}

#[cfg(test)]
mod tests;
