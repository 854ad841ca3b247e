//! How long a function takes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use nix::libc;

use crate::entry::{Clock, Entry, Time};
use crate::system;

/// A call that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimedCall {
    /// `clock_gettime(CLOCK_MONOTONIC)`, which reads the cycle counter.
    Monotonic,
    /// `clock_gettime(CLOCK_MONOTONIC_COARSE)`, which only reads memory.
    MonotonicCoarse,
    /// `gettimeofday` without a time zone.
    Gettimeofday,
    /// `time` without a place for the result.
    Time,
    /// `clock_getres(CLOCK_MONOTONIC)`
    Getres,
    /// `getcpu` for the CPU and the node.
    Getcpu,
}

impl TimedCall {
    /// All of them; the one that matters most to programs first.
    pub const ALL: [Self; 6] = [
        Self::Monotonic,
        Self::MonotonicCoarse,
        Self::Gettimeofday,
        Self::Time,
        Self::Getres,
        Self::Getcpu,
    ];

    /// As it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Monotonic => "clock_gettime(MONOTONIC)",
            Self::MonotonicCoarse => "clock_gettime(MONOTONIC_COARSE)",
            Self::Gettimeofday => "gettimeofday",
            Self::Time => "time",
            Self::Getres => "clock_getres",
            Self::Getcpu => "getcpu",
        }
    }

    /// Makes `calls` calls; `None` if `entry` is another function.
    pub(crate) fn time(self, entry: Entry, calls: u32) -> Option<Duration> {
        Some(match (self, entry) {
            (Self::Monotonic, Entry::ClockGettime(clock)) => {
                repeat(calls, || clock.call(libc::CLOCK_MONOTONIC))
            }
            (Self::MonotonicCoarse, Entry::ClockGettime(clock)) => {
                repeat(calls, || clock.call(libc::CLOCK_MONOTONIC_COARSE))
            }
            (Self::Gettimeofday, Entry::Gettimeofday(function)) => {
                let mut time = Time::default();
                repeat(calls, || function.call(Some(&mut time), None))
            }
            (Self::Time, Entry::Time(function)) => repeat(calls, || function.call(None)),
            (Self::Getres, Entry::ClockGetres(clock)) => {
                repeat(calls, || clock.call(libc::CLOCK_MONOTONIC))
            }
            (Self::Getcpu, Entry::Getcpu(function)) => {
                let (mut cpu, mut node) = (0, 0);
                repeat(calls, || function.call(Some(&mut cpu), Some(&mut node)))
            }
            _ => return None,
        })
    }
}

impl TimedCall {
    /// Whether the call returns what the system call does, at least once in a few attempts: a clock
    /// may be set meanwhile, and the process may move. `None` if `entry` is another function.
    pub(crate) fn agrees(self, entry: Entry) -> Option<bool> {
        const ATTEMPTS: usize = 4;
        let attempts: Option<Vec<bool>> = (0..ATTEMPTS).map(|_| self.agrees_once(entry)).collect();
        Some(attempts?.contains(&true))
    }

    fn agrees_once(self, entry: Entry) -> Option<bool> {
        let gettime = |clock: Clock, id: i32| {
            let before = system::clock_gettime(id);
            let found = clock.call(id);
            let after = system::clock_gettime(id);
            found.0 == 0 && before.1 <= found.1 && found.1 <= after.1
        };
        Some(match (self, entry) {
            (Self::Monotonic, Entry::ClockGettime(clock)) => gettime(clock, libc::CLOCK_MONOTONIC),
            (Self::MonotonicCoarse, Entry::ClockGettime(clock)) => {
                gettime(clock, libc::CLOCK_MONOTONIC_COARSE)
            }
            (Self::Gettimeofday, Entry::Gettimeofday(function)) => {
                let mut time = Time::default();
                let before = system::gettimeofday().1;
                let result = function.call(Some(&mut time), None);
                result == 0 && before <= time && time <= system::gettimeofday().1
            }
            (Self::Time, Entry::Time(function)) => {
                let before = system::time();
                let found = function.call(None);
                before <= found && found <= system::time()
            }
            (Self::Getres, Entry::ClockGetres(clock)) => {
                clock.call(libc::CLOCK_MONOTONIC)
                    == system::clock_getres(libc::CLOCK_MONOTONIC, true)
            }
            (Self::Getcpu, Entry::Getcpu(function)) => {
                let (mut cpu, mut node) = (u32::MAX, u32::MAX);
                let result = function.call(Some(&mut cpu), Some(&mut node));
                (result, cpu, node) == system::getcpu()
            }
            _ => return None,
        })
    }
}

fn repeat<T>(calls: u32, mut call: impl FnMut() -> T) -> Duration {
    let started = Instant::now();
    for _ in 0..calls {
        black_box(call());
    }
    started.elapsed()
}
