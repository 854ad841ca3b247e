//! Threads that sleep in system calls, which must not be cut short.

#![allow(unsafe_code, reason = "system calls with all their corners")]

use std::fs::File;
use std::io::{PipeWriter, Write, pipe};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_long, timespec};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use relocator_tests::bed::control::Control;

use crate::{signals, system};

/// The byte that a reader waits for.
const BYTE: u8 = 0xb7;

/// A thread that sleeps, as the thread that wakes sees it.
pub(crate) enum Alarm {
    /// By itself.
    Own,
    /// Something has to be written.
    Pipe(PipeWriter),
    /// A signal has to be sent to that thread, once it has a number.
    Signal(Arc<AtomicU32>),
}

impl Alarm {
    pub(crate) fn ring(&mut self) {
        match self {
            Self::Own => {}
            // A reader that has ended does not need it.
            Self::Pipe(writer) => drop(writer.write_all(&[BYTE])),
            Self::Signal(thread) => match thread.load(SeqCst) {
                0 => {}
                thread => signals::wake(thread),
            },
        }
    }
}

/// What a thread sleeps in.
pub(crate) enum Bed {
    Nanosleep,
    Futex,
    Read(File),
    Epoll(Epoll),
    Sigtimedwait,
    Sigsuspend(Arc<AtomicU32>),
}

/// Kinds by number, in turns.
pub(crate) fn make(number: usize) -> std::io::Result<(Bed, Alarm)> {
    Ok(match number % 6 {
        0 => (Bed::Nanosleep, Alarm::Own),
        1 => (Bed::Futex, Alarm::Own),
        2 => {
            let (reader, writer) = pipe()?;
            let reader = File::from(OwnedFd::from(reader));
            (Bed::Read(reader), Alarm::Pipe(writer))
        }
        3 => {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            (Bed::Epoll(epoll), Alarm::Own)
        }
        4 => (Bed::Sigtimedwait, Alarm::Own),
        _ => {
            let thread = Arc::new(AtomicU32::new(0));
            (Bed::Sigsuspend(thread.clone()), Alarm::Signal(thread))
        }
    })
}

/// Sleeps until the end. `length` is how long each call takes, where the thread decides.
pub(crate) fn sleep(bed: &Bed, length: Duration, control: Control) {
    if let Bed::Sigsuspend(thread) = bed {
        thread.store(nix::unistd::gettid().as_raw().cast_unsigned(), SeqCst);
    }
    control.begin();
    while !control.is_stopped() {
        match bed.once(length) {
            Ended::Well => control.slept(),
            Ended::AsForEveryTracer => control.interrupted(),
            Ended::Wrong(what, result) => {
                control.fail(format_args!("a thread that sleeps: {what}: {result}"));
            }
        }
    }
}

/// How a call has ended.
enum Ended {
    Well,
    /// With `EINTR`, although there was no handler.
    AsForEveryTracer,
    Wrong(&'static str, i64),
}

impl Bed {
    fn once(&self, length: Duration) -> Ended {
        let time = timespec {
            tv_sec: length.as_secs().cast_signed(),
            tv_nsec: length.subsec_nanos().into(),
        };
        let begun = now();
        let (what, expected, result) = match self {
            Self::Nanosleep => ("nanosleep", 0, nanosleep(&time)),
            Self::Futex => ("futex", -i64::from(libc::ETIMEDOUT), futex(&time)),
            Self::Read(file) => return read(file),
            Self::Epoll(epoll) => ("epoll_wait", 0, epoll_wait(epoll, length)),
            Self::Sigtimedwait => {
                let expected = -i64::from(libc::EAGAIN);
                ("rt_sigtimedwait", expected, sigtimedwait(&time))
            }
            Self::Sigsuspend(_) => return sigsuspend(),
        };
        let is_interrupted = result == -i64::from(libc::EINTR);
        if is_interrupted && matches!(self, Self::Epoll(_) | Self::Sigtimedwait) {
            return Ended::AsForEveryTracer;
        }
        if result != expected {
            return Ended::Wrong(what, result);
        }
        let slept = now().saturating_sub(begun);
        match slept >= length {
            true => Ended::Well,
            false => Ended::Wrong("nanoseconds, which is too short", slept.as_nanos() as i64),
        }
    }
}

/// Monotonic time by the system call.
pub(crate) fn now() -> Duration {
    let (_, time) = system::clock_gettime(libc::CLOCK_MONOTONIC);
    Duration::new(time.seconds as u64, time.fraction as u32)
}

/// The result as the kernel returns it.
fn result(code: c_long) -> i64 {
    match code {
        -1 => -i64::from(Errno::last_raw()),
        code => code,
    }
}

fn nanosleep(time: &timespec) -> i64 {
    let nothing = ptr::null_mut::<timespec>();
    // SAFETY: the time is read.
    result(unsafe { libc::syscall(libc::SYS_nanosleep, ptr::from_ref(time), nothing) })
}

fn futex(time: &timespec) -> i64 {
    let word = 0u32;
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let (word, time) = (&raw const word, ptr::from_ref(time));
    // SAFETY: the word and the time are read.
    result(unsafe { libc::syscall(libc::SYS_futex, word, operation, 0, time) })
}

fn read(file: &File) -> Ended {
    let mut byte = 0u8;
    // SAFETY: one byte is written.
    let code = unsafe { libc::syscall(libc::SYS_read, file.as_raw_fd(), &raw mut byte, 1) };
    match (result(code), byte) {
        (1, BYTE) => Ended::Well,
        (1, other) => Ended::Wrong("read another byte", other.into()),
        (code, _) => Ended::Wrong("read", code),
    }
}

fn epoll_wait(epoll: &Epoll, length: Duration) -> i64 {
    let mut event = MaybeUninit::<libc::epoll_event>::uninit();
    let (epoll, length) = (epoll.0.as_raw_fd(), length.as_millis() as libc::c_int);
    // SAFETY: at most one event is written.
    result(unsafe { libc::syscall(libc::SYS_epoll_wait, epoll, event.as_mut_ptr(), 1, length) })
}

/// Waits for a signal that is never sent.
fn sigtimedwait(time: &timespec) -> i64 {
    let set = 1u64 << (libc::SIGUSR1 - 1);
    let (set, time) = (&raw const set, ptr::from_ref(time));
    let (number, nothing) = (
        libc::SYS_rt_sigtimedwait,
        ptr::null_mut::<libc::siginfo_t>(),
    );
    // SAFETY: the set and the time are read.
    result(unsafe { libc::syscall(number, set, nothing, time, size_of::<u64>()) })
}

/// Ends after the handler of the only signal that it lets through, and not otherwise.
fn sigsuspend() -> Ended {
    let before = signals::woken();
    let mask = !(1u64 << (signals::WAKE - 1));
    let number = libc::SYS_rt_sigsuspend;
    // SAFETY: the mask is read.
    let code = result(unsafe { libc::syscall(number, &raw const mask, size_of::<u64>()) });
    let woken = signals::woken().wrapping_sub(before);
    match (code == -i64::from(libc::EINTR), woken) {
        (true, 1) => Ended::Well,
        (true, woken) => Ended::Wrong("sigsuspend, handlers", woken.into()),
        (false, _) => Ended::Wrong("sigsuspend", code),
    }
}
