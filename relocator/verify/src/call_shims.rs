//! Entries that bring the emulated kernel up to date before they call.
//!
//! What is compared is a call between two system calls. Pages that were copied before the first of
//! them are too old, so they are copied once more between that one and the call.
//!
//! A function pointer carries no data, so where they lead is kept for the whole process: a child
//! that emulates one kernel and calls one function at a time.

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::emulated::Emulated;
use nix::libc;

use super::entry::{Clock, Cpu, Entry, Random, Seconds, Time, TimeOfDay, Timezone, WallClock};

/// Which of the functions of one name is meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    /// The one that is verified.
    Checked = 0,
    /// The kernel's own, which it is compared with.
    Native = 1,
}

const CHECKED: usize = Side::Checked as usize;
const NATIVE: usize = Side::Native as usize;

static EMULATED: OnceLock<Arc<Emulated>> = OnceLock::new();

/// Where the entries lead, by side.
static TARGETS: RwLock<[Option<Entry>; 2]> = RwLock::new([None; 2]);

/// Says which kernel is to be kept current. A process can have one.
pub(super) fn install(emulated: &Arc<Emulated>) {
    let first = EMULATED.get_or_init(|| Arc::clone(emulated));
    assert!(
        Arc::ptr_eq(first, emulated),
        "a process emulates one kernel"
    );
}

/// The same function, refreshed. It is valid until the next call for that side.
pub(super) fn through(side: Side, entry: Entry) -> Entry {
    let mut targets = TARGETS.write().unwrap_or_else(PoisonError::into_inner);
    targets[side as usize] = Some(entry);
    match side {
        Side::Checked => refreshing::<CHECKED>(entry),
        Side::Native => refreshing::<NATIVE>(entry),
    }
}

fn refreshing<const SIDE: usize>(entry: Entry) -> Entry {
    match entry {
        Entry::ClockGettime(_) => Entry::ClockGettime(Clock(clock_gettime::<SIDE>)),
        Entry::ClockGetres(_) => Entry::ClockGetres(Clock(clock_getres::<SIDE>)),
        Entry::Gettimeofday(_) => Entry::Gettimeofday(TimeOfDay(gettimeofday::<SIDE>)),
        Entry::Time(_) => Entry::Time(WallClock(time::<SIDE>)),
        Entry::Getcpu(_) => Entry::Getcpu(Cpu(getcpu::<SIDE>)),
        Entry::Getrandom(_) => Entry::Getrandom(Random(getrandom::<SIDE>)),
    }
}

/// What is to be called now.
fn refreshed<const SIDE: usize>() -> Option<Entry> {
    EMULATED.get()?.refresh();
    TARGETS.read().unwrap_or_else(PoisonError::into_inner)[SIDE]
}

/// The result where an entry of another function was asked for: no vDSO returns it for what
/// verifying asks.
const NOTHING: c_int = -libc::EOWNERDEAD;

extern "C" fn clock_gettime<const SIDE: usize>(id: c_int, time: *mut Time) -> c_int {
    match refreshed::<SIDE>() {
        // SAFETY: the caller's arguments, and the promise of `Entry::at`.
        Some(Entry::ClockGettime(clock)) => unsafe { (clock.0)(id, time) },
        _ => NOTHING,
    }
}

extern "C" fn clock_getres<const SIDE: usize>(id: c_int, time: *mut Time) -> c_int {
    match refreshed::<SIDE>() {
        // SAFETY: as above.
        Some(Entry::ClockGetres(clock)) => unsafe { (clock.0)(id, time) },
        _ => NOTHING,
    }
}

extern "C" fn gettimeofday<const SIDE: usize>(time: *mut Time, zone: *mut Timezone) -> c_int {
    match refreshed::<SIDE>() {
        // SAFETY: as above.
        Some(Entry::Gettimeofday(function)) => unsafe { (function.0)(time, zone) },
        _ => NOTHING,
    }
}

extern "C" fn time<const SIDE: usize>(stored: *mut Seconds) -> Seconds {
    match refreshed::<SIDE>() {
        // SAFETY: as above.
        Some(Entry::Time(function)) => unsafe { (function.0)(stored) },
        _ => Seconds::from(NOTHING),
    }
}

extern "C" fn getcpu<const SIDE: usize>(
    cpu: *mut c_uint,
    node: *mut c_uint,
    unused: *mut c_void,
) -> c_long {
    match refreshed::<SIDE>() {
        // SAFETY: as above.
        Some(Entry::Getcpu(function)) => unsafe { (function.0)(cpu, node, unused) },
        _ => c_long::from(NOTHING),
    }
}

extern "C" fn getrandom<const SIDE: usize>(
    buffer: *mut u8,
    length: usize,
    flags: c_uint,
    state: *mut c_void,
    size: usize,
) -> isize {
    match refreshed::<SIDE>() {
        // SAFETY: as above.
        Some(Entry::Getrandom(function)) => unsafe {
            (function.0)(buffer, length, flags, state, size)
        },
        _ => NOTHING as isize,
    }
}
