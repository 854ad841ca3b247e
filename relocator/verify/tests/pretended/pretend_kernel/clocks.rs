//! Clocks of a pretend kernel, filled by hand so that the right answer is known.
//!
//! A nanosecond is a cycle here (`mult >> shift` is 1), which makes the time-stamp counter of this
//! processor the oracle: what a clock reads lies between two readings of the counter.

use std::arch::x86_64::_rdtsc;

use super::{Kernel, Timespec, Vdso};

pub(crate) const TSC: u32 = 1;
pub(crate) const REDIRECTED: u32 = 0x7fff_ffff;

pub(crate) const REALTIME: i32 = 0;
pub(crate) const RAW: i32 = 4;
pub(crate) const HIGH_RESOLUTION: [i32; 5] = [REALTIME, 1, RAW, 7, 11];
pub(crate) const COARSE: [i32; 2] = [5, 6];

pub(crate) const BILLION: i64 = 1_000_000_000;
pub(crate) const SHIFT: u32 = 8;
pub(crate) const BASE_NSEC: u64 = 999_999_000; /* so that nanoseconds are carried soon */

/// The cycle counter, in order with what precedes it.
pub(crate) fn cycles() -> u64 {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    // SAFETY: every x86-64 processor counts.
    unsafe { _rdtsc() }
}

/// Seconds of a clock's base: each has its own.
pub(crate) fn base_sec(id: i32) -> i64 {
    1_000_000 * (i64::from(id) + 1)
}

/// Which of the two clocks an id is read from.
pub(crate) fn clock_of(id: i32) -> u64 {
    u64::from(id == RAW)
}

/// Fills the clocks of a page (`time` or `timens`), `cycle_last` being now.
pub(crate) fn fill(kernel: &Kernel, page: &str) -> u64 {
    let now = cycles();
    for clock in [0, 1] {
        let field = |name: &str| format!("{page}.clock[].{name}");
        kernel.set32(&field("seq"), &[clock], 2);
        kernel.set32(&field("clock_mode"), &[clock], TSC);
        kernel.set64(&field("cycle_last"), &[clock], now);
        kernel.set64(&field("mask"), &[clock], u64::MAX);
        kernel.set32(&field("mult"), &[clock], 1 << SHIFT);
        kernel.set32(&field("shift"), &[clock], SHIFT);
        if kernel.has("time.clock[].max_cycles") {
            kernel.set64(&field("max_cycles"), &[clock], u64::MAX >> SHIFT >> 1);
        }
    }
    for id in 0..12 {
        let coarse = COARSE.contains(&id);
        let unshifted = coarse
            || kernel
                .symtab
                .get("time.clock[].basetime[].nsec")
                .is_some_and(|s| s.version == 2);
        let nsec = if unshifted {
            BASE_NSEC
        } else {
            BASE_NSEC << SHIFT
        };
        let indices = [clock_of(id), id as u64];
        kernel.set64(
            &format!("{page}.clock[].basetime[].sec"),
            &indices,
            base_sec(id) as u64,
        );
        kernel.set64(&format!("{page}.clock[].basetime[].nsec"), &indices, nsec);
    }
    kernel.set32(&format!("{page}.hrtimer_res"), &[], 7);
    kernel.set32(&format!("{page}.tz_minuteswest"), &[], -60i32 as u32);
    kernel.set32(&format!("{page}.tz_dsttime"), &[], 3);
    now
}

/// Nanoseconds since a clock's base, which has to be the clock's only news.
pub(crate) fn since_base(kernel: &Vdso, id: i32) -> i64 {
    let (status, time) = kernel.clock_gettime(id);
    assert_eq!(status, 0, "{}: clock {id}", kernel.name);
    assert!(
        (0..BILLION).contains(&time.nsec),
        "{}: clock {id}: {time:?}",
        kernel.name
    );
    (time.sec - base_sec(id)) * BILLION + time.nsec - BASE_NSEC as i64
}

/// Reads a clock between two readings of the counter.
pub(crate) fn check_running(kernel: &Vdso, id: i32, last: u64, offset: i64) {
    let before = cycles() - last;
    let between = since_base(kernel, id) - offset;
    let after = cycles() - last;
    let range = before as i64 - 1..=after as i64 + 1;
    assert!(
        range.contains(&between),
        "{}: clock {id}: {between} is not in {range:?}",
        kernel.name
    );
}

/// What has no offset in a time namespace: time zone, resolution, seconds.
pub(crate) fn check_wall_clock(kernel: &Vdso, last: u64) {
    let (mut time, mut zone, mut resolution, mut seconds) =
        ([0; 2], [0; 2], Timespec::default(), 0);
    let before = cycles() - last;
    assert_eq!(kernel.gettimeofday(Some(&mut time), Some(&mut zone)), 0);
    let after = cycles() - last;
    let microseconds = (time[0] - base_sec(REALTIME)) * 1_000_000 + time[1];
    let range = (BASE_NSEC + before) as i64 / 1000..=(BASE_NSEC + after) as i64 / 1000;
    assert!(
        range.contains(&microseconds),
        "{}: {microseconds} is not in {range:?}",
        kernel.name
    );
    assert_eq!(zone, [-60, 3], "{}", kernel.name);
    assert_eq!(kernel.gettimeofday(None, None), 0);
    assert_eq!(
        kernel.time(Some(&mut seconds)),
        base_sec(REALTIME),
        "{}",
        kernel.name
    );
    assert_eq!(seconds, base_sec(REALTIME), "{}", kernel.name);
    assert_eq!(kernel.time(None), base_sec(REALTIME), "{}", kernel.name);
    for id in HIGH_RESOLUTION {
        assert_eq!(kernel.clock_getres(id, Some(&mut resolution)), 0);
        assert_eq!(
            resolution,
            Timespec { sec: 0, nsec: 7 },
            "{}: clock {id}",
            kernel.name
        );
        assert_eq!(kernel.clock_getres(id, None), 0);
    }
}

/// Makes the page at the time page's place redirect: an odd sequence for ever, the mode that says
/// so, and offsets.
pub(crate) fn redirect(kernel: &Kernel) {
    for clock in [0, 1] {
        kernel.set32("time.clock[].seq", &[clock], 1);
        kernel.set32("time.clock[].clock_mode", &[clock], REDIRECTED);
    }
    for id in 0..12 {
        let indices = [clock_of(id), id as u64];
        let (sec, nsec) = (
            offset(id).div_euclid(BILLION),
            offset(id).rem_euclid(BILLION),
        );
        kernel.set64("time.clock[].offset[].sec", &indices, sec as u64);
        kernel.set64("time.clock[].offset[].nsec", &indices, nsec as u64);
    }
}

/// Nanoseconds that the time namespace of [`redirect`] adds to a clock.
pub(crate) fn offset(id: i32) -> i64 {
    match id {
        0 | 5 | 11 => 0,
        _ => -(5 + i64::from(id)) * BILLION + 700_000_000,
    }
}
