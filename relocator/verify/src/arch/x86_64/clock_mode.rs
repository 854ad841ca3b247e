//! What clocks count with, and the clock pages of hypervisors, which are filled so that reading
//! them is reading the time-stamp counter, some cycles ahead.
//!
//! What they are ahead by makes it visible whether the page was read, since `cycle_last` is ahead
//! by the same. The formulas are those of `arch/x86/include/asm/pvclock.h`
//! (`__pvclock_read_cycles`), `arch/x86/include/asm/mshyperv.h` or
//! `include/clocksource/hyperv_timer.h` (`hv_read_tsc_page_tsc`).

use std::fmt;

/// How many cycles both clocks are ahead of the time-stamp counter. Enough to be seen on any
/// processor, and so few that the sum never reaches bit 62, which vDSOs take for a sign.
const AHEAD: u64 = 0x0123_4567_89ab;

/// `PVCLOCK_TSC_STABLE_BIT`: without it a vDSO makes the system call.
const TSC_STABLE: u64 = 1;

/// What an emulated kernel counts cycles with: `clock_mode` of its clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClockMode {
    /// The time-stamp counter, as the running kernel does.
    #[default]
    Tsc,
    /// KVM's clock page, which states a clock of its own, ahead of the time-stamp counter.
    Pvclock,
    /// Hyper-V's clock page, the same.
    Hvclock,
}

impl ClockMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tsc, Self::Pvclock, Self::Hvclock];

    /// The processor's counter, which the running kernel must count with if anything is to be
    /// emulated on it.
    pub const COUNTER: Self = Self::Tsc;

    /// The number in `clock_mode`: `enum vdso_clock_mode`.
    pub fn number(self) -> u32 {
        match self {
            Self::Tsc => 1,
            Self::Pvclock => 2,
            Self::Hvclock => 3,
        }
    }
}

impl fmt::Display for ClockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tsc => "tsc",
            Self::Pvclock => "pvclock",
            Self::Hvclock => "hvclock",
        })
    }
}

/// How a hypervisor updates its clock page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageUpdate {
    /// The field that counts updates.
    pub(crate) symbol: &'static str,
    /// By how much an update changes it.
    pub(crate) by: u64,
    /// Whether half of that says that the page is being written, and a reader waits.
    pub(crate) takes_time: bool,
}

impl ClockMode {
    /// How many cycles the emulated clock source is ahead of the time-stamp counter.
    pub(crate) fn ahead(self) -> u64 {
        match self {
            Self::Tsc => 0,
            Self::Pvclock | Self::Hvclock => AHEAD,
        }
    }

    /// What the page that it reads is filled with, by symbol. `earlier` is a reading of the
    /// time-stamp counter in the past.
    pub(crate) fn page(self, earlier: u64) -> Vec<(&'static str, u64)> {
        match self {
            Self::Tsc => Vec::new(),
            // system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32)
            // = system_time + tsc - tsc_timestamp
            Self::Pvclock => vec![
                ("pvclock.version", 2),
                ("pvclock.tsc_timestamp", earlier),
                ("pvclock.system_time", earlier.wrapping_add(AHEAD)),
                ("pvclock.tsc_to_system_mul", 1 << 31),
                ("pvclock.tsc_shift", 1),
                ("pvclock.flags", TSC_STABLE),
            ],
            // (tsc * tsc_scale >> 64) + tsc_offset = tsc - 1 + tsc_offset, for every tsc but 0
            Self::Hvclock => vec![
                ("hvclock.tsc_sequence", 1),
                ("hvclock.tsc_scale", u64::MAX),
                ("hvclock.tsc_offset", AHEAD + 1),
            ],
        }
    }

    /// Which field says by which value that the page cannot be used; `None` if no page is read.
    pub(crate) fn invalid(self) -> Option<(&'static str, u64)> {
        match self {
            Self::Tsc => None,
            Self::Pvclock => Some(("pvclock.flags", 0)),
            Self::Hvclock => Some(("hvclock.tsc_sequence", 0)),
        }
    }

    /// With which values the page's clock counts slower than the time-stamp counter, so that shifts
    /// go to the right; none if it cannot.
    pub(crate) fn slower(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Pvclock => &[
                ("pvclock.tsc_shift", u8::MAX as u64),
                ("pvclock.tsc_to_system_mul", u32::MAX as u64),
            ],
            Self::Tsc | Self::Hvclock => &[],
        }
    }

    /// How the page is updated; `None` if none is read.
    pub(crate) fn page_update(self) -> Option<PageUpdate> {
        match self {
            Self::Tsc => None,
            Self::Pvclock => Some(PageUpdate {
                symbol: "pvclock.version",
                by: 2,
                takes_time: true,
            }),
            Self::Hvclock => Some(PageUpdate {
                symbol: "hvclock.tsc_sequence",
                by: 1,
                takes_time: false,
            }),
        }
    }
}
