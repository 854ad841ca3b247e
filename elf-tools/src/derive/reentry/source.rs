//! Where a thread still has what it had at the entry of its function.

use crate::arch::Arch;
use crate::derive::held::Kept;
use crate::derive::machine::{Spill, State};
use crate::derive::pool::Pool;
use crate::derive::value::{SetId, Unknown, UnknownId, Value};
use crate::reentry::{Location, Register, Source};

/// Largest factor of an argument of 32 bits: the product does not overflow, so that it can be
/// undone.
const MAX_SCALE: u64 = 1 << 30;

/// What is known of a thread at one boundary.
#[derive(Clone, Copy)]
pub(super) struct Stopped<'a> {
    pub(super) arch: &'static dyn Arch,
    pub(super) pool: &'a Pool,
    pub(super) state: &'a State,
    /// Whether the instruction is a system call. A thread can come back to it to repeat the call,
    /// and the processor has overwritten two registers then.
    pub(super) is_system_call: bool,
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
        self.single(self.set(number)?)
    }

    /// What a register may hold, if that can be relied on.
    fn set(&self, number: u8) -> Option<SetId> {
        let clobbers = self.arch.registers().system_call_clobbers;
        let is_lost = self.is_system_call && clobbers.contains(&self.arch.register(number));
        (!is_lost).then(|| self.state.registers[usize::from(number)])
    }

    /// Whether a register still holds what it held at the entry.
    pub(super) fn is_in_place(&self, number: u8, is_low: bool) -> bool {
        let is_initial = |value: &Value| {
            let unknown = value.as_unknown().map(|id| self.pool.unknown_of(id));
            match unknown {
                Some(Unknown::Initial(of)) => of == number,
                Some(Unknown::Low(half) | Unknown::Signed(half)) if is_low => {
                    self.pool.unknown_of(half) == Unknown::Initial(number)
                }
                _ => false,
            }
        };
        let set = self.set(number);
        set.is_some_and(|set| self.pool.values(set).iter().all(is_initial))
    }

    /// Where the initial value of a register is: unchanged if possible, else as part of another
    /// number.
    pub(super) fn initial(&self, number: u8, is_low: bool) -> Option<Source> {
        let known = self.state.known.iter().find(|k| k.register == number);
        let constant = known.map(|known| Source {
            location: Location::Nowhere,
            image: 0,
            constant: known.number.wrapping_neg(),
            scale: 1,
            low: is_low,
        });
        let found = self.best(|value, location| {
            let [term] = value.terms[..] else {
                return None;
            };
            let scale = term.coefficient;
            let is_exact = match self.pool.unknown_of(term.unknown) {
                // A whole number times anything may have lost its upper bits.
                Unknown::Initial(of) => of == number && scale.unsigned_abs() == 1,
                // So may half of one, but only much later.
                Unknown::Low(half) | Unknown::Signed(half) if is_low => {
                    let of = self.pool.unknown_of(half);
                    of == Unknown::Initial(number)
                        && (1..=MAX_SCALE).contains(&scale.unsigned_abs())
                }
                _ => false,
            };
            is_exact.then_some(Source {
                location,
                image: value.base,
                constant: value.constant,
                scale,
                low: is_low,
            })
        });
        found.or(constant)
    }

    /// Where the stack pointer of the entry is.
    pub(super) fn entry_stack(&self) -> Option<Source> {
        self.best(|value, location| {
            let (unknown, constant) = self.place(value)?;
            let is_entry = self.pool.unknown_of(unknown) == Unknown::Stack;
            is_entry.then_some(Source {
                location,
                image: 0,
                constant,
                scale: 1,
                low: false,
            })
        })
    }

    /// The simplest of all places whose content, whichever of its values that is, can be turned
    /// into what is wanted in one way.
    fn best(&self, source: impl Fn(&Value, Location) -> Option<Source>) -> Option<Source> {
        let one = |set: SetId, location: Location| {
            let mut sources = self
                .pool
                .values(set)
                .iter()
                .map(|value| source(value, location));
            let first = sources.next()??;
            sources.all(|other| other == Some(first)).then_some(first)
        };
        let registers = (0..Register::COUNT as u8).filter_map(|number| {
            let location = Location::Register(self.arch.register(number));
            one(self.set(number)?, location)
        });
        let spills = self.state.stack.iter().filter_map(|spill| {
            let source = one(spill.set, self.location(spill)?)?;
            let is_half = source.low && (source.image, source.scale) == (0, 1);
            (spill.size == 8 || (spill.size == 4 && is_half)).then_some(source)
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
        let first = self.arch.number(self.arch.registers().stack_pointer);
        let rest = (0..Register::COUNT as u8).filter(|&number| number != first);
        let order = std::iter::once(first).chain(rest);
        order.into_iter().find_map(|number| {
            let value = self.register(number)?;
            let [term] = value.terms[..] else {
                return None;
            };
            let points = value.base == 0 && term.unknown == base && term.coefficient == 1;
            points.then(|| Location::Memory {
                base: self.arch.register(number),
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

    /// Which register was saved in exactly that place.
    pub(super) fn kept(&self, base: UnknownId, offset: i64) -> Option<Kept> {
        let exact = |spill: &&Spill| (spill.base, spill.offset, spill.size) == (base, offset, 8);
        self.state.stack.iter().find(exact).map(|spill| spill.kept)
    }
}
