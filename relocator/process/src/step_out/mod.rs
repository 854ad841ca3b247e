//! Makes the threads of a process leave its vDSO before it is dumped, so that a restore has none to
//! carry across.
//!
//! | module | does |
//! |---|---|
//! | `process` | the process: where its threads can be, and in which state the tool leaves it |
//! | `leave` | one thread leaves |
//! | `why` | why a context is still inside |
//!
//! The tool must not harm the process, and `SIGKILL` can end the tool at any moment. So from each
//! state that the process goes through the kernel lets it go on. That decides how a thread leaves:
//!
//! - **The tool changes no signal mask.** A mask would survive the tool. It is not needed either:
//!   the kernel delivers signals as they come, in its order. That costs another attempt now and
//!   then, since the frame of a handler can hold a context inside the vDSO. The context leaves when
//!   the handler has returned, so the tool gives handlers time.
//! - **The tool lets a thread run for a moment and stops it again**, up to [`StepOutOptions::runs`]
//!   times. The functions of a vDSO take less than a microsecond, so a few attempts are almost
//!   always enough.
//! - **Only then it steps the thread**, instruction by instruction. The kernel does not take the
//!   trap flag from a thread whose tracer dies, so that the next instruction would end the process.
//!   So termination signals wait meanwhile, and only `SIGKILL` in this millisecond does harm. The
//!   tool never steps a thread that blocks or ignores `SIGTRAP`: the kernel would end both for
//!   ever.
//! - **The tool sends the stop signal while all threads have stopped**, and each of them takes it
//!   before it executes anything.

mod leave;
mod process;
mod why;

use std::collections::BTreeMap;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::{Avma, Svma};

use crate::Result;
use crate::maps::SpecialMemory;
use crate::targets::live::{Running, blocked_at};
use crate::targets::{self, Target};
use crate::tracing::{Seized, StandingMemory, TraceableProcess, Tracee, is_gone};
use leave::{Inside, Leaving, Left, Surroundings};
use relocator::threads::frames::{Earlier, Scope};
use relocator::threads::{Registers, frames};
pub use why::StuckReason;

/// How to treat a process.
#[derive(Debug, Clone, Copy)]
pub struct StepOutOptions {
    /// Whether it goes on afterwards. Otherwise it is stopped, as by `SIGSTOP`.
    pub resume: bool,
    /// How long to retry.
    pub deadline: Duration,
    /// How often to let a thread run before stepping it.
    pub runs: u32,
}

impl Default for StepOutOptions {
    fn default() -> Self {
        Self {
            resume: false,
            deadline: Duration::from_secs(5),
            runs: 100,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutOutcome {
    /// The process.
    pub pid: i32,
    /// Its vDSOs.
    pub vdsos: Vec<Range<Avma>>,
    /// Number of its threads.
    pub threads: usize,
    /// How often all threads were stopped.
    pub attempts: u32,
    /// Threads that were inside and have left.
    pub moved: Vec<Moved>,
    /// Contexts that are still inside.
    pub stuck: Vec<Stuck>,
    /// Where contexts may be that the tool has not looked for, because stacks are too large.
    pub left_out: Vec<Range<Avma>>,
    /// Whether the process is stopped now.
    pub stopped: bool,
}

/// A thread that has left a vDSO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Its number.
    pub thread: i32,
    /// Where it was last seen inside.
    pub from: VdsoPlace,
    /// How often the tool let it run for that.
    pub runs: u32,
    /// How many instructions the tool stepped it.
    pub steps: u32,
}

/// A context that is still inside a vDSO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The thread it belongs to.
    pub thread: i32,
    /// Where it goes on.
    pub place: VdsoPlace,
    /// The `ucontext` that holds it, if it was interrupted by a signal.
    pub frame: Option<Avma>,
    /// Why it cannot leave.
    pub reason: StuckReason,
}

/// A place in a vDSO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VdsoPlace {
    /// In the process.
    pub address: Avma,
    /// In the image.
    pub image: Svma,
}

impl VdsoPlace {
    /// An address, if it is in one of the vDSOs.
    fn inside(vdsos: &[Range<Avma>], address: Avma) -> Option<Self> {
        let vdso = vdsos.iter().find(|vdso| vdso.contains(&address))?;
        let image = Svma(address.0 - vdso.start.0);
        Some(Self { address, image })
    }
}

/// How long a thread may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shortest and the longest pause between two attempts, in which handlers can return.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Makes all threads of a process leave its vDSOs, and leaves the process stopped or lets it go on.
///
/// Contexts that could not leave within the deadline are in the outcome. Errors:
/// [`crate::Error::Refused`] if the process cannot be worked on, or ends; `Error::Io` where the
/// system refuses. The process is untouched then.
///
/// A thread in an uninterruptible system call is traced until the calling thread ends.
pub fn step_out(pid: i32, options: &StepOutOptions) -> Result<StepOutOutcome> {
    let deadline = Instant::now() + options.deadline;
    let subject = TraceableProcess::open_until(pid, deadline)?;
    let done = attempts(&subject, options, deadline);
    done.map_err(|error| subject.explain(error))
}

/// Tries it until no thread is inside, or until the deadline.
fn attempts(
    subject: &TraceableProcess,
    options: &StepOutOptions,
    deadline: Instant,
) -> Result<StepOutOutcome> {
    let was_stopped = subject.is_stopped()?;
    let mut attempt = Attempt::new(subject, options, deadline)?;
    let mut pause = PAUSE.0;
    loop {
        let seized = attempt.run()?;
        // Handlers of a process that is stopped do not return.
        let is_out = attempt.stuck.is_empty() || was_stopped;
        let is_seen = attempt.absent.is_empty() && !attempt.is_unsearched();
        let is_over = is_out && is_seen || Instant::now() >= deadline;
        if is_over {
            let stopped = subject.part(seized, was_stopped, options.resume)?;
            return Ok(attempt.outcome(stopped));
        }
        drop(seized);
        // It comes while the process goes on, if it comes.
        attempt.running.bring(&attempt.absent);
        // What is found in stacks is only good for the next attempt.
        attempt.earlier = match attempt.is_unsearched() {
            true => {
                let (ranges, texts) = (&attempt.left_out, &attempt.vdsos);
                Some(attempt.running.search(ranges, texts)?)
            }
            false => None,
        };
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The registers of all threads that stand still, without those that have ended.
fn standing(seized: &mut Seized) -> Result<Vec<Registers>> {
    let mut registers = Vec::new();
    let mut failed = None;
    seized.threads().retain(|tracee| match tracee.registers() {
        Ok(read) => {
            registers.push(read.registers());
            true
        }
        Err(error) if is_gone(&error) => false,
        Err(error) => {
            failed.get_or_insert(error);
            true
        }
    });
    failed.map_or(Ok(registers), Err)
}

/// Attempts to have all threads outside.
struct Attempt<'a> {
    subject: &'a TraceableProcess,
    options: &'a StepOutOptions,
    deadline: Instant,
    attempts: u32,
    threads: usize,
    vdsos: Vec<Range<Avma>>,
    moved: BTreeMap<i32, Moved>,
    stuck: Vec<Stuck>,
    left_out: Vec<Range<Avma>>,
    /// Where contexts may be that cannot be read before somebody brings the memory.
    absent: Vec<Range<Avma>>,
    /// What was found in stacks while it went on, once that was sought.
    earlier: Option<Earlier>,
    running: Running,
    /// Memory that is not as most is.
    special: SpecialMemory,
}

impl<'a> Attempt<'a> {
    fn new(
        subject: &'a TraceableProcess,
        options: &'a StepOutOptions,
        deadline: Instant,
    ) -> Result<Self> {
        let running = Running::until(subject.pid().as_raw(), deadline);
        Ok(Self {
            special: running.special()?,
            running,
            absent: Vec::new(),
            earlier: None,
            subject,
            options,
            deadline,
            attempts: 0,
            threads: 0,
            vdsos: Vec::new(),
            moved: BTreeMap::new(),
            stuck: Vec::new(),
            left_out: Vec::new(),
        })
    }

    /// Whether there is more in stacks than is searched while the process stands still, and it can
    /// be searched while that goes on.
    fn is_unsearched(&self) -> bool {
        self.earlier.is_none() && !self.left_out.is_empty()
    }

    /// Makes one: all threads have stopped afterwards, and contexts inside are in `stuck`.
    fn run(&mut self) -> Result<Seized> {
        let mut seized = Seized::stop(self.subject.pid(), PATIENCE)?;
        self.attempts += 1;
        self.moved.clear();
        loop {
            self.stuck.clear();
            self.vdsos = self.subject.vdsos()?;
            self.subject.check_width(&self.vdsos)?;
            self.threads_leave(&mut seized)?;
            // A thread that was let run may have begun others, or another program.
            if !seized.catch_up()? && self.subject.vdsos()? == self.vdsos {
                break;
            }
        }
        self.threads = seized.threads().len() + seized.in_kernel().len();
        if self.threads == 0 {
            return Err(self.subject.ended());
        }
        Ok(seized)
    }

    fn threads_leave(&mut self, seized: &mut Seized) -> Result<()> {
        let vdsos = self.vdsos.clone();
        let mappings = self.subject.maps()?;
        let writable = targets::writable(&mappings);
        let memory = StandingMemory::new(self.subject.pid(), &mappings, &self.special);
        let registers = standing(seized)?;
        let earlier = self.earlier.clone().unwrap_or_default();
        let scope = Scope::brief(registers.len(), earlier);
        let found = frames::of_threads(&registers, &writable, &vdsos, &memory, &scope);
        self.left_out.clone_from(&found.left_out);
        self.absent.clone_from(&found.absent);
        let pointers: Vec<Avma> = registers.iter().map(Registers::stack_pointer).collect();
        let mut gone = Vec::new();
        for (index, tracee) in seized.threads().iter_mut().enumerate() {
            let inside = leave::inside(&vdsos, &registers[index], &found.contexts[index]);
            let Some(first) = inside.first() else {
                continue;
            };
            let mut neighbours = pointers.clone();
            neighbours.remove(index);
            let surroundings = Surroundings {
                vdsos: &vdsos,
                writable: &writable,
                memory: &memory,
                neighbours: &neighbours,
                scope: &scope,
                deadline: self.deadline,
            };
            match self.thread_leaves(tracee, first, surroundings) {
                Err(error) if is_gone(&error) => gone.push(tracee.pid()),
                other => other?,
            }
        }
        let threads = seized.threads();
        threads.retain(|tracee| !gone.contains(&tracee.pid()));
        self.stuck.extend(self.stuck_in_kernel(seized));
        Ok(())
    }

    fn thread_leaves(
        &mut self,
        tracee: &mut Tracee,
        first: &Inside,
        surroundings: Surroundings<'_>,
    ) -> Result<()> {
        let thread = tracee.pid().as_raw();
        let leaving = Leaving::new(tracee, surroundings);
        match leaving.leave(self.options.runs)? {
            Left::Outside { runs, steps } => {
                let moved = Moved {
                    thread,
                    from: first.place,
                    runs,
                    steps,
                };
                self.moved.insert(thread, moved);
            }
            Left::Inside { contexts, reason } => {
                for context in contexts {
                    self.is_stuck(thread, context, reason);
                }
            }
            // It is found to be gone when it is looked at again.
            Left::Gone => {}
        }
        Ok(())
    }

    /// Stacks of several threads may be one mapping, so that a frame is found twice.
    fn is_stuck(&mut self, thread: i32, context: Inside, reason: StuckReason) {
        let Inside { place, frame } = context;
        let mut known = self.stuck.iter().filter_map(|stuck| stuck.frame);
        if frame.is_some_and(|frame| known.any(|known| known == frame)) {
            return;
        }
        let reason = match frame {
            Some(_) => StuckReason::InHandler,
            None => reason,
        };
        self.stuck.push(Stuck {
            thread,
            place,
            frame,
            reason,
        });
    }

    fn stuck_in_kernel(&self, seized: &Seized) -> Vec<Stuck> {
        let stuck = |tracee: &Tracee| {
            let thread = tracee.pid().as_raw();
            let place = VdsoPlace::inside(&self.vdsos, blocked_at(tracee.pid())?)?;
            Some(Stuck {
                thread,
                place,
                frame: None,
                reason: StuckReason::Uninterruptible,
            })
        };
        seized.in_kernel().iter().filter_map(stuck).collect()
    }

    fn outcome(self, stopped: bool) -> StepOutOutcome {
        let left_out = [self.left_out, self.absent].concat();
        StepOutOutcome {
            pid: self.subject.pid().as_raw(),
            vdsos: self.vdsos,
            threads: self.threads,
            attempts: self.attempts,
            moved: self.moved.into_values().collect(),
            stuck: self.stuck,
            left_out: frames::merge(&left_out),
            stopped,
        }
    }
}
