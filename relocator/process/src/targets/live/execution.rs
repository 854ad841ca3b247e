//! Steps that need system calls in the process: they make, move and remove mappings.

use std::collections::VecDeque;
use std::ops::Range;

use elf_tools::Avma;
use nix::libc;
use nix::unistd::Pid;

use super::injected_call;
use super::space::Space;
use super::steps::{self, Before};
use super::worker::Worker;
use crate::targets::{Mapping, Step, subtract};
use crate::tracing::{StandingMemory, Tracee};
use crate::{Error, Refusal, Result, StepFailure};
use relocator::placement::PAGE;
use relocator::threads::Write;

/// Nowhere, or no file.
const NONE: u64 = u64::MAX;

/// Steps that are being carried out.
pub(super) struct Execution<'a> {
    worker: &'a mut Worker,
    others: &'a [Tracee],
    pid: Pid,
    memory: StandingMemory,
    code: Avma,
    space: Space,
    done: Vec<Undo>,
    /// Code that is kept until the end.
    copy: Vec<Range<Avma>>,
}

/// New code in the process that is not in its place yet.
struct Prepared {
    at: Avma,
    bytes: Vec<u8>,
}

/// What undoes a step.
enum Undo {
    Plain(Before),
    Unmap(Range<Avma>),
    Placeholder(Range<Avma>),
    Code { at: Avma, bytes: Vec<u8> },
    Move { from: Range<Avma>, to: Avma },
}

impl<'a> Execution<'a> {
    /// In a process with this memory and address space.
    pub(super) fn new(
        worker: &'a mut Worker,
        others: &'a [Tracee],
        memory: StandingMemory,
        space: Space,
    ) -> Result<Self> {
        let pid = worker.tracee()?.pid();
        Ok(Self {
            code: worker.place(),
            worker,
            others,
            pid,
            memory,
            space,
            done: Vec::new(),
            copy: Vec::new(),
        })
    }

    /// Carries out all steps, or none.
    pub(super) fn carry_out(mut self, all: &[Step]) -> Result<()> {
        let result = self.try_all(all);
        if result.is_err() {
            // What fails here fails because the process has ended.
            while let Some(undo) = self.done.pop() {
                let _ = self.undo(undo);
            }
        }
        // What was not put in its place goes first: the copies say what it is.
        for place in std::mem::take(&mut self.copy).into_iter().rev() {
            let _ = self.unmap(&place);
        }
        result
    }

    fn try_all(&mut self, all: &[Step]) -> Result<()> {
        let mut prepared = VecDeque::new();
        let result = self.prepare_all(all, &mut prepared).and_then(|()| {
            all.iter()
                .try_for_each(|step| self.step(step, &mut prepared))
        });
        // They are of use until everything is undone: if this tool is killed, the next one learns
        // from them what was there.
        let unused = prepared.iter().map(|code| range(code.at, code.bytes.len()));
        self.copy.extend(unused);
        result?;
        self.check(all)
    }

    fn prepare_all(&mut self, all: &[Step], prepared: &mut VecDeque<Prepared>) -> Result<()> {
        for step in all {
            match step {
                Step::RecoveryCopy(bytes) => {
                    let at = self.prepare(bytes)?;
                    self.copy.push(range(at, bytes.len()));
                }
                Step::Replace { at, bytes } => {
                    let bytes = self.with_trampoline(*at, bytes);
                    let at = self.prepare(&bytes)?;
                    prepared.push_back(Prepared { at, bytes });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// New pages for a place where the worker executes its code: with that code.
    fn with_trampoline(&self, at: Avma, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let offset = self.code.0.checked_sub(at.0).map(|offset| offset as usize);
        let place = offset.and_then(|offset| bytes.get_mut(offset..offset + injected_call::SIZE));
        if let Some(place) = place {
            place.copy_from_slice(&self.worker.code());
        }
        bytes
    }

    /// Maps code anywhere: it is written first, and only then executable.
    fn prepare(&mut self, bytes: &[u8]) -> Result<Avma> {
        let size = bytes.len() as u64;
        let mut place = self.map_remote(size, libc::PROT_READ | libc::PROT_WRITE)?;
        let mut filled = self.fill_code(place, bytes);
        if is_denied(&filled) {
            // The process must not make data executable (`PR_SET_MDWE`). It may have new code,
            // which only a tracer can write.
            self.unmap(&range(place, bytes.len()))?;
            place = self.map_remote(size, libc::PROT_READ | libc::PROT_EXEC)?;
            filled = self.write_code(place, bytes);
        }
        let all = range(place, bytes.len());
        match filled.is_err() {
            true => drop(self.unmap(&all)),
            false => self.space.code(&all),
        }
        filled.map(|()| place)
    }

    /// Maps new memory, next to nothing if there is such a place.
    fn map_remote(&mut self, size: u64, protection: i32) -> Result<Avma> {
        if let Some(place) = self.space.remote_place(size) {
            let mapped = self.map(place.0, size, protection, libc::MAP_FIXED_NOREPLACE);
            if let Ok(place) = mapped {
                return Ok(place);
            }
        }
        self.map(0, size, protection, 0)
    }

    fn fill_code(&mut self, place: Avma, bytes: &[u8]) -> Result<()> {
        let write = Write {
            at: place,
            bytes: bytes.to_vec(),
        };
        steps::fill(self.pid, &write)?;
        let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let arguments = [place.0, bytes.len() as u64, protection];
        self.call("mprotect", libc::SYS_mprotect, &arguments)?;
        self.check_code(place, bytes)
    }

    fn write_code(&mut self, place: Avma, bytes: &[u8]) -> Result<()> {
        self.worker.tracee()?.poke(place, bytes)?;
        self.check_code(place, bytes)
    }

    fn check_code(&self, place: Avma, bytes: &[u8]) -> Result<()> {
        match steps::read(&self.memory, place, bytes.len())? == bytes {
            true => Ok(()),
            false => Err(self.failed(StepFailure::NotWritten { at: place })),
        }
    }

    fn step(&mut self, step: &Step, prepared: &mut VecDeque<Prepared>) -> Result<()> {
        match step {
            Step::Registers(threads) => {
                let before = |before| self.done.push(Undo::Plain(before));
                steps::put_registers(self.others, threads, before)
            }
            Step::Write(bytes) => {
                let before = |before| self.done.push(Undo::Plain(before));
                steps::put_bytes(self.worker.tracee()?, &self.memory, bytes, before)
            }
            Step::Replace { at, .. } => match prepared.pop_front() {
                Some(code) => self.replace(*at, code),
                None => Err(self.failed(StepFailure::NotPrepared { at: *at })),
            },
            // It is there from the beginning.
            Step::RecoveryCopy(_) => Ok(()),
            Step::Move { from, to } => self.move_mapping(from, *to),
            Step::Placeholder(place) => self.zero(place),
            // Nothing has to be undone: what was there before is put over it.
            Step::Separate(place) => self.advise(place, libc::MADV_DONTDUMP),
            // The kernel may do the same at any moment.
            Step::Forget(place) => self.advise(place, libc::MADV_DONTNEED),
            Step::Unmap(place) => {
                let covered = self.covered(place)?;
                self.unmap(place)?;
                self.space.unmap(place);
                self.done.extend(covered);
                Ok(())
            }
        }
    }

    fn replace(&mut self, at: Avma, code: Prepared) -> Result<()> {
        let place = range(at, code.bytes.len());
        let prepared = range(code.at, code.bytes.len());
        let covered = self.covered(&place);
        let covered = covered.and_then(|covered| self.remap(&prepared, at).map(|()| covered));
        if covered.is_err() {
            let _ = self.unmap(&prepared);
        }
        let covered = covered?;
        self.space.unmap(&prepared);
        self.space.code(&place);
        // What was there is put over what is there now, and only where nothing was it is unmapped:
        // the code that the worker executes never disappears.
        let free = uncovered(place, &covered);
        self.done.extend(free.into_iter().map(Undo::Unmap));
        self.done.extend(covered);
        Ok(())
    }

    fn move_mapping(&mut self, from: &Range<Avma>, to: Avma) -> Result<()> {
        let size = from.end.0 - from.start.0;
        let place = to..Avma(to.0 + size);
        let covered = self.covered(&place)?;
        self.remap(from, to)?;
        self.space.rename(from, to);
        self.done.extend(covered);
        self.done.push(Undo::Move {
            from: place,
            to: from.start,
        });
        Ok(())
    }

    fn zero(&mut self, place: &Range<Avma>) -> Result<()> {
        let size = place.end.0 - place.start.0;
        let fixed = libc::MAP_FIXED_NOREPLACE;
        let at = self.map(place.start.0, size, libc::PROT_READ, fixed)?;
        if at != place.start {
            // A kernel that does not know the flag.
            self.unmap(&(at..Avma(at.0 + size)))?;
            return Err(self.failed(StepFailure::InUse { at: place.start }));
        }
        self.space.placeholder(place);
        self.done.push(Undo::Unmap(place.clone()));
        Ok(())
    }

    /// What is in a place that is about to be covered: nothing, zeros, or code.
    fn covered(&self, place: &Range<Avma>) -> Result<Vec<Undo>> {
        let mut covered = Vec::new();
        for mapping in self.space.within(place) {
            let start = mapping.range.start.max(place.start);
            let end = mapping.range.end.min(place.end);
            let size = (end.0 - start.0) as usize;
            let bytes = match is_ours_to_cover(mapping) {
                true => steps::read(&self.memory, start, size)?,
                false => {
                    let by = format!("{} {}", mapping.protection, mapping.name);
                    return Err(self.failed(StepFailure::Occupied { at: start, by }));
                }
            };
            covered.push(match mapping.is_private_code() {
                true => Undo::Code { at: start, bytes },
                false if bytes.iter().all(|&byte| byte == 0) => Undo::Placeholder(start..end),
                false => return Err(self.failed(StepFailure::Data { at: start })),
            });
        }
        Ok(covered)
    }

    fn undo(&mut self, undo: Undo) -> Result<()> {
        match undo {
            Undo::Plain(before) => before.restore(self.others, self.worker.tracee()?),
            Undo::Unmap(place) => self.unmap(&place),
            Undo::Placeholder(place) => {
                let size = place.end.0 - place.start.0;
                self.map(place.start.0, size, libc::PROT_READ, libc::MAP_FIXED)
                    .map(drop)
            }
            Undo::Code { at, bytes } => {
                let code = self.prepare(&bytes)?;
                self.remap(&range(code, bytes.len()), at)
            }
            Undo::Move { from, to } => self.remap(&from, to),
        }
    }

    /// Reads back the text that should be there now.
    fn check(&mut self, all: &[Step]) -> Result<()> {
        for (index, step) in all.iter().enumerate() {
            let Step::Replace { at, bytes } = step else {
                continue;
            };
            let mut expected = self.with_trampoline(*at, bytes);
            overwrite(*at, &mut expected, &all[index + 1..]);
            if steps::read(&self.memory, *at, expected.len())? != expected {
                return Err(self.failed(StepFailure::NotWritten { at: *at }));
            }
        }
        Ok(())
    }

    fn map(&mut self, at: u64, size: u64, protection: i32, flags: i32) -> Result<Avma> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
        let arguments = [at, size, protection as u64, flags as u64, NONE, 0];
        self.call("mmap", libc::SYS_mmap, &arguments).map(Avma)
    }

    fn advise(&mut self, place: &Range<Avma>, advice: i32) -> Result<()> {
        let size = place.end.0 - place.start.0;
        let arguments = [place.start.0, size, advice as u64];
        self.call("madvise", libc::SYS_madvise, &arguments)
            .map(drop)
    }

    fn unmap(&mut self, place: &Range<Avma>) -> Result<()> {
        let arguments = [place.start.0, place.end.0 - place.start.0];
        self.call("munmap", libc::SYS_munmap, &arguments).map(drop)
    }

    fn remap(&mut self, from: &Range<Avma>, to: Avma) -> Result<()> {
        let size = from.end.0 - from.start.0;
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let arguments = [from.start.0, size, size, flags, to.0];
        let place = self.call("mremap", libc::SYS_mremap, &arguments)?;
        match place == to.0 {
            true => Ok(()),
            false => Err(self.failed(StepFailure::MovedElsewhere {
                to,
                instead: Avma(place),
            })),
        }
    }

    fn call(&mut self, name: &str, number: i64, arguments: &[u64]) -> Result<u64> {
        let said = self.worker.call(number, arguments)?;
        let place = arguments.first().copied().unwrap_or_default();
        said.map_err(|errno| {
            self.failed(StepFailure::Call {
                name: name.to_owned(),
                at: Avma(place),
                errno,
            })
        })
    }

    fn failed(&self, failure: StepFailure) -> Error {
        Error::refused(self.pid, Refusal::Step(failure))
    }
}

/// Whether the process was not allowed what it was to do.
fn is_denied(done: &Result<()>) -> bool {
    let Err(Error::Refused {
        reason: Refusal::Step(StepFailure::Call { errno, .. }),
        ..
    }) = done
    else {
        return false;
    };
    *errno == nix::errno::Errno::EACCES
}

/// Whether a mapping is of a kind that steps may cover: zeros that cannot be written, or private
/// code.
fn is_ours_to_cover(mapping: &Mapping) -> bool {
    let protection = mapping.protection;
    let is_constant = protection.read && !protection.write && !protection.shared;
    is_constant && mapping.name.is_empty()
}

/// The parts of a place where nothing is.
fn uncovered(place: Range<Avma>, covered: &[Undo]) -> Vec<Range<Avma>> {
    let covered = covered.iter().filter_map(|undo| match undo {
        Undo::Placeholder(range) => Some(range.clone()),
        Undo::Code { at, bytes } => Some(range(*at, bytes.len())),
        _ => None,
    });
    subtract(vec![place], covered)
}

/// What later steps make of bytes.
fn overwrite(at: Avma, bytes: &mut [u8], later: &[Step]) {
    for step in later {
        if let Step::Write(write) = step {
            for (address, &byte) in (write.at.0..).zip(&write.bytes) {
                let place = address.checked_sub(at.0).map(|place| place as usize);
                if let Some(known) = place.and_then(|place| bytes.get_mut(place)) {
                    *known = byte;
                }
            }
        }
    }
}

/// Whole pages that hold as many bytes.
fn range(at: Avma, size: usize) -> Range<Avma> {
    at..Avma(at.0 + (size as u64).next_multiple_of(PAGE))
}
