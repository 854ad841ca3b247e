//! `gettimeofday` and `time`.

use super::{Checker, Difference, Settable, between, equal};
use crate::entry::{Time, TimeOfDay, Timezone, WallClock};
use crate::system;

const MICROSECONDS: i64 = 1_000_000;

/// What the memory for a result holds before: no plausible result.
const UNWRITTEN: i64 = i64::MIN;

/// With every combination of pointers.
pub(super) fn gettimeofday(checker: &mut Checker<'_>, function: TimeOfDay) {
    for (case, wants_time, wants_zone) in [
        ("time and zone", true, true),
        ("time", true, false),
        ("zone", false, true),
        ("neither", false, false),
    ] {
        checker.case(case);
        checker.rounds(Settable::Yes, || {
            time_of_day(function, wants_time, wants_zone)
        });
    }
}

fn time_of_day(function: TimeOfDay, wants_time: bool, wants_zone: bool) -> Result<(), Difference> {
    let mut found = Time {
        seconds: UNWRITTEN,
        fraction: UNWRITTEN,
    };
    let mut zone = Timezone {
        minutes_west: i32::MIN,
        dst_time: i32::MIN,
    };
    let (code, before, expected_zone) = system::gettimeofday();
    let found_code = function.call(
        wants_time.then_some(&mut found),
        wants_zone.then_some(&mut zone),
    );
    let (_, after, _) = system::gettimeofday();
    equal("the result", &found_code, &code)?;
    if wants_zone {
        equal("the time zone", &zone, &expected_zone)?;
    }
    if !wants_time {
        return Ok(());
    }
    if !(0..MICROSECONDS).contains(&found.fraction) {
        let (count, unit) = (found.fraction, "microseconds");
        return Err(Difference::Fraction { count, unit });
    }
    between(before, found, after)
}

/// With and without a place for the result.
pub(super) fn time(checker: &mut Checker<'_>, function: WallClock) {
    checker.case("with a place for the result");
    checker.rounds(Settable::Yes, || {
        let before = system::time();
        let mut stored = UNWRITTEN;
        let found = function.call(Some(&mut stored));
        equal("what is stored", &stored, &found)
            .and_then(|()| between(before, found, system::time()))
    });
    checker.case("without a place for the result");
    checker.rounds(Settable::Yes, || {
        let before = system::time();
        between(before, function.call(None), system::time())
    });
}
