//! One thread that is traced.

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;

use super::standing::read_now;
use super::{ProcessMemory, Stop, UserRegisters};
use super::{proc_error, request};
use crate::arch::LARGEST_STATE;
use crate::{Error, Result};

/// Bytes that are written at once.
const WORD: usize = 8;

/// How often to look, with a mere yield in between, before sleeping. A thread that was resumed for
/// one instruction is back within microseconds.
const GLANCES: u32 = 200;

/// The shortest and the longest sleep while waiting.
const NAP: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(2));

/// How long a thread may take to stop before the tool lets it go.
const FAREWELL: Duration = Duration::from_secs(1);

/// What happens to a tracee when it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// Its process ends.
    Kill,
    /// It goes on without a tracer.
    Detach,
    /// It is gone already.
    None,
}

/// The bit of a signal in a mask.
const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// A thread that is traced by this thread.
#[derive(Debug)]
pub struct Tracee {
    pid: Pid,
    farewell: Farewell,
    stopped: bool,
    /// The signal that stopped it and that the tool still has to deliver.
    due: c_int,
}

impl Tracee {
    /// A child that has asked to be traced (`PTRACE_TRACEME`). Dropping this kills it.
    pub fn of_child(pid: Pid) -> Self {
        Self {
            pid,
            farewell: Farewell::Kill,
            stopped: false,
            due: 0,
        }
    }

    /// Begins to trace a thread, which runs on until it is [interrupted](Self::interrupt). Dropping
    /// this lets it go on untraced.
    pub fn seize(thread: Pid) -> Result<Self> {
        request::plain(libc::PTRACE_SEIZE, thread, 0)
            .map_err(Error::io(format!("tracing thread {thread}")))?;
        Ok(Self {
            pid: thread,
            farewell: Farewell::Detach,
            stopped: false,
            due: 0,
        })
    }

    /// A thread that this thread traces already and that has stopped, which somebody has waited for.
    /// Dropping this leaves it so.
    pub(crate) fn adopt(thread: Pid) -> Self {
        Self {
            pid: thread,
            farewell: Farewell::None,
            stopped: true,
            due: 0,
        }
    }

    /// Lets it go on untraced and alive, whatever dropping it would have done. It must be stopped.
    pub fn release(mut self) -> Result<()> {
        request::plain(libc::PTRACE_DETACH, self.pid, 0).map_err(self.failed("letting go of"))?;
        self.farewell = Farewell::None;
        Ok(())
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its memory.
    pub fn memory(&self) -> ProcessMemory {
        ProcessMemory::of(self.pid)
    }

    /// Reads its memory, without waiting for a page that a `userfaultfd` fills. It must be stopped.
    pub(crate) fn read_now(&self, at: Avma, bytes: &mut [u8]) -> bool {
        read_now(self.pid, at, bytes)
    }

    /// Interrupts a seized thread. The caller then waits for it.
    pub fn interrupt(&self) -> Result<()> {
        request::plain(libc::PTRACE_INTERRUPT, self.pid, 0).map_err(self.failed("interrupting"))
    }

    /// Sets options, `PTRACE_O_*`.
    pub fn set_options(&self, options: c_int) -> Result<()> {
        let options = options.cast_unsigned() as usize;
        request::plain(libc::PTRACE_SETOPTIONS, self.pid, options)
            .map_err(self.failed("setting options of"))
    }

    /// Lets it run, with a signal or 0.
    pub fn resume(&mut self, signal: c_int) -> Result<()> {
        self.go(libc::PTRACE_CONT, signal, "resuming")
    }

    /// Lets it run for one instruction, or for the first one of the handler of a signal that is not
    /// 0.
    pub fn step(&mut self, signal: c_int) -> Result<()> {
        self.go(libc::PTRACE_SINGLESTEP, signal, "stepping")
    }

    /// Lets it run, with a signal or 0, until a system call begins or ends: a [`Stop::SystemCall`]
    /// if `PTRACE_O_TRACESYSGOOD` is set.
    pub fn run_to_system_call(&mut self, signal: c_int) -> Result<()> {
        self.go(libc::PTRACE_SYSCALL, signal, "resuming")
    }

    /// Leaves a process that a stop signal has stopped as it is, and waits for what comes next.
    pub fn listen(&mut self) -> Result<()> {
        self.go(libc::PTRACE_LISTEN, 0, "listening to")
    }

    fn go(&mut self, request: libc::c_uint, signal: c_int, what: &str) -> Result<()> {
        request::plain(request, self.pid, signal.cast_unsigned() as usize)
            .map_err(self.failed(what))?;
        self.stopped = false;
        self.due = 0;
        Ok(())
    }

    /// Waits until it stops or ends; `None` if it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<Stop>> {
        let mut started = None;
        let mut nap = NAP.0;
        for glance in 0u32.. {
            let status = request::changed(self.pid).map_err(self.failed("waiting for"))?;
            if let Some(stop) = status.and_then(Stop::from_status) {
                self.stopped = !stop.is_end();
                self.due = stop.due();
                if stop.is_end() {
                    self.farewell = Farewell::None;
                }
                return Ok(Some(stop));
            }
            let now = Instant::now();
            if now.duration_since(*started.get_or_insert(now)) >= patience {
                return Ok(None);
            }
            if glance < GLANCES {
                thread::yield_now();
            } else {
                thread::sleep(nap);
                nap = (nap * 2).min(NAP.1);
            }
        }
        Ok(None)
    }

    /// Its registers. It must be stopped.
    pub fn registers(&self) -> Result<UserRegisters> {
        let registers = request::registers(self.pid).map_err(self.failed("reading registers of"));
        registers.map(UserRegisters)
    }

    /// Puts its registers. It must be stopped.
    pub fn set_registers(&self, registers: &UserRegisters) -> Result<()> {
        request::set_registers(self.pid, &registers.0).map_err(self.failed("putting registers of"))
    }

    /// Its extended state: floating point and vector registers. It must be stopped.
    pub fn extended_state(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; LARGEST_STATE];
        let size = request::extended_state(self.pid, &mut bytes)
            .map_err(self.failed("reading the extended state of"))?;
        bytes.truncate(size);
        Ok(bytes)
    }

    /// Puts an extended state that was read before. It must be stopped.
    pub fn set_extended_state(&self, state: &[u8]) -> Result<()> {
        request::set_extended_state(self.pid, state)
            .map_err(self.failed("putting the extended state of"))
    }

    /// The signals that it has blocked, one bit each, bit 0 for signal 1. It must be stopped.
    pub fn signal_mask(&self) -> Result<u64> {
        request::signal_mask(self.pid).map_err(self.failed("reading the signal mask of"))
    }

    /// Whether it has blocked a signal. It must be stopped.
    pub fn blocks(&self, signal: c_int) -> Result<bool> {
        Ok(self.signal_mask()? & bit(signal) != 0)
    }

    /// Whether its process ignores a signal.
    pub fn ignores(&self, signal: c_int) -> Result<bool> {
        let status = Process::new(self.pid.as_raw()).and_then(|process| process.status());
        let status = status.map_err(|error| proc_error(self.pid, error))?;
        Ok(status.sigign & bit(signal) != 0)
    }

    /// Puts the signals that it has blocked. It must be stopped.
    pub fn set_signal_mask(&self, mask: u64) -> Result<()> {
        request::set_signal_mask(self.pid, mask).map_err(self.failed("putting the signal mask of"))
    }

    /// Writes memory of its process, whether that may be written or not. It must be stopped. Up to
    /// eight bytes at a multiple of eight change at once.
    pub fn poke(&self, at: Avma, bytes: &[u8]) -> Result<()> {
        let is_in_word = at.0 as usize % WORD + bytes.len() <= WORD;
        if !is_in_word && self.write(at, bytes).is_ok() {
            return Ok(());
        }
        let failed = || self.failed("writing to memory of");
        let mut place = at.0 & !(WORD as u64 - 1);
        while place < at.0.saturating_add(bytes.len() as u64) {
            let known = place.checked_sub(at.0).map(|start| start as usize);
            let whole = known.and_then(|start| bytes.get(start..start + WORD)?.try_into().ok());
            let word = match whole {
                Some(word) => word,
                None => self.mixed(place, at, bytes).map_err(failed())?,
            };
            request::poke(self.pid, place, u64::from_ne_bytes(word)).map_err(failed())?;
            place += WORD as u64;
        }
        Ok(())
    }

    /// The word at `place`, with what of it is among `bytes`, which belong at `at`.
    fn mixed(&self, place: u64, at: Avma, bytes: &[u8]) -> std::io::Result<[u8; WORD]> {
        let mut word = request::peek(self.pid, place)?.to_ne_bytes();
        for (byte, address) in word.iter_mut().zip(place..) {
            let index = address.checked_sub(at.0).map(|index| index as usize);
            if let Some(&new) = index.and_then(|index| bytes.get(index)) {
                *byte = new;
            }
        }
        Ok(word)
    }

    /// Writes memory by the file that stands for it, all at a time. Some kernels refuse that where
    /// memory may not be written.
    fn write(&self, at: Avma, bytes: &[u8]) -> std::io::Result<()> {
        let memory = OpenOptions::new()
            .write(true)
            .open(format!("/proc/{}/mem", self.pid))?;
        memory.write_all_at(bytes, at.0)
    }

    /// Whether it may be in a restartable sequence (`rseq`), in which its registers must not be
    /// changed. It must be stopped.
    pub fn is_in_sequence(&self) -> bool {
        /// Where `struct rseq` has the sequence that is executed.
        const SEQUENCE: u64 = 8;
        let Some(area) = request::rseq(self.pid) else {
            return false;
        };
        let mut sequence = [0; 8];
        let at = Avma(area.wrapping_add(SEQUENCE));
        area != 0 && self.read_now(at, &mut sequence) && sequence != [0; 8]
    }

    /// Whether a system call that it made at an address would go to its program instead of the
    /// kernel (`PR_SET_SYSCALL_USER_DISPATCH`). It must be stopped.
    pub(crate) fn is_dispatched(&self, at: Avma) -> bool {
        /// `SYSCALL_DISPATCH_FILTER_ALLOW`
        const ALLOW: u8 = 0;
        let dispatch = request::dispatch(self.pid).filter(|dispatch| dispatch.mode != 0);
        dispatch.is_some_and(|dispatch| {
            let is_exempt = at.0.wrapping_sub(dispatch.start) < dispatch.size;
            // Without a selector all others are dispatched.
            let mut selector = [!ALLOW];
            let at = Avma(dispatch.selector);
            let is_allowed = self.read_now(at, &mut selector) && selector[0] == ALLOW;
            !(is_exempt || is_allowed)
        })
    }

    /// `si_code` of the signal that it was stopped by.
    pub fn signal_code(&self) -> Result<c_int> {
        request::signal_code(self.pid).map_err(self.failed("reading the signal of"))
    }

    /// Sends it a stop signal, which stops a child that was resumed. It is then to be waited for.
    pub fn halt(&self) -> Result<()> {
        kill(self.pid, Signal::SIGSTOP).map_err(|errno| self.failed("stopping")(errno.into()))
    }

    fn failed(&self, what: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::io(format!("{what} thread {}", self.pid))
    }

    fn detach(&mut self) {
        if !self.stopped {
            let interrupted = self.interrupt();
            if interrupted.is_err() || !matches!(self.wait(FAREWELL), Ok(Some(_))) {
                return;
            }
        }
        let signal = self.due.cast_unsigned() as usize;
        if request::plain(libc::PTRACE_DETACH, self.pid, signal).is_err() {
            self.take_notice();
        }
    }

    /// A thread that has ended remains until its tracer takes notice, and its process as long. The
    /// status of our own children stays for the code that waits for them.
    fn take_notice(&mut self) {
        let is_child = children().contains(&self.pid);
        while !is_child && self.farewell != Farewell::None {
            if !matches!(self.wait(FAREWELL), Ok(Some(_))) {
                break;
            }
        }
    }

    fn kill(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        while !matches!(self.wait(FAREWELL), Ok(None) | Err(_)) {
            if self.farewell == Farewell::None {
                break;
            }
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        match self.farewell {
            Farewell::Kill => self.kill(),
            Farewell::Detach => self.detach(),
            Farewell::None => {}
        }
    }
}

/// Children of the threads of this process that no thread has waited for.
fn children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let files = tasks.filter_map(|task| Some(task.ok()?.path().join("children")));
    let lists = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let numbers = lists.flat_map(|list| {
        let numbers = list.split_whitespace().map(str::parse);
        numbers
            .filter_map(std::result::Result::ok)
            .collect::<Vec<_>>()
    });
    numbers.map(Pid::from_raw).collect()
}
