//! States of the old kernel's pages, and what may happen to them while a function reads them.

use std::fmt;
use std::iter;

use crate::emulated::{ClockMode, Emulated, Epoch};

use crate::arch::PageUpdate;
use crate::{Error, Result};

/// Clocks that count on between updates, by index: those with high resolution, and the raw one.
const CLOCKS: [u64; 2] = [0, 1];

/// `basetime[]` of those that the first and the second clock tell with high resolution.
const BASES: [&[u64]; 2] = [&[0, 1, 7, 11], &[4]];

/// `basetime[]` of the coarse clocks, which the first clock tells and whose nanoseconds are not
/// shifted.
const COARSE: [u64; 2] = [5, 6];

/// Seconds that fractions are made longer by, so that the loop that carries them runs more than
/// once.
const CARRIED: u64 = 5;

/// How far an update may lie in the future, in cycles: minutes on every processor.
const AHEAD: u64 = 1 << 40;

/// A state of the old kernel's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Clocks that count, as always.
    Usual,
    /// No clock source that a vDSO can read: `clock_mode` is 0.
    NoClock,
    /// Fractions of several seconds.
    Carrying,
    /// No number of cycles is small enough for the short multiplication: `max_cycles` is 0.
    Overflowing,
    /// The counter is behind the last update, as it may be between processors.
    Future,
    /// The hypervisor's clock page says that it cannot be used.
    Invalid,
    /// The hypervisor's clock counts slower than the processor's: shifts go to the right.
    Slower,
    /// Random numbers are not ready.
    NotReady,
    /// Random numbers were reseeded as often as on the new kernel.
    SameGeneration,
}

impl State {
    /// Those that matter to functions which read clocks, with this clock source.
    pub(super) fn of_clocks(mode: ClockMode) -> Vec<Self> {
        let reads_page = mode.page_update().is_some();
        let all = [
            (Self::Usual, true),
            (Self::NoClock, !reads_page),
            (Self::Carrying, true),
            (Self::Overflowing, true),
            (Self::Future, true),
            (Self::Invalid, reads_page),
            (Self::Slower, !mode.slower().is_empty()),
        ];
        let possible = all.into_iter().filter(|(_, possible)| *possible);
        possible.map(|(state, _)| state).collect()
    }

    /// Brings the pages to it; whether this kernel has it at all.
    pub(super) fn apply(self, pages: &Emulated, mode: ClockMode) -> Result<bool> {
        let usual = Epoch::default();
        let epoch = match self {
            Self::SameGeneration => Epoch {
                generation: None,
                ..usual
            },
            _ => usual,
        };
        pages.reboot(&epoch).map_err(|error| Error::Unlinkable {
            what: "to a kernel that is emulated".to_owned(),
            reason: error.to_string(),
        })?;
        let each = |name: &str, change: &dyn Fn(u64) -> u64| {
            let change = |clock| change_field(pages, name, &[clock], change);
            CLOCKS.iter().all(|&clock| change(clock))
        };
        let set = |name: &str, value: u64| change_field(pages, name, &[], |_| value);
        Ok(match self {
            Self::Usual => true,
            Self::NoClock => each("time.clock[].clock_mode", &|_| 0),
            Self::Carrying => CLOCKS.iter().all(|&clock| carry(pages, clock)),
            Self::Overflowing => each("time.clock[].max_cycles", &|_| 0),
            Self::Future => each("time.clock[].cycle_last", &|last| last.wrapping_add(AHEAD)),
            Self::Invalid => mode.invalid().is_some_and(|(name, value)| set(name, value)),
            Self::Slower => {
                let slower = mode.slower();
                !slower.is_empty() && slower.iter().all(|(name, value)| set(name, *value))
            }
            Self::NotReady => set("rng.is_ready", 0),
            Self::SameGeneration => pages.get_content("rng.generation", &[]).is_some(),
        })
    }
}

fn change_field(
    pages: &Emulated,
    name: &str,
    indices: &[u64],
    change: impl Fn(u64) -> u64,
) -> bool {
    let value = pages.get_content(name, indices);
    value.is_some_and(|value| pages.set_content(name, indices, change(value)))
}

/// Moves seconds into the fractions of a clock's bases.
fn carry(pages: &Emulated, clock: u64) -> bool {
    const NANOSECONDS: u64 = 1_000_000_000;
    let shift = pages.get_content("time.clock[].shift", &[clock]);
    let Some(shift) = shift.filter(|&shift| shift < 32) else {
        return false;
    };
    let counting = BASES[clock as usize].iter().map(|&id| (id, shift));
    let coarse = COARSE.iter().map(|&id| (id, 0)).filter(|_| clock == 0);
    counting.chain(coarse).all(|(id, shift)| {
        let indices = [clock, id];
        let seconds = |value: u64| value.wrapping_sub(CARRIED);
        let fraction = |value: u64| value.wrapping_add((CARRIED * NANOSECONDS) << shift);
        change_field(pages, "time.clock[].basetime[].sec", &indices, seconds)
            && change_field(pages, "time.clock[].basetime[].nsec", &indices, fraction)
    })
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usual => "as usual",
            Self::NoClock => "no clock source",
            Self::Carrying => "fractions of seconds",
            Self::Overflowing => "max_cycles 0",
            Self::Future => "last update in the future",
            Self::Invalid => "clock page invalid",
            Self::Slower => "clock page slower",
            Self::NotReady => "random numbers not ready",
            Self::SameGeneration => "generation as on the new kernel",
        })
    }
}

/// What the old kernel does to its pages while a function is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// It updates its clocks at once.
    Update,
    /// It begins to update its clocks, and finishes only later.
    SlowUpdate,
    /// The hypervisor updates its clock page at once.
    PageUpdate(PageUpdate),
    /// The hypervisor begins to update its clock page, and finishes later.
    SlowPageUpdate(PageUpdate),
    /// The hypervisor makes its clock page invalid.
    PageInvalid(&'static str, u64),
    /// Random numbers are reseeded.
    Reseed,
}

impl Disturbance {
    /// Those that functions which read clocks may notice.
    pub(super) fn of_clocks(mode: ClockMode) -> Vec<Self> {
        let Some(update) = mode.page_update() else {
            return vec![Self::Update, Self::SlowUpdate];
        };
        let invalid = mode.invalid().filter(|_| !update.takes_time);
        let slow = update.takes_time.then_some(Self::SlowPageUpdate(update));
        let invalid = invalid.map(|(name, value)| Self::PageInvalid(name, value));
        iter::once(Self::PageUpdate(update))
            .chain(slow)
            .chain(invalid)
            .collect()
    }

    /// Begins.
    pub(super) fn begin(self, pages: &Emulated) {
        let clocks = |by: u64| {
            for clock in CLOCKS {
                change_field(pages, "time.clock[].seq", &[clock], |seq| {
                    seq.wrapping_add(by)
                });
            }
        };
        let add =
            |name: &str, by: u64| change_field(pages, name, &[], |value| value.wrapping_add(by));
        match self {
            Self::Update => clocks(2),
            Self::SlowUpdate => clocks(1),
            Self::PageUpdate(update) => drop(add(update.symbol, update.by)),
            Self::SlowPageUpdate(update) => drop(add(update.symbol, update.by / 2)),
            Self::PageInvalid(name, value) => drop(change_field(pages, name, &[], |_| value)),
            Self::Reseed => drop(add("rng.generation", 1)),
        }
    }

    /// Whether it takes time, and [`Self::end`] is to be called.
    pub(super) fn takes_time(self) -> bool {
        matches!(self, Self::SlowUpdate | Self::SlowPageUpdate(_))
    }

    /// Ends.
    pub(super) fn end(self, pages: &Emulated) {
        if self.takes_time() {
            self.begin(pages);
        }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Update => "an update",
            Self::SlowUpdate => "a slow update",
            Self::PageUpdate(_) => "an update of the clock page",
            Self::SlowPageUpdate(_) => "a slow update of the clock page",
            Self::PageInvalid(..) => "the clock page becoming invalid",
            Self::Reseed => "a reseed",
        })
    }
}
