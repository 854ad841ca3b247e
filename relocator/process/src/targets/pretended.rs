//! Pretended memory: a whole process in a value, for tests of everything that takes a [`Target`].
//!
//! It does what the kernel would do with mappings, except that it does not merge neighbours of one
//! kind.

use std::ops::Range;

use elf_tools::Avma;

use super::live::injected_call;
use super::{
    Growth, Mapping, Protection, Step, StoppedTarget, Target, Thread, Whereabouts, overlaps,
    subtract,
};
use crate::maps::SpecialMemory;
use crate::{Error, Result};
use relocator::threads::{Memory, Write};

/// A mapping, and what it holds unless it cannot be read.
pub(crate) type Part = (Mapping, Option<Vec<u8>>);

/// A process that is made up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pretended {
    /// What is mapped, lowest first.
    pub(crate) parts: Vec<Part>,
    /// Where its auxiliary vector says that its vDSO is.
    pub(crate) auxv: Option<Avma>,
    /// Its memory that is not as most is.
    pub(crate) special: SpecialMemory,
    /// What it may still take.
    pub(crate) growth: Growth,
    /// Its threads.
    pub(crate) threads: Vec<Thread>,
    /// Whether injected calls go into another mapping than the old text's.
    pub(crate) calls_elsewhere: bool,
}

impl Pretended {
    /// Maps something where nothing is.
    pub(crate) fn map(
        &mut self,
        range: Range<Avma>,
        protection: Protection,
        name: &str,
        content: Option<Vec<u8>>,
    ) {
        let name = name.to_owned();
        let mapping = Mapping {
            range,
            protection,
            name,
        };
        self.parts.push((mapping, content));
        self.sort();
    }

    /// To be called when ranges were changed.
    pub(crate) fn sort(&mut self) {
        self.parts.sort_by_key(|part| part.0.range.start);
    }

    /// Carries out the first steps, and leaves what a tool that is killed then would have left:
    /// copies of code that were kept, or prepared and not put in place.
    pub(crate) fn carry_out_until_killed(&mut self, steps: &[Step], count: usize) {
        const COPIES: u64 = 0x6000_0000_0000;
        const APART: u64 = 1 << 24;
        for (index, step) in steps.iter().enumerate() {
            let mut bytes = match step {
                Step::RecoveryCopy(bytes) => bytes.clone(),
                Step::Replace { bytes, .. } if index >= count => bytes.clone(),
                _ => continue,
            };
            if let Step::Replace { at, .. } = step
                && !self.calls_elsewhere
            {
                injected_call::put(&mut bytes, *at);
            }
            let mut places = (COPIES..).step_by(APART as usize);
            let place = places.find_map(|at| {
                let range = Avma(at)..Avma(at + bytes.len() as u64);
                (!self.is_mapped(&range)).then_some(range)
            });
            if let Some(range) = place {
                self.map(range, private(true), "", Some(bytes));
            }
        }
        let mut done = steps.iter().take(count);
        done.try_for_each(|step| self.step(step)).unwrap();
    }

    fn is_mapped(&self, range: &Range<Avma>) -> bool {
        let mut parts = self.parts.iter();
        parts.any(|part| overlaps(&part.0.range, range))
    }

    fn unmap(&mut self, range: &Range<Avma>) {
        let cut = |(mapping, content): Part| {
            let left = subtract(vec![mapping.range.clone()], [range.clone()]);
            let part = move |range: Range<Avma>| {
                let start = mapping.range.start;
                let bytes = (range.start.0 - start.0) as usize..(range.end.0 - start.0) as usize;
                let content = content.as_ref().map(|content| content[bytes].to_vec());
                let mapping = Mapping {
                    range,
                    ..mapping.clone()
                };
                (mapping, content)
            };
            left.into_iter().map(part).collect::<Vec<_>>()
        };
        self.parts = self.parts.drain(..).flat_map(cut).collect();
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        let mut parts = self.parts.iter_mut();
        let part = parts.find(|part| part.0.range.contains(&write.at));
        let place = part.and_then(|(mapping, content)| {
            let start = (write.at.0 - mapping.range.start.0) as usize;
            content.as_mut()?.get_mut(start..start + write.bytes.len())
        });
        let place = place.ok_or_else(|| failed("nothing can be written there"))?;
        place.copy_from_slice(&write.bytes);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Registers(threads) => {
                for thread in threads {
                    let mut known = self.threads.iter_mut();
                    let known = known.find(|known| known.id == thread.id);
                    *known.ok_or_else(|| failed("no such thread"))? = *thread;
                }
            }
            Step::Write(write) => self.write(write)?,
            Step::Replace { at, bytes } => {
                let range = *at..at.offset(bytes.len() as i64);
                self.unmap(&range);
                self.map(range, private(true), "", Some(bytes.clone()));
            }
            Step::RecoveryCopy(_) => {}
            Step::Move { from, to } => {
                let place = *to..to.offset((from.end.0 - from.start.0) as i64);
                let mut parts = self.parts.iter();
                let index = parts.position(|part| part.0.range == *from);
                let (mut mapping, content) = self
                    .parts
                    .remove(index.ok_or_else(|| failed("no such mapping"))?);
                self.unmap(&place);
                mapping.range = place;
                self.parts.push((mapping, content));
                self.sort();
            }
            Step::Placeholder(range) if self.is_mapped(range) => {
                return Err(failed("something is mapped there"));
            }
            Step::Placeholder(range) => {
                let size = (range.end.0 - range.start.0) as usize;
                self.map(range.clone(), private(false), "", Some(vec![0; size]));
            }
            Step::Unmap(range) => self.unmap(range),
            Step::Separate(range) => {
                let mut bytes = vec![0; (range.end.0 - range.start.0) as usize];
                if !self.read(range.start, &mut bytes) {
                    return Err(failed("nothing is mapped there"));
                }
                self.unmap(range);
                self.map(range.clone(), private(true), "", Some(bytes));
            }
            Step::Forget(range) => {
                let is_droppable = self.special.droppable.contains(range);
                let bytes = vec![0; (range.end.0 - range.start.0) as usize];
                let at = range.start;
                match is_droppable {
                    true => self.write(&Write { at, bytes })?,
                    false => return Err(failed("memory that is not droppable")),
                }
            }
        }
        Ok(())
    }
}

fn private(execute: bool) -> Protection {
    Protection {
        read: true,
        execute,
        ..Protection::default()
    }
}

fn failed(why: &str) -> Error {
    Error::io("a pretended process")(std::io::Error::other(why.to_owned()))
}

impl Memory for Pretended {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let found = self.parts.iter().find(|part| part.0.range.contains(&at));
            let Some((mapping, Some(content))) = found else {
                return false;
            };
            let start = (at.0 - mapping.range.start.0) as usize;
            let left = (mapping.size() as usize - start).min(rest.len());
            let Some(content) = content.get(start..start + left) else {
                return false;
            };
            let (now, later) = rest.split_at_mut(left);
            now.copy_from_slice(content);
            (at, rest) = (at.offset(left as i64), later);
        }
        true
    }
}

impl Target for Pretended {
    fn id(&self) -> i32 {
        42
    }

    fn mappings(&self) -> Result<Vec<Mapping>> {
        Ok(self.parts.iter().map(|part| part.0.clone()).collect())
    }

    fn auxv_vdso(&self) -> Option<Avma> {
        self.auxv
    }

    fn special(&self) -> Result<SpecialMemory> {
        Ok(self.special.clone())
    }

    fn growth(&self) -> Growth {
        self.growth
    }

    fn whereabouts(&self) -> Result<Vec<Whereabouts>> {
        let place = |thread: &Thread| Whereabouts {
            thread: thread.id,
            pc: Some(thread.registers.pc),
        };
        Ok(self.threads.iter().map(place).collect())
    }
}

impl StoppedTarget for Pretended {
    fn threads(&self) -> Result<Vec<Thread>> {
        Ok(self.threads.clone())
    }

    fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
        let before = self.clone();
        let result = steps.iter().try_for_each(|step| self.step(step));
        if result.is_err() {
            *self = before;
        }
        result
    }
}
