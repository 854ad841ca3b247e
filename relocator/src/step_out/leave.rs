//! One thread leaves a vDSO.

use std::ops::Range;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use nix::libc::SIGTRAP;

use super::subject::ignores;
use super::undisturbed::Undisturbed;
use super::{PATIENCE, Place};
use crate::Result;
use crate::tracing::{Standing, Stop, Tracee};

/// The shortest and the longest time that a thread is let run. The first is too short for most, but costs nothing.
const RUN: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));

/// Most instructions that a thread is stepped. A reader may wait for a writer meanwhile.
const STEPS: u32 = 100_000;

/// How long one instruction may take: a system call may block.
const STEP: Duration = Duration::from_millis(50);

/// The bit of a signal in a mask.
const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Whether a thread has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Left {
    /// It is outside.
    Outside {
        /// How often it was let run.
        runs: u32,
        /// How many instructions it was stepped.
        steps: u32,
    },
    /// It is still inside.
    Inside {
        /// Where.
        place: Place,
        /// Why.
        reason: String,
    },
    /// It has ended.
    Gone,
}

/// A thread that is to leave. It stands still whenever nothing is being done with it.
pub(super) struct Leaving<'a> {
    tracee: &'a mut Tracee,
    vdsos: &'a [Range<Avma>],
    deadline: Instant,
    runs: u32,
    steps: u32,
}

impl<'a> Leaving<'a> {
    pub(super) fn new(tracee: &'a mut Tracee, vdsos: &'a [Range<Avma>], deadline: Instant) -> Self {
        Self {
            tracee,
            vdsos,
            deadline,
            runs: 0,
            steps: 0,
        }
    }

    /// Where it is inside, if it is.
    pub(super) fn inside(&self) -> Result<Option<Place>> {
        let pc = self.tracee.registers()?.pc();
        Ok(Place::inside(self.vdsos, pc))
    }

    /// Lets it run at most `runs` times, and then steps it.
    pub(super) fn leave(mut self, runs: u32) -> Result<Left> {
        let mut time = RUN.0;
        while self.runs < runs && Instant::now() < self.deadline {
            if self.run(time)? == Standing::Gone {
                return Ok(Left::Gone);
            }
            if self.inside()?.is_none() {
                return Ok(self.outside());
            }
            time = (time * 2).min(RUN.1);
        }
        match self.why_not_stepped()? {
            Some(reason) => self.still_inside(reason),
            None => self.step(),
        }
    }

    fn outside(&self) -> Left {
        Left::Outside {
            runs: self.runs,
            steps: self.steps,
        }
    }

    fn still_inside(&self, reason: &str) -> Result<Left> {
        Ok(match self.inside()? {
            None => self.outside(),
            Some(place) => Left::Inside {
                place,
                reason: reason.to_owned(),
            },
        })
    }

    /// Lets it run for some time. Signals are delivered.
    fn run(&mut self, time: Duration) -> Result<Standing> {
        self.runs += 1;
        self.tracee.resume(0)?;
        match self.tracee.wait(time)? {
            Some(Stop::Group) => return Ok(Standing::Still),
            Some(stop) if stop.is_end() => return Ok(Standing::Gone),
            Some(Stop::Signal(signal)) => self.tracee.resume(signal)?,
            Some(_) => self.tracee.resume(0)?,
            None => {}
        }
        self.tracee.stand_still(PATIENCE)
    }

    /// The trap of a step is a signal that cannot be blocked or ignored: the kernel would unblock it, and restore its
    /// default action for the whole process.
    fn why_not_stepped(&self) -> Result<Option<&'static str>> {
        if self.tracee.signal_mask()? & bit(SIGTRAP) != 0 {
            return Ok(Some("it blocks SIGTRAP, so that it cannot be stepped"));
        }
        let ignored = ignores(self.tracee.pid(), bit(SIGTRAP))?;
        Ok(ignored.then_some("its process ignores SIGTRAP, so that it cannot be stepped"))
    }

    /// Steps it until it is outside.
    fn step(mut self) -> Result<Left> {
        let _undisturbed = Undisturbed::begin();
        let (why, signal) = loop {
            if self.steps == STEPS || Instant::now() >= self.deadline {
                break ("it does not get out by itself", 0);
            }
            self.steps += 1;
            self.tracee.step(0)?;
            match self.tracee.wait(STEP)? {
                Some(Stop::TRAP) if self.inside()?.is_none() => break ("", 0),
                Some(stop) if stop.is_end() => return Ok(Left::Gone),
                Some(Stop::Signal(signal)) if signal != SIGTRAP => {
                    break ("signals do not let it get out", signal);
                }
                // One instruction further, or its process is being stopped by somebody else.
                Some(_) => {}
                None if self.tracee.stand_still(PATIENCE)? == Standing::Gone => {
                    return Ok(Left::Gone);
                }
                None => break ("it waits in a system call", 0),
            }
        };
        // The trap flag goes when it is resumed, and it stops again before it executes anything.
        self.tracee.interrupt()?;
        self.tracee.resume(signal)?;
        match self.tracee.wait_still(PATIENCE)? {
            Standing::Gone => Ok(Left::Gone),
            _ => self.still_inside(why),
        }
    }
}
