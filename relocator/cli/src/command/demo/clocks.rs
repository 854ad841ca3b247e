//! The calls that the demonstration makes, by libc and as system calls.

#![allow(
    unsafe_code,
    reason = "libc's functions and system calls that have no safe interface"
)]

use nix::libc;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_getres, clock_gettime};

const BILLION: i128 = 1_000_000_000;
const MILLION: i128 = 1_000_000;

/// An answer that is before every time.
const ERROR: i128 = -1;

/// One call that a vDSO answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `clock_gettime` of that clock.
    Gettime(libc::clockid_t),
    /// `gettimeofday`.
    Gettimeofday,
    /// `time`.
    Time,
    /// `clock_getres` of that clock.
    Getres(libc::clockid_t),
}

/// What is called, in turns.
pub(super) const CALLS: [Call; 5] = [
    Call::Gettime(libc::CLOCK_MONOTONIC),
    Call::Gettime(libc::CLOCK_REALTIME_COARSE),
    Call::Gettimeofday,
    Call::Time,
    Call::Getres(libc::CLOCK_MONOTONIC),
];

impl Call {
    /// As a program writes it; COARSE is `CLOCK_REALTIME_COARSE`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gettime(libc::CLOCK_REALTIME_COARSE) => "clock_gettime(COARSE)",
            Self::Gettime(_) => "clock_gettime(MONOTONIC)",
            Self::Gettimeofday => "gettimeofday",
            Self::Time => "time",
            Self::Getres(_) => "clock_getres(MONOTONIC)",
        }
    }

    /// What libc says, in the call's own unit: nanoseconds, microseconds or seconds. An error is
    /// before every time.
    pub(super) fn vdso(self) -> i128 {
        match self {
            Self::Gettime(clock) => nanoseconds(clock_gettime(ClockId::from_raw(clock))),
            Self::Getres(clock) => nanoseconds(clock_getres(ClockId::from_raw(clock))),
            Self::Gettimeofday => {
                let mut time = libc::timeval {
                    tv_sec: -1,
                    tv_usec: 0,
                };
                // SAFETY: it writes the structure, and nothing where there is no place.
                let code = unsafe { libc::gettimeofday(&raw mut time, std::ptr::null_mut()) };
                match code {
                    0 => i128::from(time.tv_sec) * MILLION + i128::from(time.tv_usec),
                    _ => ERROR,
                }
            }
            // SAFETY: there is no place that it could write.
            Self::Time => i128::from(unsafe { libc::time(std::ptr::null_mut()) }),
        }
    }

    /// What the system call says, in the same unit.
    pub(super) fn system(self) -> i128 {
        let mut words = [-1_i64, 0];
        let place = words.as_mut_ptr() as usize;
        let (number, arguments) = match self {
            Self::Gettime(clock) => (libc::SYS_clock_gettime, [clock as usize, place]),
            Self::Getres(clock) => (libc::SYS_clock_getres, [clock as usize, place]),
            Self::Gettimeofday => (libc::SYS_gettimeofday, [place, 0]),
            Self::Time => (libc::SYS_time, [0, 0]),
        };
        // SAFETY: each of them writes two words at most, where `words` is, or nothing.
        let code = unsafe { libc::syscall(number, arguments[0], arguments[1]) };
        let [seconds, fraction] = words.map(i128::from);
        match (self, code) {
            (Self::Time, seconds) => i128::from(seconds),
            (Self::Gettimeofday, 0) => seconds * MILLION + fraction,
            (_, 0) => seconds * BILLION + fraction,
            _ => ERROR,
        }
    }

    /// An answer as people read it: seconds.
    pub(super) fn show(self, number: i128) -> String {
        match self {
            _ if number < 0 => "an error".to_owned(),
            Self::Time => number.to_string(),
            Self::Gettimeofday => format!("{}.{:06}", number / 1_000_000, number % 1_000_000),
            Self::Gettime(_) | Self::Getres(_) => {
                format!("{}.{:09}", number / BILLION, number % BILLION)
            }
        }
    }
}

fn nanoseconds(time: nix::Result<TimeSpec>) -> i128 {
    time.map_or(ERROR, |time| {
        i128::from(time.tv_sec()) * BILLION + i128::from(time.tv_nsec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libc_and_the_system_call_agree() {
        for call in CALLS {
            let (before, value, after) = (call.system(), call.vdso(), call.system());
            assert!(
                (before..=after).contains(&value),
                "{}: {before} {value} {after}",
                call.name()
            );
        }
    }

    #[test]
    fn answers_are_shown_in_seconds() {
        let monotonic = Call::Gettime(libc::CLOCK_MONOTONIC);
        assert_eq!(monotonic.show(12_000_000_034), "12.000000034");
        assert_eq!(Call::Gettimeofday.show(12_000_034), "12.000034");
        assert_eq!(Call::Time.show(12), "12");
        assert_eq!(monotonic.show(-1), "an error");
    }
}
