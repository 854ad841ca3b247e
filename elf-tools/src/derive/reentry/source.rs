//! Where a thread still has what it had at the entry of its function.

use crate::derive::machine::{Spill, State};
use crate::derive::pool::Pool;
use crate::derive::value::{SetId, Unknown, UnknownId, Value};
use crate::reentry::{Location, Register, Source};

/// Callee-saved registers by the processor's numbers: rbx, rbp, r12 to r15.
pub(super) const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

/// The processor's number of the stack pointer.
pub(super) const RSP: u8 = 4;

/// From the processor's numbers to DWARF's.
const DWARF: [u8; Register::COUNT] = [0, 2, 1, 3, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];

/// Largest factor of an argument of 32 bits: the product does not overflow, so that it can be undone.
const MAX_SCALE: u64 = 1 << 30;

/// The register that the processor calls `number`.
pub(super) fn register(number: u8) -> Register {
    Register(DWARF[usize::from(number)])
}

/// The processor's number of a register.
pub(super) fn number(register: Register) -> u8 {
    let found = DWARF.iter().position(|&dwarf| dwarf == register.0);
    found.unwrap_or(usize::from(register.0)) as u8
}

/// What is known of a thread at one boundary.
#[derive(Clone, Copy)]
pub(super) struct Stopped<'a> {
    pub(super) pool: &'a Pool,
    pub(super) state: &'a State,
}

impl Stopped<'_> {
    /// The value of a set, if there is one only.
    pub(super) fn single(&self, set: SetId) -> Option<&Value> {
        match self.pool.values(set) {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The value of a register, if there is one only.
    pub(super) fn register(&self, number: u8) -> Option<&Value> {
        self.single(self.state.registers[usize::from(number)])
    }

    /// Whether a register still holds what it held at the entry.
    pub(super) fn is_in_place(&self, number: u8, is_low: bool) -> bool {
        let unknown = self
            .register(number)
            .and_then(Value::as_unknown)
            .map(|id| self.pool.unknown_of(id));
        match unknown {
            Some(Unknown::Initial(of)) => of == number,
            Some(Unknown::Low(half) | Unknown::Signed(half)) if is_low => {
                self.pool.unknown_of(half) == Unknown::Initial(number)
            }
            _ => false,
        }
    }

    /// Where the initial value of a register is: unchanged if possible, else as part of another number.
    pub(super) fn initial(&self, number: u8, is_low: bool) -> Option<Source> {
        let wanted = |id: UnknownId| match self.pool.unknown_of(id) {
            Unknown::Initial(of) => of == number,
            Unknown::Low(half) | Unknown::Signed(half) if is_low => {
                self.pool.unknown_of(half) == Unknown::Initial(number)
            }
            _ => false,
        };
        let is_whole = |id: UnknownId| matches!(self.pool.unknown_of(id), Unknown::Initial(_));
        self.best(|value| {
            let (scale, unknown) = inverted(value, &wanted)?;
            // A whole number times anything may have lost its upper bits; so may the lower half of one, unless it was cut
            // off before.
            let exact = match is_whole(unknown) {
                true => scale.unsigned_abs() == 1,
                false => scale.unsigned_abs() <= MAX_SCALE,
            };
            exact.then_some((scale, is_low))
        })
    }

    /// Where the stack pointer of the entry is.
    pub(super) fn entry_stack(&self) -> Option<Source> {
        let is_stack = |id: UnknownId| self.pool.unknown_of(id) == Unknown::Stack;
        let found = self.best(|value| {
            let (scale, _) = inverted(value, &is_stack)?;
            (scale == 1).then_some((1, false))
        });
        found.filter(|source| source.image == 0)
    }

    /// The simplest of all places whose only value can be turned into what is wanted: `matches` tells the factor, and
    /// whether the lower half is enough.
    fn best(&self, matches: impl Fn(&Value) -> Option<(i64, bool)>) -> Option<Source> {
        let source = |value: &Value, location: Location| {
            let (scale, low) = matches(value)?;
            Some(Source {
                location,
                image: value.base,
                constant: value.constant,
                scale,
                low,
            })
        };
        let registers = (0..Register::COUNT as u8).filter_map(|number| {
            let location = Location::Register(register(number));
            source(self.register(number)?, location)
        });
        let spills = self.state.stack.iter().filter_map(|spill| {
            let value = self.single(spill.set)?;
            let (_, low) = matches(value)?;
            let is_enough = spill.size == 8 || (low && spill.size == 4 && value.base == 0);
            let location = self.location(spill)?;
            source(value, location).filter(|_| is_enough)
        });
        let cost = |source: &Source| {
            (
                source.image != 0,
                source.scale != 1,
                source.constant != 0,
                matches!(source.location, Location::Memory { .. }),
            )
        };
        registers.chain(spills).min_by_key(cost)
    }

    /// A place on the stack by a register that points near it: the stack pointer if possible.
    fn location(&self, spill: &Spill) -> Option<Location> {
        self.stack_location(spill.base, spill.offset)
    }

    pub(super) fn stack_location(&self, base: UnknownId, offset: i64) -> Option<Location> {
        let order = std::iter::once(RSP).chain((0..Register::COUNT as u8).filter(|&n| n != RSP));
        order.into_iter().find_map(|number| {
            let value = self.register(number)?;
            let [term] = value.terms[..] else {
                return None;
            };
            let points = value.base == 0 && term.unknown == base && term.coefficient == 1;
            points.then(|| Location::Memory {
                base: register(number),
                offset: offset - value.constant,
            })
        })
    }

    /// The place on the stack that a value is the address of.
    pub(super) fn place(&self, value: &Value) -> Option<(UnknownId, i64)> {
        let [term] = value.terms[..] else {
            return None;
        };
        let points = value.base == 0 && term.coefficient == 1 && self.pool.is_stack(term.unknown);
        points.then_some((term.unknown, value.constant))
    }

    /// What was saved in exactly that place.
    pub(super) fn saved(&self, base: UnknownId, offset: i64) -> Option<SetId> {
        let exact = |spill: &&Spill| (spill.base, spill.offset, spill.size) == (base, offset, 8);
        self.state.stack.iter().find(exact).map(|spill| spill.set)
    }
}

/// The factor and the unknown, if a value is one wanted unknown times a factor, plus what is known.
fn inverted(value: &Value, wanted: &impl Fn(UnknownId) -> bool) -> Option<(i64, UnknownId)> {
    match value.terms[..] {
        [term] if wanted(term.unknown) && term.coefficient != 0 => {
            Some((term.coefficient, term.unknown))
        }
        _ => None,
    }
}
