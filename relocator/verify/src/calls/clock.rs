//! `clock_gettime` and `clock_getres`.

use std::ops::RangeInclusive;

use nix::libc;
use nix::unistd::{getpid, gettid};

use super::{Checker, Difference, Settable, between, equal};
use crate::entry::{Clock, Entry, Time};
use crate::system;

/// Every clock there is (`CLOCK_AUX_LAST` is 23), and some that there are not.
const IDS: RangeInclusive<i32> = -1..=25;

/// Calls of the run that must never go backwards, per round: 200,000 of them unless other rounds
/// are asked for.
const ORDERED_CALLS: u32 = 2000;

const NANOSECONDS: i64 = 1_000_000_000;

/// Between two system calls for every clock; then all three ways to read the monotonic clock mixed.
pub(super) fn gettime(checker: &mut Checker<'_>, clock: Clock) {
    for id in IDS {
        checker.case(format!("clock {id}"));
        checker.rounds(settable(id), || bracket(clock, id));
    }
    for (what, id) in own_clocks() {
        checker.case(what);
        checker.rounds(Settable::No, || bracket(clock, id));
    }
    order(checker, clock);
}

/// The CPU clocks of this process and thread by number, which are negative.
fn own_clocks() -> [(&'static str, i32); 2] {
    let process = system::cpu_clock(getpid().as_raw(), false);
    let thread = system::cpu_clock(gettid().as_raw(), true);
    [
        ("CPU clock of the process", process),
        ("CPU clock of the thread", thread),
    ]
}

fn settable(id: i32) -> Settable {
    match id {
        libc::CLOCK_REALTIME
        | libc::CLOCK_REALTIME_COARSE
        | libc::CLOCK_REALTIME_ALARM
        | libc::CLOCK_TAI => Settable::Yes,
        _ => Settable::No,
    }
}

fn bracket(clock: Clock, id: i32) -> Result<(), Difference> {
    let (code, before) = system::clock_gettime(id);
    let (found_code, found) = clock.call(id);
    let (_, after) = system::clock_gettime(id);
    equal("the result", &found_code, &code)?;
    if code != 0 {
        return Ok(());
    }
    if !(0..NANOSECONDS).contains(&found.fraction) {
        let (count, unit) = (found.fraction, "nanoseconds");
        return Err(Difference::Fraction { count, unit });
    }
    between(before, found, after)
}

/// Reads the monotonic clock by the linked function, the running kernel's own and the system call
/// in turns.
fn order(checker: &mut Checker<'_>, clock: Clock) {
    checker.case("monotonic clock, mixed with native calls and system calls");
    let native = match checker.function.native {
        Some(Entry::ClockGettime(native)) => Some(native),
        _ => None,
    };
    let mut last = ("nothing", Time::default());
    for round in 0..checker.function.rounds.saturating_mul(ORDERED_CALLS) {
        // A period of 7 brings every two ways next to each other, in both orders, and some twice in
        // a row.
        let (caller, (code, time)) = match (round % 7, native) {
            (0 | 3, Some(native)) => ("native", native.call(libc::CLOCK_MONOTONIC)),
            (2 | 5, _) => ("system call", system::clock_gettime(libc::CLOCK_MONOTONIC)),
            _ => {
                checker.tally.calls += 1;
                ("linked", clock.call(libc::CLOCK_MONOTONIC))
            }
        };
        if code != 0 || time < last.1 {
            let (earlier, before) = last;
            checker.mismatch(&Difference::Backwards {
                caller,
                code,
                time,
                earlier,
                before,
            });
        }
        last = (caller, time);
    }
}

/// Equal for every clock, with and without a place for the result.
pub(super) fn getres(checker: &mut Checker<'_>, clock: Clock) {
    let ask = |entry: Entry| match entry {
        Entry::ClockGetres(clock) => Some(clock),
        _ => None,
    };
    let own = own_clocks().map(|(_, id)| id);
    for id in IDS.chain(own) {
        checker.case(format!("clock {id}"));
        for _ in 0..checker.function.rounds {
            let (found, expected) = (clock.call(id), system::clock_getres(id, true));
            checker.same("the resolution", found, expected, |entry| {
                ask(entry).map(|clock| clock.call(id))
            });
        }
        checker.case(format!("clock {id}, without a place for the result"));
        for _ in 0..checker.function.rounds {
            let (found, expected) = (
                clock.call_without_result(id),
                system::clock_getres(id, false).0,
            );
            checker.same("the result", found, expected, |entry| {
                ask(entry).map(|clock| clock.call_without_result(id))
            });
        }
    }
}
