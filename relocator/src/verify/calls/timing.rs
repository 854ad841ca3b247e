//! How long a function takes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use nix::libc;

use crate::verify::entry::{Entry, Time};

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

fn repeat<T>(calls: u32, mut call: impl FnMut() -> T) -> Duration {
    let started = Instant::now();
    for _ in 0..calls {
        black_box(call());
    }
    started.elapsed()
}
