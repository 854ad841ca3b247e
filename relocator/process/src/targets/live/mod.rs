//! A live process whose threads have stopped.
//!
//! | module | does |
//! |---|---|
//! | `running` | a process that runs while the tool looks at it |
//! | `space` | the mappings as they become while steps are carried out |
//! | `injected_call` | code in the process that makes system calls, and leads a thread back if the tool dies |
//! | `site` | where that code goes |
//! | `worker` | the thread that executes it |
//! | `steps` | carries out [`Step`]s; those that need no system call by itself |
//! | `execution` | carries out those that need system calls, and undoes them |
//!
//! `SIGKILL` can end this tool at any moment, so the process must be able to go on without it at
//! any moment. The planner ensures that between steps; `steps` and `worker` ensure it within them.

mod execution;
pub(crate) mod injected_call;
mod running;
mod site;
mod space;
mod steps;
mod worker;

#[cfg(test)]
mod tests;

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use nix::libc;
use nix::unistd::Pid;
use procfs::process::Process;

pub use running::Running;
pub(crate) use running::blocked_at;

use super::{Growth, Mapping, Step, StoppedTarget, Target, Thread, Whereabouts};
use crate::maps::{SpecialMemory, Watch};
use crate::tracing::{
    self, MappingQuery, Seized, Standing, StandingMemory, Stop, Tracee, UserRegisters, is_gone,
};
use crate::{Error, Refusal, Result};
use relocator::threads::frames::{Earlier, Scope};
use relocator::threads::{Memory, Populated};

/// How long a thread that was stepped may take to stop again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process whose threads have stopped. Dropping this lets them go on.
#[derive(Debug)]
pub struct Live {
    pid: Pid,
    seized: Seized,
    since: Instant,
    /// Its mappings, once they were read. Only this tool can change them while it has stopped.
    mappings: OnceCell<Rc<Vec<Mapping>>>,
    /// Its special memory, if that is known.
    special: OnceCell<SpecialMemory>,
    /// Its memory, once it was asked for.
    memory: OnceCell<StandingMemory>,
    /// The same, if its mappings are what they were while it ran.
    prepared: RefCell<Option<StandingMemory>>,
    /// How much of its stacks is searched.
    scope: Scope,
    /// Whether somebody else had stopped it, and lets it go.
    is_adopted: bool,
    /// By what is told whether droppable memory is still that.
    watch: Option<Watch>,
}

impl Live {
    /// Stops all threads of a process, each within `patience`.
    ///
    /// Errors: [`Error::Refused`] if a thread does not stop, or is in a system call that cannot be
    /// interrupted; all threads go on then.
    pub fn stop(pid: i32, patience: Duration) -> Result<Self> {
        let since = Instant::now();
        let pid = Pid::from_raw(pid);
        let mut seized = Seized::stop(pid, patience)?;
        if let Some(thread) = seized.in_kernel().first() {
            let thread = thread.pid().as_raw();
            return Err(Error::refused(pid, Refusal::Uninterruptible { thread }));
        }
        let scope = Scope::brief(seized.threads().len(), Earlier::default());
        Self::of(pid, seized, since, scope)
    }

    /// A process that this thread traces already, and whose threads have all stopped: as CRIU leaves
    /// it for its plugins. Its threads stay as they are when this is dropped. Errors:
    /// [`Error::Refused`] if it has ended.
    pub(crate) fn adopt(pid: Pid) -> Result<Self> {
        let seized = Seized::adopt(pid)?;
        let adopted = Self::of(pid, seized, Instant::now(), Scope::whole())?;
        Ok(Self {
            is_adopted: true,
            ..adopted
        })
    }

    fn of(pid: Pid, mut seized: Seized, since: Instant, scope: Scope) -> Result<Self> {
        if seized.threads().is_empty() {
            return Err(Error::refused(pid, Refusal::Ended));
        }
        Ok(Self {
            scope,
            watch: None,
            is_adopted: false,
            pid,
            seized,
            since,
            mappings: OnceCell::new(),
            special: OnceCell::new(),
            memory: OnceCell::new(),
            prepared: RefCell::default(),
        })
    }

    /// Steps a thread for one instruction, and leaves it stopped; whether it was executed. If a signal
    /// has stopped the process, the kernel stops the thread again when this tool lets it go. A signal that comes meanwhile is delivered then.
    pub(crate) fn step(&mut self, thread: i32) -> Result<bool> {
        /// How long one instruction may take, and how often the thread may stop before it.
        const INSTRUCTION: (Duration, u32) = (Duration::from_millis(50), 10);
        let mut threads = self.seized.threads().iter_mut();
        let Some(tracee) = threads.find(|tracee| tracee.pid().as_raw() == thread) else {
            return Ok(false);
        };
        // The kernel would unblock the signal of a trap, or no longer ignore it.
        if tracee.blocks(libc::SIGTRAP)? || tracee.ignores(libc::SIGTRAP)? {
            return Ok(false);
        }
        let mut signal = 0;
        let mut executed = false;
        for _ in 0..INSTRUCTION.1 {
            tracee.step(signal)?;
            signal = match tracee.wait(INSTRUCTION.0)? {
                Some(Stop::TRAP) => {
                    executed = true;
                    break;
                }
                // The process is being stopped.
                Some(Stop::Signal(libc::SIGSTOP)) => libc::SIGSTOP,
                Some(Stop::Group) => 0,
                // Another signal, which waits until the thread is let go; or the thread is gone.
                Some(_) => return Ok(false),
                None => break,
            };
        }
        // The trap flag goes when it is resumed, and it stops again before it executes anything.
        tracee.interrupt()?;
        if executed {
            tracee.resume(0)?;
        }
        Ok(tracee.wait_still(PATIENCE)? == Standing::Still && executed)
    }

    /// Takes over what [`Target::special`] has said while the process ran, since finding out takes
    /// long.
    pub fn set_special(&mut self, known: SpecialMemory) {
        self.special = OnceCell::from(known);
        self.memory.take();
    }

    /// Takes over what was found in its stacks, and in its list of mappings, while it ran.
    pub(crate) fn set_known(&mut self, earlier: Earlier, watch: Option<Watch>) {
        self.scope = Scope::brief(self.seized.standing().len(), earlier);
        self.watch = watch;
    }

    /// Takes over what there is to be known of its memory if mappings are those that were known
    /// while it ran.
    pub(crate) fn set_memory(&mut self, memory: StandingMemory) {
        self.prepared = RefCell::new(Some(memory));
    }

    fn all_mappings(&self) -> Result<Rc<Vec<Mapping>>> {
        if let Some(known) = self.mappings.get() {
            return Ok(known.clone());
        }
        let read = Rc::new(running::mappings(self.pid)?);
        Ok(self.mappings.get_or_init(|| read).clone())
    }

    /// Its memory; `None` if its mappings cannot be read.
    fn memory(&self) -> Option<&StandingMemory> {
        if self.memory.get().is_none() {
            let mappings = self.all_mappings().ok()?;
            let memory = StandingMemory::new(self.pid, &mappings, &self.special().ok()?);
            return Some(self.memory.get_or_init(|| memory));
        }
        self.memory.get()
    }

    /// What could not be read, since this was last asked, because somebody has to bring it first.
    pub(crate) fn take_absent(&self) -> Vec<Range<Avma>> {
        let known = self.memory.get();
        known.map(StandingMemory::take_absent).unwrap_or_default()
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// For how long it has been stopped, at least partly.
    pub fn stopped_for(&self) -> Duration {
        self.since.elapsed()
    }

    /// Lets all threads go on; for how long the process was stopped, at least partly.
    pub fn release(self) -> Duration {
        let since = self.since;
        drop(self);
        since.elapsed()
    }

    /// The threads that have stopped.
    pub fn tracees(&mut self) -> &mut Vec<Tracee> {
        self.seized.threads()
    }
}

/// Where the auxiliary vector of a process says that its vDSO is.
pub(crate) fn auxv_vdso(pid: Pid) -> Option<Avma> {
    tracing::auxv_vdso(&Process::new(pid.as_raw()).ok()?)
}

/// Moves a stopped thread to where it would go by itself, if a killed tool has left it in an
/// injected call. Its process may be stopped by a signal, so that it would not get there.
pub(crate) fn lead_back(tracee: &Tracee, registers: &UserRegisters) -> Result<()> {
    match injected_call::led_back(&registers.registers(), &Now(tracee)) {
        // If this tool is killed in between as well, the thread is still on its way.
        Some(thread) => tracee
            .set_signal_mask(thread.mask)
            .and_then(|()| tracee.set_registers(&registers.with(&thread.registers))),
        None => Ok(()),
    }
}

/// The memory of a stopped thread's process.
struct Now<'a>(&'a Tracee);

impl Memory for Now<'_> {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        self.0.read_now(at, bytes)
    }
}

impl Memory for Live {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        self.memory().is_some_and(|memory| memory.read(at, bytes))
    }

    fn read_ranges(&self, ranges: &[Range<Avma>], bytes: &mut [u8]) -> usize {
        let memory = self.memory();
        memory.map_or(0, |memory| memory.read_ranges(ranges, bytes))
    }

    fn populated(&self, range: Range<Avma>, enough: u64) -> Populated {
        match self.memory() {
            Some(memory) => memory.populated(range, enough),
            None => Populated {
                parts: Vec::new(),
                end: range.end,
                at_guard: false,
                absent: vec![range],
            },
        }
    }
}

impl Target for Live {
    fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    fn mappings(&self) -> Result<Vec<Mapping>> {
        Ok(self.all_mappings()?.to_vec())
    }

    fn auxv_vdso(&self) -> Option<Avma> {
        auxv_vdso(self.pid)
    }

    fn special(&self) -> Result<SpecialMemory> {
        if let Some(known) = self.special.get() {
            return Ok(known.clone());
        }
        let read = running::special(self.pid)?;
        Ok(self.special.get_or_init(|| read).clone())
    }

    fn growth(&self) -> Growth {
        running::growth(self.pid)
    }

    fn whereabouts(&self) -> Result<Vec<Whereabouts>> {
        let threads = self.threads()?.into_iter();
        let place = |thread: Thread| Whereabouts {
            thread: thread.id,
            pc: Some(thread.registers.pc),
        };
        Ok(threads.map(place).collect())
    }
}

impl StoppedTarget for Live {
    fn threads(&self) -> Result<Vec<Thread>> {
        let mut threads = Vec::new();
        for tracee in self.seized.standing() {
            match tracee.registers() {
                Ok(registers) => threads.push(Thread {
                    id: tracee.pid().as_raw(),
                    registers: registers.registers(),
                }),
                // It was killed.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match threads.is_empty() {
            true => Err(Error::refused(self.pid, Refusal::Ended)),
            false => Ok(threads),
        }
    }

    /// Reading the list takes 1 to 2 microseconds for each mapping, and asking for one as long.
    fn confirms(&self, known: &Rc<Vec<Mapping>>, ranges: &[Range<Avma>]) -> Result<bool> {
        /// Fewer are read.
        const MANY: usize = 256;
        if known.len() < MANY + 2 * self.seized.standing().len() {
            return Ok(false);
        }
        let Some(query) = MappingQuery::open(self.pid) else {
            return Ok(false);
        };
        let pointers = self.threads()?;
        let pointers = pointers
            .iter()
            .map(|thread| thread.registers.stack_pointer());
        let pointers = pointers.map(|pointer| pointer..pointer.offset(1));
        let mut all = ranges.iter().cloned().chain(pointers);
        let holds = all.all(|range| query.is_as_known(&range, known));
        if holds {
            let _ = self.mappings.set(known.clone());
            if let Some(memory) = self.prepared.take() {
                let _ = self.memory.set(memory);
            }
        }
        Ok(holds)
    }

    fn scope(&self) -> Scope {
        self.scope.clone()
    }

    fn holds_droppable(&self, ranges: &[Range<Avma>]) -> Result<bool> {
        match &self.watch {
            Some(watch) => Ok(watch.holds(ranges)),
            None => Ok(running::special(self.pid)?.droppable == ranges),
        }
    }

    fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
        let mappings = self.all_mappings()?;
        let result = steps::carry_out(self, steps, &mappings);
        self.mappings.take();
        self.memory.take();
        result
    }
}
