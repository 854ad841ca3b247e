//! The page by which a tester and the `hammer` talk.
//!
//! It is shared memory: the tester says which functions have to be right, and reads how it goes
//! while the hammer runs.

#![allow(unsafe_code, reason = "memory that is shared with another process")]

use std::fmt::{self, Write};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

/// Bytes that it takes.
pub const SIZE: usize = 8192;

/// Room for the words about the first failure.
const ROOM: usize = 4096;

/// A function of the vDSO, whoever calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `clock_gettime`
    ClockGettime,
    /// `gettimeofday`
    Gettimeofday,
    /// `time`
    Time,
    /// `clock_getres`
    ClockGetres,
    /// `getcpu`
    Getcpu,
    /// `getrandom`
    Getrandom,
}

impl Function {
    /// All of them, in the order of their bits and counters.
    pub const ALL: [Self; 6] = [
        Self::ClockGettime,
        Self::Gettimeofday,
        Self::Time,
        Self::ClockGetres,
        Self::Getcpu,
        Self::Getrandom,
    ];

    /// Its bit in a mask.
    pub fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The name that vDSOs export it under.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::ClockGettime => "__vdso_clock_gettime",
            Self::Gettimeofday => "__vdso_gettimeofday",
            Self::Time => "__vdso_time",
            Self::ClockGetres => "__vdso_clock_getres",
            Self::Getcpu => "__vdso_getcpu",
            Self::Getrandom => "__vdso_getrandom",
        }
    }
}

/// Functions that CRIU's jumps send to the new vDSO: they are right before anything is linked.
pub const COVERED: u32 = 0b1_0111;

/// All functions.
pub const EVERYTHING: u32 = 0b11_1111;

/// The page itself. Both sides only use atomic operations on it.
#[repr(C)]
struct Page {
    /// Functions that have to be right in the lower half, and how often that was changed in the
    /// upper one.
    right: AtomicU64,
    stop: AtomicU64,
    ready: AtomicU64,
    signals: AtomicU64,
    failures: AtomicU64,
    idle: AtomicU64,
    interrupted: AtomicU64,
    /// 0: nothing; 1: being written; 2: written.
    described: AtomicU64,
    called: [AtomicU64; Function::ALL.len()],
    judged: [AtomicU64; Function::ALL.len()],
    description: [AtomicU8; ROOM],
}

const _: () = assert!(size_of::<Page>() <= SIZE);

/// One side's view of the page. It stays mapped until the process ends.
#[derive(Clone, Copy)]
pub struct Control {
    page: &'static Page,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Control").field(&self.counts()).finish()
    }
}

/// What the hammer has counted so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Threads that have begun.
    pub ready: u64,
    /// Calls, by function.
    pub called: [u64; Function::ALL.len()],
    /// Calls whose answers had to be right, by function.
    pub judged: [u64; Function::ALL.len()],
    /// Signals that handlers have seen.
    pub signals: u64,
    /// System calls of threads that sleep that came to their end.
    pub idle: u64,
    /// System calls that ended with `EINTR` without a handler, of those that the kernel ends so for
    /// every tracer: `epoll_wait` and `rt_sigtimedwait`, see signal(7).
    pub interrupted: u64,
    /// Wrong answers, signals that were lost, and system calls that were cut short.
    pub failures: u64,
    /// The first failure in words.
    pub first: Option<String>,
}

/// The functions that have to be right at a moment. Only equal to what is read later if nothing was
/// changed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right(u64);

impl Right {
    fn has(self, function: Function) -> bool {
        self.0 & u64::from(function.bit()) != 0
    }
}

impl Control {
    /// Maps a file that has [`SIZE`] bytes, all 0 at first.
    pub fn map(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() < SIZE as u64 {
            return Err(io::Error::other("it is too short for a control page"));
        }
        let size = NonZeroUsize::MIN.saturating_add(SIZE - 1);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so no other memory is affected.
        let start = unsafe {
            mmap(
                None,
                size,
                protection,
                MapFlags::MAP_SHARED,
                file.as_fd(),
                0,
            )
        };
        let start: NonNull<Page> = start?.cast();
        // SAFETY: it has the size and more than the alignment of a page of atomic numbers, for
        // which any bytes are valid; it is never unmapped.
        let page = unsafe { start.as_ref() };
        Ok(Self { page })
    }

    /// From now on these have to be right: bits of [`Function::bit`].
    ///
    /// Before something is done that makes functions wrong, their bits are cleared: answers of
    /// calls that have begun before, or that span a change, are not judged.
    pub fn set_right(&self, mask: u32) {
        let next = |word: u64| Some(((word >> 32) + 1) << 32 | u64::from(mask));
        let _ = self.page.right.fetch_update(SeqCst, SeqCst, next);
    }

    /// What has to be right.
    pub fn right(&self) -> Right {
        Right(self.page.right.load(SeqCst))
    }

    /// Tells the hammer to end.
    pub fn stop(&self) {
        self.page.stop.store(1, SeqCst);
    }

    /// Whether it is to end.
    pub fn is_stopped(&self) -> bool {
        self.page.stop.load(SeqCst) != 0
    }

    /// A thread has begun.
    pub fn begin(&self) {
        self.page.ready.fetch_add(1, SeqCst);
    }

    /// A handler has seen a signal.
    pub fn signal(&self) {
        self.page.signals.fetch_add(1, SeqCst);
    }

    /// A system call that sleeps came to its end.
    pub fn slept(&self) {
        self.page.idle.fetch_add(1, SeqCst);
    }

    /// A system call was interrupted as the kernel does it for every tracer.
    pub fn interrupted(&self) {
        self.page.interrupted.fetch_add(1, SeqCst);
    }

    /// Functions were called since `began`. Whether they all had to be right.
    pub fn judge(&self, function: Function, began: Right, calls: u64) -> bool {
        let judged = began.has(function) && self.right() == began;
        self.page.called[function as usize].fetch_add(calls, SeqCst);
        if judged {
            self.page.judged[function as usize].fetch_add(calls, SeqCst);
        }
        judged
    }

    /// Something is wrong. Only the first failure is described. Nothing is allocated, so handlers
    /// may say so as well.
    pub fn fail(&self, what: fmt::Arguments<'_>) {
        self.page.failures.fetch_add(1, SeqCst);
        let first = self.page.described.compare_exchange(0, 1, SeqCst, SeqCst);
        if first.is_ok() {
            let _ = Describe {
                page: self.page,
                at: 0,
            }
            .write_fmt(what);
            self.page.described.store(2, SeqCst);
        }
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        let page = self.page;
        let read = |counters: &[AtomicU64; Function::ALL.len()]| {
            std::array::from_fn(|index| counters[index].load(SeqCst))
        };
        Counts {
            ready: page.ready.load(SeqCst),
            called: read(&page.called),
            judged: read(&page.judged),
            signals: page.signals.load(SeqCst),
            idle: page.idle.load(SeqCst),
            interrupted: page.interrupted.load(SeqCst),
            failures: page.failures.load(SeqCst),
            first: (page.described.load(SeqCst) == 2).then(|| self.description()),
        }
    }

    fn description(&self) -> String {
        let bytes = self.page.description.iter().map(|byte| byte.load(SeqCst));
        let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Writes words to the page, as many as there is room for.
struct Describe {
    page: &'static Page,
    at: usize,
}

impl Write for Describe {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // The last byte remains 0.
            let Some(place) = self.page.description[..ROOM - 1].get(self.at) else {
                break;
            };
            place.store(byte, SeqCst);
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Control {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE as u64).unwrap();
        Control::map(&file).unwrap()
    }

    #[test]
    fn only_answers_that_had_to_be_right_all_the_time_are_judged() {
        let control = control();
        let time = Function::Time;
        assert!(!control.judge(time, control.right(), 1));
        control.set_right(time.bit());
        let began = control.right();
        assert!(control.judge(time, began, 2));
        assert!(!control.judge(Function::Getcpu, began, 1));
        // What spans a time in which it was not right is not judged, although it is again.
        control.set_right(0);
        control.set_right(time.bit());
        assert!(!control.judge(time, began, 4));
        assert!(control.judge(time, control.right(), 8));
        let counts = control.counts();
        assert_eq!(counts.called[time as usize], 15);
        assert_eq!(counts.judged[time as usize], 10);
        assert_eq!(counts.judged[Function::Getcpu as usize], 0);
    }

    #[test]
    fn the_first_failure_is_described() {
        let control = control();
        control.fail(format_args!("clock {}", 7));
        control.fail(format_args!("clock {}", 8));
        let counts = control.counts();
        assert_eq!(
            (counts.failures, counts.first.as_deref()),
            (2, Some("clock 7"))
        );
    }

    #[test]
    fn long_words_are_cut() {
        let control = control();
        control.fail(format_args!("{}{}", "x".repeat(ROOM - 1), "y"));
        assert_eq!(control.counts().first, Some("x".repeat(ROOM - 1)));
    }

    #[test]
    fn covered_functions_are_those_that_criu_knows() {
        let covered = Function::ALL
            .iter()
            .filter(|function| function.bit() & COVERED != 0);
        let mut names: Vec<_> = covered.map(|function| function.symbol()).collect();
        names.sort_unstable();
        assert_eq!(names, relocator::criu::SYMBOLS);
    }
}
