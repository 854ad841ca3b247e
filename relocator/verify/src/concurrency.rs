//! Calls while an emulated kernel is being updated by another thread.
//!
//! Data is as old as its thread lets it become here, so this does not compare calls with the system
//! calls before and after them. What is checked is that readers see no update that is half done:
//! time that was put together from two updates is off by what a clock does between them, which is
//! milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::emulated::Emulated;
use nix::libc;

use super::calls::{Difference, Tally};
use super::candidate::Candidate;
use super::child::Progress;
use super::entry::{Clock, Entry, Time, TimeOfDay};
use super::system;
use crate::{Error, Result};
use relocator::plan::Strategy;

/// Rest between two updates: many times as many as any kernel makes, and still little work.
const PAUSE: Duration = Duration::from_micros(50);

/// Calls of each clock during updates, per round.
const CALLS: u32 = 100;

/// Fewest updates that calls have to meet.
const UPDATES: u64 = 20;

/// How long an update stands still.
const HALT: Duration = Duration::from_micros(300);

/// How often a call is tried to be made while an update stands still. On a busy machine it may come
/// too late.
const ATTEMPTS: u32 = 20;

/// What time may be off by because an update came late, in nanoseconds: a busy machine keeps
/// threads waiting.
const STALE: i128 = 10_000_000_000;

/// What time may go back by when an update comes late, in nanoseconds. A clock whose rate is being
/// adjusted was extrapolated at the former rate, which differs by parts per million.
const SLACK: i128 = 20_000;

/// Clocks with a sequence counter, and whether they cannot be set.
const CLOCKS: [(i32, bool); 7] = [
    (libc::CLOCK_MONOTONIC, true),
    (libc::CLOCK_REALTIME, false),
    (libc::CLOCK_MONOTONIC_RAW, true),
    (libc::CLOCK_MONOTONIC_COARSE, true),
    (libc::CLOCK_REALTIME_COARSE, false),
    (libc::CLOCK_BOOTTIME, true),
    (libc::CLOCK_TAI, false),
];

/// One thing that reads a clock.
#[derive(Clone, Copy)]
enum Reader {
    Clock(Clock, i32),
    TimeOfDay(TimeOfDay),
}

impl Reader {
    /// What a function reads, and whether it never goes back.
    fn of(entry: Entry) -> Vec<(Self, bool)> {
        match entry {
            Entry::ClockGettime(clock) => CLOCKS
                .map(|(id, is_ordered)| (Self::Clock(clock, id), is_ordered))
                .to_vec(),
            Entry::Gettimeofday(function) => vec![(Self::TimeOfDay(function), false)],
            // The others read words, and no sequence counter.
            _ => Vec::new(),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Clock(_, id) => format!("clock {id}"),
            Self::TimeOfDay(_) => "time".to_owned(),
        }
    }

    /// Nanoseconds by the function.
    fn read(self) -> Result<i128, Difference> {
        let (code, time, unit) = match self {
            Self::Clock(clock, id) => {
                let (code, time) = clock.call(id);
                (code, time, 1)
            }
            Self::TimeOfDay(function) => {
                let mut time = Time::default();
                (function.call(Some(&mut time), None), time, 1000)
            }
        };
        let fraction = time.fraction.saturating_mul(unit);
        match (code, (0..1_000_000_000).contains(&fraction)) {
            (0, true) => Ok(i128::from(time.seconds) * 1_000_000_000 + i128::from(fraction)),
            _ => Err(Difference::NoTime { code, time }),
        }
    }

    /// Nanoseconds by the system call.
    fn ask(self) -> i128 {
        let id = match self {
            Self::Clock(_, id) => id,
            Self::TimeOfDay(_) => libc::CLOCK_REALTIME,
        };
        let time = system::clock_gettime(id).1;
        i128::from(time.seconds) * 1_000_000_000 + i128::from(time.fraction)
    }

    /// Reads, and checks that the result is about what the system call says.
    fn check(self) -> Result<i128, Difference> {
        let (expected, found) = (self.ask(), self.read()?);
        match (found - expected).abs() <= STALE {
            true => Ok(found),
            false => Err(Difference::Stale { found, expected }),
        }
    }
}

/// Calls what reads clocks during updates, and during one that stands still.
pub(super) fn check(
    emulated: &Arc<Emulated>,
    candidate: &Candidate<'_>,
    rounds: u32,
    progress: &mut Progress,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for (reader, is_ordered) in candidate.entry.map_or_else(Vec::new, Reader::of) {
        let name = reader.name();
        let mut count = |case: &str, found: Vec<Result<(), Difference>>| {
            tally.calls += found.len() as u64;
            for difference in found.into_iter().filter_map(Result::err) {
                tally.mismatch(&format!("{name}, {case}"), &difference);
            }
        };
        let mut at = |case: &str| progress.at(format!("{}, {name}, {case}", candidate.name()));
        let case = "while it is updated";
        at(case);
        let calls = rounds.saturating_mul(CALLS);
        count(case, during_updates(emulated, reader, is_ordered, calls)?);
        let case = "while an update stands still";
        at(case);
        let found = during_halt(emulated, reader, reads_clocks(candidate.strategy));
        count(case, vec![found]);
    }
    Ok(tally)
}

/// Whether a function reads the emulated kernel's clocks, by its own code or by that kernel's.
fn reads_clocks(strategy: Option<Strategy>) -> bool {
    matches!(strategy, None | Some(Strategy::Relocate | Strategy::Proxy))
}

fn during_updates(
    emulated: &Arc<Emulated>,
    reader: Reader,
    is_ordered: bool,
    calls: u32,
) -> Result<Vec<Result<(), Difference>>> {
    let updater = emulated.keep_current(PAUSE);
    let updater = updater.map_err(Error::io("a thread"))?;
    let mut found = Vec::with_capacity(calls as usize);
    let mut last = i128::MIN;
    while found.len() < calls as usize || updater.updates() < UPDATES {
        found.push(reader.check().and_then(|now| {
            let before = std::mem::replace(&mut last, now);
            match is_ordered && now < before.saturating_sub(SLACK) {
                true => Err(Difference::WentBack { now, before }),
                false => Ok(()),
            }
        }));
    }
    Ok(found)
}

/// Makes one call while an update stands still. It has to wait for the end of it, and then be
/// right.
fn during_halt(
    emulated: &Arc<Emulated>,
    reader: Reader,
    reads_clocks: bool,
) -> Result<(), Difference> {
    for _ in 0..ATTEMPTS {
        let [begun, ending] = [const { AtomicBool::new(false) }; 2];
        let (in_time, result, waited) = thread::scope(|scope| {
            scope.spawn(|| {
                let halted = emulated.halt();
                begun.store(true, Ordering::SeqCst);
                thread::sleep(HALT);
                ending.store(true, Ordering::SeqCst);
                drop(halted);
            });
            while !begun.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            let in_time = !ending.load(Ordering::SeqCst);
            let result = reader.check();
            (in_time, result, ending.load(Ordering::SeqCst))
        });
        result?;
        if in_time && reads_clocks && !waited {
            return Err(Difference::DidNotWait);
        }
        if in_time {
            break;
        }
    }
    Ok(())
}
