//! What one field of the emulated kernel is filled with.

use super::live::Live;
use super::place::{Field, FieldPlace};
use super::word::{OwnWord, Word};
use super::{ClockMode, Error};

/// `CLOCK_REALTIME_COARSE` and `CLOCK_MONOTONIC_COARSE`, whose nanoseconds no kernel keeps shifted.
pub(super) const COARSE: [u64; 2] = [5, 6];

/// The mask of a counter that uses all of its bits, as the processor's does.
const WHOLE: u64 = u64::MAX;

/// A field, and where its value comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) target: OwnWord,
    source: Source,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// The running kernel has it.
    Live(Word, Change),
    /// The running kernel does not.
    Constant(u64),
}

/// What becomes of a value on the way.
#[derive(Debug, Clone, Copy)]
enum Change {
    None,
    /// The processor's counter becomes another clock source.
    Mode(ClockMode),
    /// That clock source counts this far ahead.
    Ahead(u64),
    /// Nanoseconds become nanoseconds << shift.
    Shift(Word),
    /// Nanoseconds << shift become nanoseconds.
    Unshift(Word),
}

impl Copied {
    /// A field that has the same value in both kernels.
    pub(super) fn plain(target: OwnWord, source: Word) -> Self {
        let source = Source::Live(source, Change::None);
        Self { target, source }
    }

    /// A field that the running kernel does not have.
    pub(super) fn constant(target: OwnWord, value: u64) -> Self {
        let source = Source::Constant(value);
        Self { target, source }
    }

    /// A field of the time page, or of the page after redirection. `place` is where the emulated
    /// kernel has it, and `clock_mode` how its clocks count; `None` for a page whose clocks are not
    /// read.
    ///
    /// What the running kernel lacks gets a value with which code takes a path that is right
    /// without it: no largest delta (0: the multiplication that cannot overflow), the whole counter
    /// as its mask, and 0 for anything else, which is no correction, no state, or an element that
    /// only the emulated kernel has.
    pub(super) fn time(
        field: &Field,
        (place, target): (FieldPlace<'_>, OwnWord),
        live: &Live<'_>,
        clock_mode: Option<ClockMode>,
    ) -> Result<Self, Error> {
        let name = field.element().map_or("", |(_, _, rest)| rest);
        let Some(source) = field.place(live.symtab()) else {
            let value = if name == "mask" { WHOLE } else { 0 };
            return Ok(Self::constant(target, value));
        };
        let change = match (name, clock_mode) {
            _ if source.version != place.version => converted(field, source, place, live)?,
            ("clock_mode", Some(mode)) => Change::Mode(mode),
            ("cycle_last", Some(mode)) => Change::Ahead(mode.ahead()),
            _ => Change::None,
        };
        let source = Source::Live(live.word_at(&field.name, source)?, change);
        Ok(Self { target, source })
    }

    /// Reads the value that the field is to have.
    pub(super) fn load(&self) -> u64 {
        match self.source {
            Source::Constant(value) => value,
            Source::Live(word, change) => change.of(word.load()),
        }
    }

    /// Copies the value, in no order with anything else.
    pub(super) fn copy(&self) {
        self.target.store(self.load());
    }
}

impl Change {
    fn of(self, value: u64) -> u64 {
        match self {
            Self::None => value,
            Self::Mode(mode) if value == u64::from(ClockMode::COUNTER.number()) => {
                u64::from(mode.number())
            }
            Self::Mode(_) => value,
            Self::Ahead(cycles) => value.wrapping_add(cycles),
            // A shift is below 32; a torn one must not stop the program; the reader throws it away.
            Self::Shift(by) => value.wrapping_shl(by.load() as u32),
            Self::Unshift(by) => value.wrapping_shr(by.load() as u32),
        }
    }
}

/// The conversion between two semantic versions, of which one is known: version 2 of a base is not
/// shifted.
fn converted(
    field: &Field,
    running: FieldPlace<'_>,
    emulated: FieldPlace<'_>,
    live: &Live<'_>,
) -> Result<Change, Error> {
    let refused = || Error::Semantics {
        symbol: field.name.clone(),
        running: running.version,
        emulated: emulated.version,
    };
    let (array, index, rest) = field.element().ok_or_else(refused)?;
    let shift = Field::new(format!("{array}[].shift"), &[index]);
    let is_coarse = field.indices.get(1).is_some_and(|id| COARSE.contains(id));
    match (rest, running.version, emulated.version) {
        ("basetime[].nsec", 1, 2) | ("basetime[].nsec", 2, 1) if is_coarse => Ok(Change::None),
        ("basetime[].nsec", 1, 2) => Ok(Change::Unshift(live.require(&shift)?)),
        ("basetime[].nsec", 2, 1) => Ok(Change::Shift(live.require(&shift)?)),
        _ => Err(refused()),
    }
}
