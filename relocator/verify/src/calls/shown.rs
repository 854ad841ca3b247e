//! Answers as people read them.

use crate::entry::{Time, Timezone};

/// What a message says about an answer.
pub(super) trait Shown {
    /// In words.
    fn shown(&self) -> String;
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Shown for $number {
            fn shown(&self) -> String {
                self.to_string()
            }
        })*
    };
}

numbers!(i32, i64, isize, u32, u64);

/// Seconds and nanoseconds, as `clock_gettime` and `clock_getres` have them.
impl Shown for Time {
    fn shown(&self) -> String {
        format!("{}.{:09} s", self.seconds, self.fraction)
    }
}

impl Shown for Timezone {
    fn shown(&self) -> String {
        format!("{} minutes west, DST {}", self.minutes_west, self.dst_time)
    }
}

/// A result code, and what was stored if that is 0.
impl<C: Shown + Copy + Into<i64>> Shown for (C, Time) {
    fn shown(&self) -> String {
        match self.0.into() {
            0 => self.1.shown(),
            code => format!("error {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_and_errors_are_errors() {
        let time = Time {
            seconds: 0,
            fraction: 1,
        };
        assert_eq!((0_i32, time).shown(), "0.000000001 s");
        assert_eq!((-22_i32, time).shown(), "error -22");
    }
}
