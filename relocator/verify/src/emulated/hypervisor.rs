//! The clock pages of hypervisors, filled so that reading them is reading the time-stamp counter, some cycles ahead.
//!
//! What they are ahead by makes it visible whether the page was read, since `cycle_last` is ahead by the same. The
//! formulas are those of `arch/x86/include/asm/pvclock.h` (`__pvclock_read_cycles`), `arch/x86/include/asm/mshyperv.h` or
//! `include/clocksource/hyperv_timer.h` (`hv_read_tsc_page_tsc`).

use super::{ClockMode, Error};
use crate::emulated::word::OwnWord;

/// How many cycles both clocks are ahead of the time-stamp counter. Enough to be seen on any processor, and so few that
/// the sum never reaches bit 62, which vDSOs take for a sign.
const AHEAD: u64 = 0x0123_4567_89ab;

/// `PVCLOCK_TSC_STABLE_BIT`: without it a vDSO makes the system call.
const TSC_STABLE: u64 = 1;

/// How many cycles the emulated clock source is ahead of the time-stamp counter.
pub(super) fn ahead(mode: ClockMode) -> u64 {
    match mode {
        ClockMode::Tsc => 0,
        ClockMode::Pvclock | ClockMode::Hvclock => AHEAD,
    }
}

/// Fills the page that `mode` reads. `earlier` is a reading of the time-stamp counter in the past.
pub(super) fn fill(
    mode: ClockMode,
    earlier: u64,
    field: impl Fn(&str) -> Result<OwnWord, Error>,
) -> Result<(), Error> {
    let fields: &[(&str, u64)] = match mode {
        ClockMode::Tsc => &[],
        // system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32) = system_time + tsc - tsc_timestamp
        ClockMode::Pvclock => &[
            ("pvclock.version", 2),
            ("pvclock.tsc_timestamp", earlier),
            ("pvclock.system_time", earlier.wrapping_add(AHEAD)),
            ("pvclock.tsc_to_system_mul", 1 << 31),
            ("pvclock.tsc_shift", 1),
            ("pvclock.flags", TSC_STABLE),
        ],
        // (tsc * tsc_scale >> 64) + tsc_offset = tsc - 1 + tsc_offset, for every tsc but 0
        ClockMode::Hvclock => &[
            ("hvclock.tsc_sequence", 1),
            ("hvclock.tsc_scale", u64::MAX),
            ("hvclock.tsc_offset", AHEAD + 1),
        ],
    };
    for (name, value) in fields {
        field(name)?.store(*value);
    }
    Ok(())
}
