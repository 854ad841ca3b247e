//! Carries out steps in a live process, and undoes them if one fails.
//!
//! Steps that only change registers and memory come first, because they need no system call; but a
//! text that another one replaces changes only when the other one is ready. Then a thread becomes
//! the worker, prepares all new mappings, and the rest follows. The tool keeps what was there
//! before each step, and restores it in the opposite order if anything fails.

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use elf_tools::Avma;
use nix::libc;
use nix::unistd::Pid;

use super::execution::Execution;
use super::space::Space;
use super::worker::Worker;
use super::{Live, injected_call, site};
use crate::targets::{Mapping, Step, Target, Thread, WORD};
use crate::tracing::{StandingMemory, Tracee};
use crate::{Error, Obstacle, Refusal, Result};
use relocator::threads::frames::merge;
use relocator::threads::{Memory, Write};

/// Carries out all steps, or none, in a process with these mappings.
pub(super) fn carry_out(live: &mut Live, steps: &[Step], mappings: &[Mapping]) -> Result<()> {
    let replaced: Vec<Range<Avma>> = steps.iter().filter_map(replaced).collect();
    let is_plain = |step: &&Step| match step {
        Step::Registers(_) => true,
        Step::Write(write) => !replaced.iter().any(|range| range.contains(&write.at)),
        _ => false,
    };
    let plain = steps.iter().take_while(is_plain).count();
    let (plain, rest) = steps.split_at(plain);
    let mut done = Vec::new();
    let result = plain_steps(live, plain, &mut done).and_then(|()| match rest.is_empty() {
        true => Ok(()),
        false => with_worker(live, rest, mappings),
    });
    if result.is_err() {
        // What fails here fails because the process has ended.
        for before in done.into_iter().rev() {
            let _ = first(live).and_then(|writer| before.restore(live.seized.standing(), writer));
        }
    }
    result
}

/// What a step replaces.
pub(super) fn replaced(step: &Step) -> Option<Range<Avma>> {
    match step {
        Step::Replace { at, bytes } => Some(*at..at.offset(bytes.len() as i64)),
        _ => None,
    }
}

fn plain_steps(live: &Live, steps: &[Step], done: &mut Vec<Before>) -> Result<()> {
    let threads = live.seized.standing();
    for step in steps {
        match step {
            Step::Registers(registers) => {
                put_registers(threads, registers, |before| done.push(before))?
            }
            Step::Write(bytes) => put_bytes(first(live)?, live, bytes, |before| done.push(before))?,
            _ => unreachable!("steps that need a system call come behind"),
        }
    }
    Ok(())
}

fn first(live: &Live) -> Result<&Tracee> {
    let first = live.seized.standing().first();
    first.ok_or_else(|| Error::refused(live.pid, Refusal::Ended))
}

/// What there was before a step that needs no system call.
pub(super) enum Before {
    Registers(Thread),
    Bytes(Write),
}

impl Before {
    /// Puts it back. Threads that have ended need nothing.
    pub(super) fn restore(self, threads: &[Tracee], writer: &Tracee) -> Result<()> {
        match self {
            Self::Registers(thread) => match find(threads, thread.id) {
                Some(tracee) => set_registers(tracee, &thread).map(drop),
                None => Ok(()),
            },
            Self::Bytes(before) => write(writer, &before),
        }
    }
}

/// Sets registers of threads, and passes on what they were.
pub(super) fn put_registers(
    threads: &[Tracee],
    registers: &[Thread],
    mut before: impl FnMut(Before),
) -> Result<()> {
    for thread in registers {
        let tracee = find(threads, thread.id);
        let tracee = tracee.ok_or_else(|| {
            let thread = Pid::from_raw(thread.id);
            Error::refused(thread, Refusal::NotStopped)
        })?;
        before(Before::Registers(set_registers(tracee, thread)?));
    }
    Ok(())
}

/// Writes bytes by a thread of the process, and passes on what they were.
pub(super) fn put_bytes(
    writer: &Tracee,
    memory: &dyn Memory,
    bytes: &Write,
    mut before: impl FnMut(Before),
) -> Result<()> {
    before(Before::Bytes(Write {
        at: bytes.at,
        bytes: read(memory, bytes.at, bytes.bytes.len())?,
    }));
    write(writer, bytes)
}

fn find(threads: &[Tracee], id: i32) -> Option<&Tracee> {
    threads.iter().find(|tracee| tracee.pid().as_raw() == id)
}

/// Puts the registers of a thread; what they were.
fn set_registers(tracee: &Tracee, thread: &Thread) -> Result<Thread> {
    let before = tracee.registers()?;
    tracee.set_registers(&before.with(&thread.registers))?;
    Ok(Thread {
        registers: before.registers(),
        ..*thread
    })
}

/// Reads memory, all of it.
pub(super) fn read(memory: &dyn Memory, at: Avma, size: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    match memory.read(at, &mut bytes) {
        true => Ok(bytes),
        false => {
            let what = format!("{size:#x} bytes of memory at {at}");
            Err(Error::io(what)(nix::errno::Errno::EFAULT.into()))
        }
    }
}

/// Writes data, or code, which only a tracer may.
fn write(tracee: &Tracee, write: &Write) -> Result<()> {
    // A word is to change at once, which a copy does not promise.
    if write.bytes.len() > WORD && fill(tracee.pid(), write).is_ok() {
        return Ok(());
    }
    tracee.poke(write.at, &write.bytes)
}

/// Writes memory, by the file that stands for it: for that the kernel does not wait for a
/// `userfaultfd`, as it does for `process_vm_writev`.
pub(super) fn fill(pid: Pid, write: &Write) -> Result<()> {
    let what = || format!("writing {:#x} bytes at {}", write.bytes.len(), write.at);
    let memory = OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"));
    let written = memory.and_then(|memory| memory.write_all_at(&write.bytes, write.at.0));
    written.map_err(|error| Error::io(what())(error))
}

/// Carries out steps that need system calls, and puts the thread that makes them back afterwards.
fn with_worker(live: &mut Live, steps: &[Step], mappings: &[Mapping]) -> Result<()> {
    let code = site::find(live, steps, mappings)?;
    let index = eligible(live, steps, code)?;
    let thread = live.seized.standing()[index].pid();
    let is_filtered = is_filtered(thread)?;
    if is_filtered && !live.is_adopted {
        // If the tool died in a call, the filter would be in force again.
        let thread = thread.as_raw();
        return Err(Error::refused(live.pid, Refusal::Seccomp { thread }));
    }
    let tracee = live.tracees().swap_remove(index);
    let memory = match live.memory.take() {
        Some(memory) => memory,
        None => StandingMemory::new(live.pid, mappings, &live.special()?),
    };
    let moves = steps.iter().filter_map(|step| match step {
        Step::Move { from, to } => {
            let end = to.offset((from.end.0 - from.start.0) as i64);
            Some([from.clone(), *to..end])
        }
        _ => None,
    });
    let places = steps.iter().filter_map(place).chain(moves.flatten());
    let places: Vec<Range<Avma>> = places.collect();
    let space = Space::new(mappings, &merge(&places));
    let mut worker = match is_filtered {
        true => Worker::take_unfiltered(tracee, code)?,
        false => Worker::take(tracee, code)?,
    };
    let result = is_dumpable(&mut worker)
        .and_then(|()| Execution::new(&mut worker, live.seized.standing(), memory, space))
        .and_then(|execution| execution.carry_out(steps));
    let tracee = worker.release()?;
    let erased = tracee.poke(code, &[0; injected_call::SIZE]);
    live.tracees().push(tracee);
    result?;
    erased
}

/// What a step covers, but for what moves.
fn place(step: &Step) -> Option<Range<Avma>> {
    match step {
        Step::Replace { .. } => replaced(step),
        Step::Move { .. } => None,
        Step::Placeholder(range) | Step::Unmap(range) | Step::Separate(range) => {
            Some(range.clone())
        }
        Step::Registers(_) | Step::Write(_) | Step::RecoveryCopy(_) | Step::Forget(_) => None,
    }
}

/// Refuses a process that is not dumpable. Only the process itself can ask (`PR_GET_DUMPABLE`).
fn is_dumpable(worker: &mut Worker) -> Result<()> {
    let pid = worker.tracee()?.pid();
    match worker.call(libc::SYS_prctl, &[libc::PR_GET_DUMPABLE as u64])? {
        Ok(1) => Ok(()),
        _ => Err(Error::refused(pid, Refusal::NotDumpable)),
    }
}

/// Whether the system calls of a thread are filtered: the filter may end its process.
fn is_filtered(thread: Pid) -> Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
    let status = status.map_err(Error::io(format!("status of thread {thread}")))?;
    let filter = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    Ok(filter.is_some_and(|mode| mode.trim() != "0"))
}

/// A thread that can be the worker, best one first: one that is in no system call.
fn eligible(live: &mut Live, steps: &[Step], code: Avma) -> Result<usize> {
    let is_changed = |tracee: &Tracee| {
        let id = tracee.pid().as_raw();
        let threads = steps.iter().filter_map(|step| match step {
            Step::Registers(threads) => Some(threads),
            _ => None,
        });
        threads.flatten().any(|thread| thread.id == id)
    };
    let (mut found, mut dispatched) = (None, None);
    for (index, tracee) in live.seized.standing().iter().enumerate() {
        let is_free = tracee.registers()?.registers().system_call == -1;
        // Of a thousand threads that sleep, the first is as good as any.
        if !is_free && found.is_some() || is_changed(tracee) || tracee.is_in_sequence() {
            continue;
        }
        if tracee.is_dispatched(code) {
            dispatched = Some(tracee.pid().as_raw());
            continue;
        }
        match is_free {
            true => return Ok(index),
            false => found = Some(index),
        }
    }
    found.ok_or_else(|| Error::Busy {
        pid: live.pid.as_raw(),
        reason: match dispatched {
            Some(thread) => Obstacle::Dispatched { thread },
            None => Obstacle::NoThreadForCalls,
        },
    })
}
