//! Scenarios: what a function is called for, and on which pages.

use std::fmt;

use crate::emulated::ClockMode;
use nix::libc;
use nix::unistd::Pid;

use super::call::{Call, Random};
use super::pages::{Disturbance, State};
use crate::system;

/// Clocks by number: all that a vDSO answers, and some of which it knows nothing.
const CLOCKS: std::ops::RangeInclusive<i32> = -2..=12;
/// The first and the last auxiliary clock (`CLOCK_AUX`), and what comes behind.
const AUXILIARY: [i32; 3] = [16, 23, 24];

/// Lengths that `getrandom` is asked for: nothing, less than a block, what a batch holds several
/// times, and more than it holds, by several blocks and a rest.
const LENGTHS: [usize; 4] = [0, 7, 32, 300];

/// How the state of `getrandom` is before the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prepared {
    /// As it was mapped: zeros.
    Fresh,
    /// Used before, with a batch of random numbers left.
    Used,
    /// In use by somebody else.
    Taken,
}

/// What a function is called for, and on which pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) call: Call,
    pub(super) mode: ClockMode,
    pub(super) state: State,
    pub(super) prepared: Prepared,
    /// What happens before which step.
    pub(super) disturbance: Option<(Disturbance, usize)>,
}

impl Scenario {
    fn new(call: Call, mode: ClockMode, state: State) -> Self {
        Self {
            call,
            mode,
            state,
            prepared: Prepared::Fresh,
            disturbance: None,
        }
    }

    /// A call on pages that are as always.
    pub(super) fn usual(call: Call) -> Self {
        Self::new(call, ClockMode::COUNTER, State::Usual)
    }

    /// The same with a disturbance before a step.
    pub(super) fn disturbed(self, disturbance: Disturbance, step: usize) -> Self {
        Self {
            disturbance: Some((disturbance, step)),
            ..self
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}, {}", self.call, self.mode, self.state)?;
        match self.prepared {
            Prepared::Fresh => {}
            Prepared::Used => f.write_str(", state used before")?,
            Prepared::Taken => f.write_str(", state in use")?,
        }
        match self.disturbance {
            Some((disturbance, step)) => write!(f, ", {disturbance} before step {step}"),
            None => Ok(()),
        }
    }
}

/// The scenarios of the function of that name without disturbances, with one clock source. `state`
/// is the size of the state that `getrandom` asks for, if it can have one. `thread` is whose CPU
/// clock is read.
pub(super) fn scenarios(
    name: &str,
    mode: ClockMode,
    state: Option<usize>,
    thread: Pid,
) -> Vec<Scenario> {
    let plain = name.strip_prefix("__vdso_").unwrap_or(name);
    let once = mode == ClockMode::COUNTER;
    let (calls, counting): (Vec<Call>, fn(&Call) -> bool) = match plain {
        "clock_gettime" => (gettime(thread), counts),
        "gettimeofday" => (gettimeofday(), counts),
        "clock_getres" if once => (getres(thread), |_| false),
        "time" if once => {
            let calls = [true, false].map(|wanted| Call::Time { wanted });
            (calls.into(), |_| false)
        }
        "getcpu" if once => (getcpu(), |_| false),
        "getrandom" if once => return random(state),
        _ => return Vec::new(),
    };
    let mut scenarios = Vec::new();
    for of in State::of_clocks(mode) {
        let all = once && of == State::Usual;
        let calls = calls.iter().filter(|call| {
            let carries = once && of == State::Carrying && is_coarse(call);
            all || carries || counting(call)
        });
        scenarios.extend(calls.map(|&call| Scenario::new(call, mode, of)));
    }
    scenarios
}

/// Those of them that are disturbed: one for each way through the code that reads the same pages
/// again if it has to.
pub(super) fn disturbable(scenario: &Scenario) -> Vec<Disturbance> {
    let representative = match scenario.call {
        Call::ClockGettime { id } => {
            let coarse = scenario.mode == ClockMode::COUNTER && id == libc::CLOCK_MONOTONIC_COARSE;
            coarse || id == libc::CLOCK_BOOTTIME || id == libc::CLOCK_MONOTONIC_RAW
        }
        Call::Gettimeofday { time, zone } => time && zone,
        Call::Getrandom(random) => random.state.is_some() && random.length == 32,
        Call::ClockGetres { .. } | Call::Time { .. } | Call::Getcpu { .. } => false,
    };
    match (
        representative && scenario.state == State::Usual,
        scenario.call,
    ) {
        (true, Call::Getrandom(_)) => vec![Disturbance::Reseed],
        (true, _) => Disturbance::of_clocks(scenario.mode),
        (false, _) => Vec::new(),
    }
}

/// Whether a call counts cycles.
fn counts(call: &Call) -> bool {
    match *call {
        Call::ClockGettime { id } => matches!(
            id,
            libc::CLOCK_REALTIME
                | libc::CLOCK_MONOTONIC
                | libc::CLOCK_MONOTONIC_RAW
                | libc::CLOCK_BOOTTIME
        ),
        Call::Gettimeofday { time, zone } => time && zone,
        _ => false,
    }
}

/// Whether a call tells a clock without counting.
fn is_coarse(call: &Call) -> bool {
    let Call::ClockGettime { id } = *call else {
        return false;
    };
    id == libc::CLOCK_REALTIME_COARSE || id == libc::CLOCK_MONOTONIC_COARSE
}

fn clocks(thread: Pid) -> Vec<i32> {
    let own = system::cpu_clock(thread.as_raw(), true);
    CLOCKS.chain(AUXILIARY).chain([own]).collect()
}

fn gettime(thread: Pid) -> Vec<Call> {
    let calls = clocks(thread).into_iter();
    calls.map(|id| Call::ClockGettime { id }).collect()
}

fn getres(thread: Pid) -> Vec<Call> {
    let both = |id| [true, false].map(|wanted| Call::ClockGetres { id, wanted });
    clocks(thread).into_iter().flat_map(both).collect()
}

fn pairs() -> [(bool, bool); 4] {
    [(true, true), (true, false), (false, true), (false, false)]
}

fn gettimeofday() -> Vec<Call> {
    let call = |(time, zone)| Call::Gettimeofday { time, zone };
    pairs().map(call).into()
}

fn getcpu() -> Vec<Call> {
    pairs().map(|(cpu, node)| Call::Getcpu { cpu, node }).into()
}

fn random(state: Option<usize>) -> Vec<Scenario> {
    let call = |length: usize, flags: u32, state: Option<usize>| {
        Call::Getrandom(Random {
            length,
            flags,
            state,
            query: false,
        })
    };
    let usual = Scenario::usual;
    let query = Call::Getrandom(Random {
        length: 0,
        flags: 0,
        state: None,
        query: true,
    });
    let mut scenarios = vec![usual(query), usual(call(32, 0, None))];
    let Some(size) = state else {
        return scenarios;
    };
    // Those that matter most come first: later ones are only stopped where these have not been
    // often enough.
    for (of, prepared) in [
        (State::SameGeneration, Prepared::Used),
        (State::Usual, Prepared::Fresh),
        (State::NotReady, Prepared::Fresh),
    ] {
        scenarios.push(Scenario {
            state: of,
            prepared,
            ..usual(call(32, 0, Some(size)))
        });
    }
    for prepared in [Prepared::Used, Prepared::Fresh] {
        for length in LENGTHS {
            scenarios.push(Scenario {
                prepared,
                ..usual(call(length, 0, Some(size)))
            });
        }
    }
    scenarios.push(Scenario {
        prepared: Prepared::Taken,
        ..usual(call(32, 0, Some(size)))
    });
    scenarios.push(usual(call(32, 0, Some(size - 1))));
    let flags = [
        libc::GRND_NONBLOCK,
        libc::GRND_RANDOM,
        libc::GRND_INSECURE,
        0x4000_0000,
    ];
    scenarios.extend(flags.map(|flags| usual(call(32, flags, Some(size)))));
    scenarios
}
