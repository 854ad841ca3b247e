//! How fast the time-stamp counter ticks. Emulators pass the processor's own on to guests.

#![allow(
    unsafe_code,
    reason = "the counter has an intrinsic that is declared unsafe"
)]

use std::arch::x86_64::_rdtsc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long it is counted.
const WHILE: Duration = Duration::from_millis(100);

/// How many readings there are, of which the quickest is taken: others were interrupted.
const READINGS: usize = 200;

/// Thousands of ticks in a second, measured once.
pub(super) fn khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> u64 {
    let (began, first) = reading();
    std::thread::sleep(WHILE);
    let (ended, last) = reading();
    let ticks = u128::from(last.wrapping_sub(first));
    let nanoseconds = (ended - began).as_nanos().max(1);
    u64::try_from(ticks * 1_000_000 / nanoseconds).unwrap_or(0)
}

/// A moment, and the counter at that moment.
fn reading() -> (Instant, u64) {
    let readings = (0..READINGS).map(|_| {
        let (before, began) = (ticks(), Instant::now());
        let after = ticks();
        (after.wrapping_sub(before), began, before.midpoint(after))
    });
    let quickest = readings.min_by_key(|(took, ..)| *took);
    quickest.map_or_else(|| (Instant::now(), ticks()), |(_, at, ticks)| (at, ticks))
}

fn ticks() -> u64 {
    // SAFETY: every processor of this architecture has the counter, and Linux lets programs read it
    // unless a program gives that up (`PR_SET_TSC`), which this one does not.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_agree() {
        let (one, another) = (measure(), measure());
        assert!(one > 100_000, "{one} kHz");
        // Kernels refuse what is 1 % from their own measurement.
        assert!(
            one.abs_diff(another) < one / 1000,
            "{one} and {another} kHz"
        );
    }
}
