//! Threads and signal frames inside old vDSOs, and what becomes of each.

use std::ops::Range;

use elf_tools::image::Image;
use elf_tools::{Avma, Svma};
use relocator::threads::Registers;
use relocator::threads::frames::{self, Interrupted, Scope};
use relocator_process::targets::{Step, StoppedTarget, Target};

use super::answer::{CheckedThread, Context, Fate};
use crate::Result;
use crate::plain::{Breakage, Inside, Jump, function_at, place_in};
use crate::restored::Restored;
use crate::task::Task;

/// All contexts of a task that are inside of texts.
#[derive(Debug)]
pub(super) struct Contexts {
    all: Vec<Found>,
}

/// One of them.
#[derive(Debug, Clone)]
struct Found {
    thread: i32,
    frame: Option<Avma>,
    registers: Registers,
}

impl Contexts {
    /// Finds them as they were dumped.
    pub(super) fn of(task: &Task, memory: &Restored<'_>, texts: &[Range<Avma>]) -> Result<Self> {
        let threads = memory.threads()?;
        let mappings = memory.mappings()?;
        let writable = mappings.iter().filter(|mapping| {
            let protection = mapping.protection;
            protection.read && protection.write
        });
        let writable: Vec<Range<Avma>> = writable.map(|one| one.range.clone()).collect();
        let registers = threads.iter().map(|thread| &thread.registers);
        let found = match task.seen {
            Some(_) => Vec::new(),
            None => {
                let scope = Scope::whole();
                let found = frames::of_threads(registers, &writable, texts, memory, &scope);
                let is_live = |one: &Interrupted| !found.returned.contains(&one.at);
                let all = found.contexts.iter();
                all.map(|all| all.iter().copied().filter(is_live).collect())
                    .collect::<Vec<Vec<_>>>()
            }
        };
        let mut all = Vec::new();
        for (index, thread) in threads.iter().enumerate() {
            let pc = thread.registers.pc;
            if texts.iter().any(|text| text.contains(&pc)) {
                all.push(Found {
                    thread: thread.id,
                    frame: None,
                    registers: thread.registers,
                });
            }
            let frames = found.get(index).into_iter().flatten();
            all.extend(frames.map(|one| Found {
                thread: thread.id,
                frame: Some(one.at),
                registers: one.registers,
            }));
        }
        Ok(Self { all })
    }

    /// Those in one text.
    pub(super) fn inside<'a>(&'a self, text: &'a Range<Avma>) -> impl Iterator<Item = Inside> + 'a {
        self.all.iter().filter_map(|one| {
            Some(Inside {
                thread: one.thread,
                frame: one.frame,
                place: place_in(text, one.registers.pc)?,
            })
        })
    }

    /// What each thread of a task is in, and what steps make of that.
    pub(super) fn threads(&self, task: &Task, image: &Image, steps: &[Step]) -> Vec<CheckedThread> {
        let base = task.ranges_of(crate::mapping::Role::Vdso).next();
        let base = base.map_or(Avma(0), |range| range.start);
        let place = |at: Avma| Svma(at.0.wrapping_sub(base.0));
        let named = |at: Avma| {
            let (name, behind) = function_at(image, place(at))?;
            Some((name.to_owned(), behind))
        };
        let context = |one: &Found| Context {
            frame: one.frame,
            pc: one.registers.pc,
            place: place(one.registers.pc),
            function: named(one.registers.pc),
            fate: self.fate(one, steps),
        };
        let threads = task.threads.iter().map(|thread| {
            let id = thread.thread.id;
            let own = self.all.iter().filter(|one| one.thread == id);
            CheckedThread {
                id,
                name: thread.name.clone(),
                pc: Some(thread.thread.registers.pc),
                contexts: own.map(context).collect(),
            }
        });
        threads.collect()
    }

    /// What steps make of a context.
    fn fate(&self, one: &Found, steps: &[Step]) -> Fate {
        match one.frame {
            None => {
                let registers = steps.iter().find_map(|step| match step {
                    Step::Registers(threads) => {
                        threads.iter().find(|thread| thread.id == one.thread)
                    }
                    _ => None,
                });
                match registers {
                    Some(thread) => Fate::GoesTo(thread.registers.pc),
                    None => Fate::GoesOn,
                }
            }
            Some(frame) => {
                let known = Interrupted {
                    at: frame,
                    registers: one.registers,
                };
                // What is written to a frame that is changed begins and ends where this does.
                let place = known.write(&one.registers);
                let is_written = steps.iter().any(|step| {
                    matches!(step, Step::Write(write)
                        if write.at == place.at && write.bytes.len() == place.bytes.len())
                });
                match is_written {
                    true => Fate::GoesBack,
                    false => Fate::GoesOn,
                }
            }
        }
    }

    /// What breaks of contexts in a text under CRIU's jumps.
    pub(super) fn broken(
        &self,
        text: &Range<Avma>,
        jumps: &[Jump],
        steps: &[Step],
    ) -> Vec<Breakage> {
        let broken = self.all.iter().filter_map(|one| {
            let inside = Inside {
                thread: one.thread,
                frame: one.frame,
                place: place_in(text, one.registers.pc)?,
            };
            if jumps.iter().any(|jump| jump.cuts(inside.place)) {
                return Some(Breakage::InJump(inside));
            }
            match self.fate(one, steps) {
                Fate::GoesOn => None,
                Fate::GoesTo(_) | Fate::GoesBack => Some(Breakage::ReadsZeros(inside)),
            }
        });
        broken.collect()
    }
}
