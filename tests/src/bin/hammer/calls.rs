//! Every function, in every way that a program calls it, held against the system call.

use nix::libc;
use relocator_tests::bed::control::Function;

use crate::judge::{Judge, Steady, Wrong};
use crate::system;
use crate::vdso::{Clock, Functions, State, Time, Zone};

/// All clocks that vDSOs know, and those between that only the kernel does.
pub(crate) const CLOCKS: usize = 12;

/// Clocks that vDSOs read by themselves.
const FAST: [i32; 7] = [
    libc::CLOCK_REALTIME,
    libc::CLOCK_MONOTONIC,
    libc::CLOCK_MONOTONIC_RAW,
    libc::CLOCK_REALTIME_COARSE,
    libc::CLOCK_MONOTONIC_COARSE,
    libc::CLOCK_BOOTTIME,
    libc::CLOCK_TAI,
];

/// Calls in a row without a system call in between: a thread is to be inside the vDSO most of its time.
const BURST: u64 = 100;

/// Resolutions of coarse clocks that kernels are built with: 100, 250, 300 and 1000 ticks in a second. Until 5.x the vDSO
/// states the one that it was built with itself.
const TICKS: [i64; 4] = [10_000_000, 4_000_000, 3_333_333, 1_000_000];

/// No result that a function stores.
const UNWRITTEN: i64 = i64::MIN;

/// Bytes from which two outputs of `getrandom` do not repeat by accident.
const UNREPEATABLE: usize = 32;

/// One thread's calls.
pub(crate) struct Caller {
    pub(crate) functions: Functions,
    pub(crate) judge: Judge,
    state: State,
    /// The latest answer of each clock that had to be right.
    latest: [Time; CLOCKS],
    random: [u8; UNREPEATABLE],
}

fn steady(clock: i32) -> Steady {
    match clock {
        libc::CLOCK_REALTIME
        | libc::CLOCK_REALTIME_COARSE
        | libc::CLOCK_REALTIME_ALARM
        | libc::CLOCK_TAI => Steady::No,
        // A restore begins a new process, whose processor time is its own.
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID => Steady::No,
        _ => Steady::Yes,
    }
}

/// The clock's answer lies between two system calls'.
fn bracket(clock: Clock, id: i32) -> Result<Time, Wrong> {
    let before = system::clock_gettime(id);
    let found = clock.call(id);
    let after = system::clock_gettime(without_ticks(id));
    let wrong = |what| Wrong {
        what,
        found,
        before,
        after,
    };
    if found.0 != before.0 {
        return Err(wrong("another result"));
    }
    if found.0 == 0 && !(before.1 <= found.1 && found.1 <= after.1) {
        return Err(wrong("not between"));
    }
    match (0..1_000_000_000).contains(&found.1.fraction) {
        true => Ok(found.1),
        false => Err(wrong("too many nanoseconds")),
    }
}

/// What handlers check: little, and without any memory of before.
pub(crate) fn check_in_handler(functions: &Functions, judge: &Judge) {
    let id = libc::CLOCK_MONOTONIC;
    judge.check(Function::ClockGettime, id, Steady::Yes, || {
        bracket(functions.gettime, id).map(drop)
    });
    let coarse = libc::CLOCK_MONOTONIC_COARSE;
    judge.check(Function::ClockGettime, coarse, Steady::Yes, || {
        bracket(functions.gettime, coarse).map(drop)
    });
    judge.check(Function::Time, 0, Steady::No, || time(functions, true));
    judge.check(Function::Getcpu, 0, Steady::No, || cpu(functions));
}

/// The clock that a coarse one lags behind: see [`latest_second`].
fn without_ticks(id: i32) -> i32 {
    match id {
        libc::CLOCK_REALTIME_COARSE => libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC_COARSE => libc::CLOCK_MONOTONIC,
        other => other,
    }
}

/// The second that a system call may still be about to say: the kernel tells vDSOs of a tick an instant before it counts for its own
/// system calls. It has begun by the clock that does not wait for ticks.
fn latest_second() -> i64 {
    system::clock_gettime(libc::CLOCK_REALTIME).1.seconds
}

fn time(functions: &Functions, stored: bool) -> Result<(), Wrong> {
    let before = system::time();
    let mut place = UNWRITTEN;
    let found = functions.time(stored.then_some(&mut place));
    let after = latest_second();
    if !(before..=after).contains(&found) {
        return Err(Wrong::number("not between", found, before, after));
    }
    match !stored || place == found {
        true => Ok(()),
        false => Err(Wrong::number("stored something else", place, found, found)),
    }
}

fn cpu(functions: &Functions) -> Result<(), Wrong> {
    let before = system::getcpu();
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    let code = functions.getcpu(Some(&mut cpu), Some(&mut node));
    let after = system::getcpu();
    let wrong = |what, found, before: u32, after: u32| {
        Err(Wrong::number(what, found, before.into(), after.into()))
    };
    match (code, cpu, node) {
        (0, cpu, node) if [before, after].contains(&(cpu, node)) => Ok(()),
        (0, cpu, _) if cpu != before.0 && cpu != after.0 => {
            wrong("another processor", cpu.into(), before.0, after.0)
        }
        (0, _, node) => wrong("another node", node.into(), before.1, after.1),
        (code, ..) => wrong("a result", code, 0, 0),
    }
}

impl Caller {
    pub(crate) fn new(functions: Functions, judge: Judge) -> Self {
        Self {
            functions,
            judge,
            state: functions.state(),
            latest: [Time::default(); CLOCKS],
            random: [0; UNREPEATABLE],
        }
    }

    /// Calls everything once in every way, and what is fast in bursts.
    pub(crate) fn round(&mut self) {
        let gettime = self.functions.gettime;
        for id in 0..CLOCKS as i32 {
            self.clock(gettime, id);
            self.resolution(id);
        }
        for id in FAST {
            self.burst(id);
            self.clock(Clock::LIBC, id);
        }
        self.wall();
        self.processor();
        self.random();
    }

    fn clock(&mut self, clock: Clock, id: i32) {
        let steady = steady(id);
        let latest = &mut self.latest[id as usize];
        let mut found = *latest;
        let is_right = self.judge.check(Function::ClockGettime, id, steady, || {
            found = bracket(clock, id)?;
            Ok(())
        });
        if is_right && steady == Steady::Yes {
            *latest = found;
        }
    }

    /// Many calls in a row, which never go backwards: not behind what the same thread was told before, either.
    fn burst(&mut self, id: i32) {
        let steady = steady(id);
        let clock = self.functions.gettime;
        let latest = &mut self.latest[id as usize];
        let start = if steady == Steady::Yes {
            *latest
        } else {
            Time::default()
        };
        let mut last = start;
        let is_right = self
            .judge
            .many(Function::ClockGettime, id, steady, BURST, |calls| {
                last = start;
                for _ in 0..calls {
                    let found = clock.call(id);
                    if found.0 != 0 || found.1 < last {
                        return Err(Wrong {
                            what: "backwards",
                            found,
                            before: (0, last),
                            after: (0, last),
                        });
                    }
                    last = found.1;
                }
                Ok(())
            });
        if is_right && steady == Steady::Yes {
            *latest = last;
        }
    }

    fn resolution(&self, id: i32) {
        let Some(clock) = self.functions.getres else {
            return;
        };
        let is_coarse = [libc::CLOCK_REALTIME_COARSE, libc::CLOCK_MONOTONIC_COARSE].contains(&id);
        self.judge
            .check(Function::ClockGetres, id, Steady::Yes, || {
                let (found, expected) = (clock.call(id), system::clock_getres(id));
                let built_in = is_coarse
                    && (found.0, found.1.seconds) == (0, 0)
                    && TICKS.contains(&found.1.fraction);
                match found == expected || built_in {
                    true => Ok(()),
                    false => Err(Wrong {
                        what: "another resolution",
                        found,
                        before: expected,
                        after: expected,
                    }),
                }
            });
        self.judge
            .check(Function::ClockGetres, id, Steady::Yes, || {
                let (found, expected) = (clock.without_result(id), system::clock_getres(id).0);
                match found == expected {
                    true => Ok(()),
                    false => Err(Wrong::number("without a result", found, expected, expected)),
                }
            });
    }

    fn wall(&self) {
        let functions = &self.functions;
        for (case, wants_time, wants_zone) in [
            (0, true, false),
            (1, true, true),
            (2, false, true),
            (3, false, false),
        ] {
            self.judge
                .check(Function::Gettimeofday, case, Steady::No, || {
                    day(functions, wants_time, wants_zone)
                });
        }
        self.judge
            .many(Function::Gettimeofday, 4, Steady::No, BURST, |calls| {
                day_burst(functions, calls)
            });
        for stored in [true, false] {
            self.judge
                .check(Function::Time, stored.into(), Steady::No, || {
                    time(functions, stored)
                });
        }
        self.judge.check(Function::Time, 2, Steady::No, || {
            let before = system::time();
            // SAFETY: a null pointer asks for nothing to be stored.
            #[allow(unsafe_code, reason = "a function of libc")]
            let found = unsafe { libc::time(std::ptr::null_mut()) };
            let after = latest_second();
            match (before..=after).contains(&found) {
                true => Ok(()),
                false => Err(Wrong::number("libc's is not between", found, before, after)),
            }
        });
    }

    fn processor(&self) {
        let functions = &self.functions;
        self.judge
            .check(Function::Getcpu, 0, Steady::No, || cpu(functions));
        self.judge.check(Function::Getcpu, 1, Steady::Yes, || {
            let (mut cpu, mut node) = (0, 0);
            let codes = [
                functions.getcpu(Some(&mut cpu), None),
                functions.getcpu(None, Some(&mut node)),
                functions.getcpu(None, None),
            ];
            match codes.into_iter().find(|&code| code != 0) {
                None => Ok(()),
                Some(code) => Err(Wrong::number("a result", code, 0, 0)),
            }
        });
    }

    /// Whole, and never the same twice: by the state, without one, and as libc does it.
    fn random(&mut self) {
        let (functions, previous) = (self.functions, self.random);
        let mut latest = previous;
        for (case, state) in [(0, self.state), (1, State::NONE), (0, self.state)] {
            self.judge
                .check(Function::Getrandom, case, Steady::Yes, || {
                    let mut bytes = [0; UNREPEATABLE];
                    let Some(length) = functions.getrandom(&mut bytes, state) else {
                        return Ok(());
                    };
                    let is_new = bytes != latest && bytes != previous;
                    latest = bytes;
                    random(length as i64, is_new, &bytes)
                });
        }
        self.judge.check(Function::Getrandom, 2, Steady::Yes, || {
            let mut bytes = [0; UNREPEATABLE];
            // SAFETY: as many bytes are written as there are.
            #[allow(unsafe_code, reason = "a function of libc")]
            let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
            random(length as i64, bytes != latest, &bytes)
        });
        self.random = latest;
    }
}

fn random(length: i64, is_new: bool, bytes: &[u8]) -> Result<(), Wrong> {
    let wrong = |what| Err(Wrong::number(what, length, bytes.len() as i64, 0));
    if length != bytes.len() as i64 {
        return wrong("not all of it");
    }
    let is_filled = bytes.iter().any(|&byte| byte != bytes[0]);
    match is_new && is_filled {
        true => Ok(()),
        false => wrong("the same bytes again"),
    }
}

fn day(functions: &Functions, wants_time: bool, wants_zone: bool) -> Result<(), Wrong> {
    let mut found = Time {
        seconds: UNWRITTEN,
        fraction: UNWRITTEN,
    };
    let mut zone = Zone::UNWRITTEN;
    let (before, expected) = system::gettimeofday();
    let time = wants_time.then_some(&mut found);
    let code = functions.gettimeofday(time, wants_zone.then_some(&mut zone));
    let (after, _) = system::gettimeofday();
    let wrong = |what| Wrong {
        what,
        found: (code.into(), found),
        before: (0, before),
        after: (0, after),
    };
    if code != 0 || wants_zone && zone != expected {
        return Err(wrong("another result or time zone"));
    }
    let is_between = before <= found && found <= after;
    match !wants_time || is_between && (0..1_000_000).contains(&found.fraction) {
        true => Ok(()),
        false => Err(wrong("not between")),
    }
}

fn day_burst(functions: &Functions, calls: u64) -> Result<(), Wrong> {
    let mut last = Time::default();
    for _ in 0..calls {
        let mut found = Time::default();
        let code = functions.gettimeofday(Some(&mut found), None);
        if code != 0 || found < last {
            return Err(Wrong {
                what: "backwards",
                found: (code.into(), found),
                before: (0, last),
                after: (0, last),
            });
        }
        last = found;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

    use relocator_tests::bed::control::{self, Control, EVERYTHING};

    use super::*;

    /// The first failure that a caller finds with another `clock_gettime`.
    fn first(replace: crate::vdso::ClockFunction, call: impl Fn(&mut Caller)) -> Option<String> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(control::SIZE as u64).unwrap();
        let control = Control::map(&file).unwrap();
        control.set_right(EVERYTHING);
        let mut functions = Functions::find().unwrap();
        functions.gettime = Clock(replace);
        let judge = Judge {
            control,
            thread: 3,
            place: "",
        };
        call(&mut Caller::new(functions, judge));
        control.counts().first
    }

    /// One nanosecond later with each call, but for one in the middle of a burst.
    extern "C" fn backwards(id: i32, time: *mut Time) -> i32 {
        static CALLS: AtomicI64 = AtomicI64::new(0);
        let call = CALLS.fetch_add(1, SeqCst);
        let fraction = if call == 50 { call - 2 } else { call };
        let found = Time {
            seconds: id.into(),
            fraction,
        };
        // SAFETY: callers give a place for one.
        #[allow(unsafe_code, reason = "as vDSOs do")]
        unsafe {
            *time = found;
        }
        0
    }

    extern "C" fn zero(_: i32, time: *mut Time) -> i32 {
        // SAFETY: callers give a place for one.
        #[allow(unsafe_code, reason = "as vDSOs do")]
        unsafe {
            *time = Time::default();
        }
        0
    }

    extern "C" fn refuse(_: i32, _: *mut Time) -> i32 {
        -libc::EINVAL
    }

    #[test]
    fn a_clock_that_goes_backwards_is_noticed() {
        let found = first(backwards, |caller| caller.burst(libc::CLOCK_MONOTONIC));
        let expected = "__vdso_clock_gettime, case 1, thread 3: backwards: 0 (1, 48), and the system call's are 0 (1, 49)";
        let found = found.unwrap();
        assert!(found.starts_with(expected), "{found}");
    }

    #[test]
    fn wrong_clocks_are_noticed() {
        for id in 0..CLOCKS as i32 {
            let right = system::clock_gettime(id).0 == 0;
            let found = first(zero, |caller| caller.clock(caller.functions.gettime, id));
            let words = if right {
                "not between"
            } else {
                "another result"
            };
            assert!(found.unwrap().contains(words));
            let found = first(refuse, |caller| caller.clock(caller.functions.gettime, id));
            assert_eq!(found.is_some(), right, "clock {id}");
        }
    }

    #[test]
    fn a_right_clock_is_not() {
        extern "C" fn right(id: i32, time: *mut Time) -> i32 {
            let (code, found) = system::clock_gettime(id);
            // SAFETY: callers give a place for one.
            #[allow(unsafe_code, reason = "as vDSOs do")]
            unsafe {
                *time = found;
            }
            code as i32
        }
        assert_eq!(first(right, Caller::round), None);
    }
}
