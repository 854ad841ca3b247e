//! The calls that the demonstration makes, by libc and as system calls.

#![allow(
    unsafe_code,
    reason = "libc's functions and system calls that have no safe interface"
)]

use nix::libc::{self, timespec, timeval};

const BILLION: i128 = 1_000_000_000;

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

    /// What libc says, in the call's own unit: nanoseconds, microseconds or seconds.
    pub(super) fn vdso(self) -> i128 {
        let (mut time, mut value) = (nothing(), no_time());
        // SAFETY: each call writes the structure of its own that it is given, and nothing else.
        let code = unsafe {
            match self {
                Self::Gettime(clock) => libc::clock_gettime(clock, &raw mut time),
                Self::Getres(clock) => libc::clock_getres(clock, &raw mut time),
                Self::Gettimeofday => libc::gettimeofday(&raw mut value, std::ptr::null_mut()),
                Self::Time => return i128::from(libc::time(std::ptr::null_mut())),
            }
        };
        self.number(code.into(), time, value)
    }

    /// What the system call says, in the same unit.
    pub(super) fn system(self) -> i128 {
        let (mut time, mut value) = (nothing(), no_time());
        let null: *mut libc::time_t = std::ptr::null_mut();
        // SAFETY: as above; the arguments are those of the system call.
        let code = unsafe {
            match self {
                Self::Gettime(clock) => {
                    libc::syscall(libc::SYS_clock_gettime, clock, &raw mut time)
                }
                Self::Getres(clock) => libc::syscall(libc::SYS_clock_getres, clock, &raw mut time),
                Self::Gettimeofday => libc::syscall(libc::SYS_gettimeofday, &raw mut value, null),
                Self::Time => return i128::from(libc::syscall(libc::SYS_time, null)),
            }
        };
        self.number(code, time, value)
    }

    /// One number, by which answers are ordered. An error is before every time.
    fn number(self, code: i64, time: timespec, value: timeval) -> i128 {
        match (code, self) {
            (1.. | ..0, _) => -1,
            (0, Self::Gettimeofday) => {
                i128::from(value.tv_sec) * 1_000_000 + i128::from(value.tv_usec)
            }
            (0, _) => i128::from(time.tv_sec) * BILLION + i128::from(time.tv_nsec),
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

fn nothing() -> timespec {
    timespec {
        tv_sec: -1,
        tv_nsec: 0,
    }
}

fn no_time() -> timeval {
    timeval {
        tv_sec: -1,
        tv_usec: 0,
    }
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
