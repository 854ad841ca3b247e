//! One thread leaves a vDSO.

use std::ops::Range;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use nix::libc::{SIGTRAP, c_int};

use super::{PATIENCE, StuckReason, VdsoPlace};
use crate::Result;
use crate::tracing::{Standing, StandingMemory, Stop, Tracee, Undisturbed};
use relocator::threads::Registers;
use relocator::threads::frames::{self, Interrupted, Scope};

/// How long to let a thread run, at least and at most. The first is too short for most, but
/// costs nothing.
const RUN: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));

/// Most instructions that a thread is stepped. A reader may wait for a writer meanwhile.
const STEPS: u32 = 100_000;

/// How many signals may come while it runs or is stepped.
const ARRIVALS: u32 = 10;

/// How long one instruction may take: a system call may block.
const STEP: Duration = Duration::from_millis(50);

/// Where contexts are sought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The vDSOs.
    pub(super) vdsos: &'a [Range<Avma>],
    /// What stacks are part of.
    pub(super) writable: &'a [Range<Avma>],
    /// The memory of stacks.
    pub(super) memory: &'a StandingMemory,
    /// The stack pointers of the other threads.
    pub(super) neighbours: &'a [Avma],
    /// How much of stacks is searched.
    pub(super) scope: &'a Scope,
    /// When to give up.
    pub(super) deadline: Instant,
}

/// A context inside a vDSO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inside {
    /// Where it goes on.
    pub(super) place: VdsoPlace,
    /// Where it is saved, if it is not what the thread executes.
    pub(super) frame: Option<Avma>,
}

/// The contexts of a thread that are inside, innermost first, by its registers and by the frames
/// that were found.
pub(super) fn inside(
    vdsos: &[Range<Avma>],
    registers: &Registers,
    frames: &[Interrupted],
) -> Vec<Inside> {
    let own = VdsoPlace::inside(vdsos, registers.pc);
    let own = own.map(|place| Inside { place, frame: None });
    let saved = frames.iter().filter_map(|found| {
        let place = VdsoPlace::inside(vdsos, found.registers.pc)?;
        let frame = Some(found.at);
        Some(Inside { place, frame })
    });
    own.into_iter().chain(saved).collect()
}

/// Whether a thread has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// It is outside.
    Outside {
        /// How often the tool let it run.
        runs: u32,
        /// How many instructions it was stepped.
        steps: u32,
    },
    /// It is still inside.
    Inside {
        /// Its contexts that are.
        contexts: Vec<Inside>,
        /// Why.
        reason: StuckReason,
    },
    /// It has ended.
    Gone,
}

/// A thread that leaves. It is stopped between calls.
pub(super) struct Leaving<'a> {
    tracee: &'a mut Tracee,
    surroundings: Surroundings<'a>,
    runs: u32,
    steps: u32,
}

impl<'a> Leaving<'a> {
    pub(super) fn new(tracee: &'a mut Tracee, surroundings: Surroundings<'a>) -> Self {
        Self {
            tracee,
            surroundings,
            runs: 0,
            steps: 0,
        }
    }

    /// Its contexts that are inside, innermost first.
    pub(super) fn inside(&self) -> Result<Vec<Inside>> {
        let Surroundings {
            vdsos,
            writable,
            memory,
            neighbours,
            scope,
            ..
        } = self.surroundings;
        let registers = self.tracee.registers()?.registers();
        let found = frames::of_thread_among(&registers, neighbours, writable, vdsos, memory, scope);
        Ok(inside(vdsos, &registers, &found))
    }

    /// Lets it run at most `runs` times, and then steps it.
    pub(super) fn leave(mut self, runs: u32) -> Result<Left> {
        let mut time = RUN.0;
        while self.runs < runs && !self.is_late() {
            if let Some(left) = self.run(time, 0)? {
                return Ok(left);
            }
            time = (time * 2).min(RUN.1);
        }
        for _ in 0..ARRIVALS {
            if !self.executes_inside()? {
                return self.still_inside(StuckReason::InHandler);
            }
            if let Some(reason) = self.why_not_stepped()? {
                return self.still_inside(reason);
            }
            if let Some(left) = self.step()? {
                return Ok(left);
            }
        }
        self.still_inside(StuckReason::Signals)
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.surroundings.deadline
    }

    fn executes_inside(&self) -> Result<bool> {
        let pc = self.tracee.registers()?.pc();
        Ok(VdsoPlace::inside(self.surroundings.vdsos, pc).is_some())
    }

    /// Whether it has left, now that it stands.
    fn after(&self, standing: Standing) -> Result<Option<Left>> {
        let outside = Left::Outside {
            runs: self.runs,
            steps: self.steps,
        };
        Ok(match standing {
            Standing::Gone => Some(Left::Gone),
            _ => self.inside()?.is_empty().then_some(outside),
        })
    }

    fn still_inside(&self, reason: StuckReason) -> Result<Left> {
        let contexts = self.inside()?;
        Ok(Left::Inside { contexts, reason })
    }

    /// Lets it run for some time, with a signal or 0, and says if it has left. Signals are
    /// delivered, and their handlers may return.
    fn run(&mut self, time: Duration, signal: c_int) -> Result<Option<Left>> {
        self.runs += 1;
        let end = Instant::now() + time;
        let mut signal = signal;
        for _ in 0..ARRIVALS {
            self.tracee.resume(signal)?;
            let left = end.saturating_duration_since(Instant::now());
            let standing = match self.tracee.wait(left.max(RUN.0))? {
                Some(Stop::Group) => Standing::Still,
                Some(stop) if stop.is_end() => Standing::Gone,
                Some(stop) => {
                    signal = stop.due();
                    continue;
                }
                None => self.tracee.stand_still(PATIENCE)?,
            };
            return self.after(standing);
        }
        // Without a tracer it will be through with them sooner.
        self.tracee.interrupt()?;
        self.tracee.resume(signal)?;
        let standing = self.tracee.wait_still(PATIENCE)?;
        match self.after(standing)? {
            None => self.still_inside(StuckReason::Signals).map(Some),
            left => Ok(left),
        }
    }

    /// The trap of a step is a signal that cannot be blocked or ignored: the kernel would unblock
    /// it, and restore its default action for the whole process.
    fn why_not_stepped(&self) -> Result<Option<StuckReason>> {
        Ok(if self.tracee.blocks(SIGTRAP)? {
            Some(StuckReason::TrapBlocked)
        } else if self.tracee.ignores(SIGTRAP)? {
            Some(StuckReason::TrapIgnored)
        } else {
            None
        })
    }

    /// Steps it until it is outside, and says if it is; `None` if a signal has come.
    fn step(&mut self) -> Result<Option<Left>> {
        let _undisturbed = Undisturbed::begin();
        let why = loop {
            if self.steps >= STEPS || self.is_late() {
                break StuckReason::Loops;
            }
            self.steps += 1;
            self.tracee.step(0)?;
            match self.tracee.wait(STEP)? {
                Some(Stop::TRAP) if !self.executes_inside()? => break StuckReason::InHandler,
                Some(stop) if stop.is_end() => return Ok(Some(Left::Gone)),
                Some(Stop::Signal(signal)) if signal != SIGTRAP => {
                    return self.run(RUN.1, signal);
                }
                // One instruction further, or a signal is stopping its process.
                Some(_) => {}
                None if self.tracee.stand_still(PATIENCE)? == Standing::Gone => {
                    return Ok(Some(Left::Gone));
                }
                None => break StuckReason::Waits,
            }
        };
        // The trap flag goes when it is resumed, and it stops again before it executes anything.
        self.tracee.interrupt()?;
        self.tracee.resume(0)?;
        let standing = self.tracee.wait_still(PATIENCE)?;
        match self.after(standing)? {
            // It is out, but a signal came that interrupted it on its way.
            None if !self.executes_inside()? => self.run(RUN.1, 0),
            None => self.still_inside(why).map(Some),
            left => Ok(left),
        }
    }
}
