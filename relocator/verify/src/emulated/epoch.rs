//! Another boot: an emulated kernel whose every value differs from the running one's, and whose
//! clocks are right all the same.
//!
//! A thread that has read some of the old kernel's values and some of the new one's says something
//! that is neither. That only shows if all of them differ: bases, the cycles that they belong to,
//! the ratio and its representation.

use super::place::Field;
use super::plan::{REDIRECTS, follow};
use super::word::{self, OwnWord};
use super::{Emulated, Error};

const NANOSECONDS: i128 = 1_000_000_000;

/// `CLOCK_*` of `linux/time.h`, by what they count from.
const REALTIME: [u64; 3] = [0, 5, 11];
const RAW: u64 = 4;
const BOOTTIME: u64 = 7;

/// What another boot has made different. Clocks go at the same speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// Seconds that the wall clock and the atomic clock are ahead.
    pub realtime: i64,
    /// Seconds that the monotonic clock is ahead.
    pub monotonic: i64,
    /// Seconds that the raw monotonic clock is ahead.
    pub raw: i64,
    /// Seconds that the clock which counts suspension is ahead.
    pub boottime: i64,
    /// Nanoseconds that all of them are ahead as well.
    pub nanoseconds: i64,
    /// Cycles by which the last update was earlier.
    pub earlier: u64,
    /// How often the ratio of nanoseconds to cycles is doubled in numerator and denominator, as far
    /// as there is room.
    pub doublings: u32,
    /// Time zone.
    pub minutes_west: i32,
    /// Daylight saving time.
    pub dst_time: i32,
    /// Resolution in nanoseconds.
    pub resolution: u32,
    /// By how much sequence counters differ, half of it.
    pub updates: u32,
    /// How often random numbers were reseeded; `None` as often as on the running kernel.
    pub generation: Option<u64>,
}

impl Default for Epoch {
    fn default() -> Self {
        Self {
            realtime: -(400 * 86_400 + 4_321),
            monotonic: 3 * 86_400 + 17,
            raw: 5 * 86_400 + 29,
            boottime: 7 * 86_400 + 41,
            nanoseconds: 617_283_945,
            earlier: 700_000_000,
            doublings: 1,
            minutes_west: -330,
            dst_time: 5,
            resolution: 4_000_250,
            updates: 0x0123_4567,
            generation: Some(0x51),
        }
    }
}

impl Epoch {
    /// Nanoseconds that a clock is ahead.
    pub fn ahead(&self, clock: u64) -> i128 {
        let seconds = match clock {
            clock if REALTIME.contains(&clock) => self.realtime,
            RAW => self.raw,
            BOOTTIME => self.boottime,
            _ => self.monotonic,
        };
        i128::from(seconds) * NANOSECONDS + i128::from(self.nanoseconds)
    }
}

impl Emulated {
    /// Copies everything once more, and makes another boot of it. The next refresh undoes it.
    ///
    /// Errors where the kernel lacks a field that its clocks cannot do without.
    pub fn reboot(&self, epoch: &Epoch) -> Result<(), Error> {
        self.rewrite();
        let clocks = self.symtab.array("time.clock").map_or(0, |array| array.1);
        for index in 0..clocks {
            self.reboot_clock(epoch, index)?;
        }
        // What a kernel does not have cannot differ.
        self.set_content("time.tz_minuteswest", &[], epoch.minutes_west as u64);
        self.set_content("time.tz_dsttime", &[], epoch.dst_time as u64);
        self.set_content("time.hrtimer_res", &[], u64::from(epoch.resolution));
        if let Some(generation) = epoch.generation {
            self.set_content("rng.generation", &[], generation);
        }
        Ok(())
    }

    fn reboot_clock(&self, epoch: &Epoch, index: u64) -> Result<(), Error> {
        let field = |name: &str| self.require(&format!("time.clock[].{name}"), &[index]);
        let (sequence, last) = (field("seq")?, field("cycle_last")?);
        let (mult, shift) = (field("mult")?, field("shift")?);
        let room = (mult.load() as u32).leading_zeros();
        let doublings = epoch.doublings.min(room);
        let scale = Scale {
            before: shift.load() as u32,
            elapsed: i128::from(epoch.earlier) * i128::from(mult.load()),
            doublings,
        };
        let count = self.symtab.array("time.clock[].basetime");
        for id in 0..count.map_or(0, |array| array.1) {
            self.reboot_base(epoch, &scale, index, id)?;
        }
        sequence.store(sequence.load().wrapping_add(2 * u64::from(epoch.updates)));
        last.store(last.load().wrapping_sub(epoch.earlier));
        mult.store(mult.load() << doublings);
        shift.store(shift.load() + u64::from(doublings));
        // Only newer kernels have it.
        if let Some(most) = self.content("time.clock[].max_cycles", &[index]) {
            most.store(most.load() >> doublings);
        }
        Ok(())
    }

    fn reboot_base(&self, epoch: &Epoch, scale: &Scale, index: u64, id: u64) -> Result<(), Error> {
        let part = |name: &str| format!("time.clock[].basetime[].{name}");
        let seconds = self.require(&part("sec"), &[index, id])?;
        let fraction = self.require(&part("nsec"), &[index, id])?;
        let old = (seconds.load().cast_signed(), fraction.load());
        // No clock is counted from there.
        if old == (0, 0) {
            return Ok(());
        }
        let new = match self.is_shifted(&part("nsec"), id) {
            true => scale.shifted(old, epoch.ahead(id)),
            false => scale.plain(old, epoch.ahead(id)),
        };
        seconds.store(new.0.cast_unsigned());
        fraction.store(new.1);
        Ok(())
    }

    /// Whether the nanoseconds of a base are kept shifted: version 1 of the symbol, and no coarse
    /// clock.
    fn is_shifted(&self, name: &str, id: u64) -> bool {
        let version = self.symtab.get(name).map_or(1, |symbol| symbol.version);
        version == 1 && !super::copy::COARSE.contains(&id)
    }

    /// Reads a field where readers find what it holds: in a time namespace that is another page
    /// than the one its symbol names. `None` if there is no such field.
    pub fn get_content(&self, name: &str, indices: &[u64]) -> Option<u64> {
        self.content(name, indices).map(OwnWord::load)
    }

    /// Overwrites a field where readers find what it holds, until it is next updated; `false` if
    /// there is no such field.
    pub fn set_content(&self, name: &str, indices: &[u64], value: u64) -> bool {
        let _writing = self.lock();
        let field = self.content(name, indices);
        field.is_some_and(|field| {
            field.store(value);
            true
        })
    }

    fn content(&self, name: &str, indices: &[u64]) -> Option<OwnWord> {
        let mode = self.field("time.clock[].clock_mode", &[0])?;
        let place = Field::new(name, indices).place(&self.symtab)?;
        let place = follow(&self.symtab, place, mode.load() == REDIRECTS)?;
        let offset = self.unit.offset(place.mapping)? + place.offset;
        word::within(&self.region, offset, place.size)
    }

    fn require(&self, name: &str, indices: &[u64]) -> Result<OwnWord, Error> {
        self.content(name, indices).ok_or_else(|| Error::Missing {
            symbol: name.to_owned(),
            kernel: "emulated",
        })
    }
}

/// How one clock's nanoseconds change.
struct Scale {
    /// The shift.
    before: u32,
    /// What the clock had counted since the update that it has now seen earlier: nanoseconds <<
    /// shift.
    elapsed: i128,
    doublings: u32,
}

impl Scale {
    /// A base whose nanoseconds are shifted.
    fn shifted(&self, (seconds, fraction): (i64, u64), ahead: i128) -> (i64, u64) {
        let second = NANOSECONDS << self.before;
        let total = i128::from(seconds) * second + i128::from(fraction) - self.elapsed;
        let total = total + (ahead << self.before);
        let fraction = total.rem_euclid(second) << self.doublings;
        (total.div_euclid(second) as i64, fraction as u64)
    }

    /// A base that has whole nanoseconds.
    fn plain(&self, (seconds, fraction): (i64, u64), ahead: i128) -> (i64, u64) {
        let total = i128::from(seconds) * NANOSECONDS + i128::from(fraction);
        let total = total - (self.elapsed >> self.before) + ahead;
        let fraction = total.rem_euclid(NANOSECONDS);
        (total.div_euclid(NANOSECONDS) as i64, fraction as u64)
    }
}
