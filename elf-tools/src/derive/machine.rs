//! The abstract state of a thread, and what instructions of any architecture do to it.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashSet;

use super::held::{Calls, Kept};
use super::pool::{MAX_VALUES, Merge, Pool};
use super::value::{ConstantId, SetId, Unknown, UnknownId, Value};
use crate::relocation::OpaqueReason;

/// Room for the registers of any architecture, condition flags included.
pub(crate) const REGISTERS: usize = 34;

/// Most places of the stack that are followed. Stock functions save some 20.
const MAX_SPILLS: usize = 256;

/// Bytes of a general register.
const REGISTER_SIZE: u32 = 8;

/// Something saved on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spill {
    /// The stack pointer that the place is relative to.
    pub(crate) base: UnknownId,
    pub(crate) offset: i64,
    pub(crate) size: u32,
    pub(crate) set: SetId,
    /// Which register was saved there, as its caller had it.
    pub(crate) kept: Kept,
}

impl Spill {
    /// Whether both are the same place.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        (self.base, self.offset, self.size) == (other.base, other.offset, other.size)
    }

    fn overlaps(&self, base: UnknownId, offset: i64, size: u32) -> bool {
        self.base == base
            && self.offset < offset.saturating_add(size.into())
            && offset < self.offset.saturating_add(self.size.into())
    }
}

/// What every register and every saved place may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) registers: [SetId; REGISTERS],
    /// Since which calls nothing has been written to each register.
    pub(crate) untouched: [Calls; REGISTERS],
    /// By base and offset.
    pub(crate) stack: Vec<Spill>,
    /// What registers held at the entry, where the code has found out by comparing.
    pub(crate) known: Vec<Known>,
}

impl State {
    /// The state at the entry of a function, where registers hold these.
    pub(crate) fn at_entry(registers: [SetId; REGISTERS]) -> Self {
        let mut state = Self {
            registers,
            untouched: [Calls::default(); REGISTERS],
            stack: Vec::new(),
            known: Vec::new(),
        };
        state.enter(0);
        state
    }

    /// The call at that depth is made.
    pub(crate) fn enter(&mut self, depth: u32) {
        self.leave(depth);
        for calls in &mut self.untouched {
            *calls = calls.with(depth);
        }
    }

    /// The call at that depth returns.
    pub(crate) fn leave(&mut self, depth: u32) {
        for calls in &mut self.untouched {
            *calls = calls.without(depth);
        }
        for spill in &mut self.stack {
            spill.kept = spill.kept.without(depth);
        }
    }
}

/// That a register held this number at the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Known {
    pub(crate) register: u8,
    pub(crate) number: i64,
}

/// What a branch says about the entry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Learned {
    pub(crate) taken: Option<Known>,
    pub(crate) not_taken: Option<Known>,
}

/// An instruction's access to memory that is not the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Access {
    /// Index of the instruction.
    pub(crate) at: u32,
    /// The addresses.
    pub(crate) address: SetId,
    /// Bytes.
    pub(crate) size: u32,
    pub(crate) writes: bool,
}

/// What an instruction writes to memory that is not the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Store {
    /// Index of the instruction.
    pub(crate) at: u32,
    /// The addresses.
    pub(crate) address: SetId,
    /// Bytes.
    pub(crate) size: u32,
    /// The values.
    pub(crate) set: SetId,
}

/// What was found out about a function.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) accesses: FxHashSet<Access>,
    /// What it leaves in memory that is not the stack.
    pub(crate) stores: FxHashSet<Store>,
    /// Whether the stack is used in a way that is not understood, or written above the frame: where
    /// return addresses and saved registers are cannot be told then.
    pub(crate) stack_is_lost: bool,
    /// Constants that do something else as well, and so must keep their values.
    pub(crate) pinned: BTreeSet<ConstantId>,
    /// Unknowns that something depends on.
    pub(crate) used: BTreeSet<UnknownId>,
    /// Instructions that are not understood, with the reason.
    pub(crate) opaque: BTreeMap<u32, OpaqueReason>,
}

/// A state that instructions are applied to.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) pool: &'a mut Pool,
    pub(crate) state: State,
    pub(crate) findings: &'a mut Findings,
    /// Index of the instruction that is applied.
    pub(crate) at: u32,
    /// The register that holds condition flags.
    pub(crate) flags: u8,
}

impl Machine<'_> {
    pub(crate) fn read(&self, register: u8) -> SetId {
        self.state.registers[usize::from(register)]
    }

    pub(crate) fn write(&mut self, register: u8, set: SetId) {
        let set = if self.pool.values(set).len() > MAX_VALUES {
            self.consume(set);
            self.computed(register)
        } else {
            set
        };
        self.state.registers[usize::from(register)] = set;
        self.state.untouched[usize::from(register)] = Calls::default();
    }

    /// The instruction has saved all of a register at `address`.
    pub(crate) fn saved(&mut self, address: SetId, register: u8) {
        let calls = self.state.untouched[usize::from(register)];
        if let Some(spill) = self.spill_at(address) {
            spill.kept = match calls == Calls::default() {
                true => Kept::default(),
                false => Kept { register, calls },
            };
        }
    }

    /// The instruction has loaded all of a register from `address`.
    pub(crate) fn restored(&mut self, address: SetId, register: u8) {
        if let Some(&mut Spill { kept, .. }) = self.spill_at(address)
            && kept.register == register
        {
            self.state.untouched[usize::from(register)] = kept.calls;
        }
    }

    /// What is saved in exactly that place, if it has the size of a register.
    fn spill_at(&mut self, address: SetId) -> Option<&mut Spill> {
        let [value] = self.pool.values(address) else {
            return None;
        };
        let (base, offset) = self.stack_place(value)?;
        let place = (base, offset?, REGISTER_SIZE);
        let mut spills = self.state.stack.iter_mut();
        spills.find(|spill| (spill.base, spill.offset, spill.size) == place)
    }

    /// A number that the instruction computes in a way that is not followed.
    pub(crate) fn computed(&mut self, register: u8) -> SetId {
        self.pool.of_unknown(Unknown::Computed(self.at, register))
    }

    pub(crate) fn write_computed(&mut self, register: u8) {
        let set = self.computed(register);
        self.write(register, set);
    }

    /// Condition flags depend on these sets.
    pub(crate) fn set_flags(&mut self, sets: &[SetId]) {
        let values = sets
            .iter()
            .flat_map(|&set| self.pool.values(set).to_vec())
            .collect();
        let set = self.pool.set(values);
        self.state.registers[usize::from(self.flags)] = set;
    }

    /// The instruction decides by the condition flags.
    pub(crate) fn use_flags(&mut self) {
        self.pin(self.read(self.flags));
    }

    /// The exact values matter: constants of the code in them must not change.
    pub(crate) fn pin(&mut self, set: SetId) {
        for value in self.pool.values(set) {
            self.findings.pinned.extend(value.constants());
        }
        self.depend(set);
    }

    /// The instruction has written a part of a register.
    pub(crate) fn write_part(&mut self, register: u8) {
        let set = match self.pool.has_address(self.read(register)) {
            true => self.pool.of_unknown(Unknown::Part(self.at, register)),
            false => self.computed(register),
        };
        self.write(register, set);
    }

    /// Memory is accessed at one of these addresses.
    fn depend_on_address(&mut self, address: SetId) {
        self.depend(address);
        let terms = self.pool.values(address).iter().flat_map(|v| &v.terms);
        let mut unknowns = terms.map(|term| self.pool.unknown_of(term.unknown));
        if unknowns.any(|unknown| matches!(unknown, Unknown::Part(..))) {
            self.opaque(OpaqueReason::AddressComputed);
        }
    }

    /// Something depends on the unknowns in these values.
    fn depend(&mut self, set: SetId) {
        let terms = self.pool.values(set).iter().flat_map(|value| &value.terms);
        self.findings.used.extend(terms.map(|term| term.unknown));
    }

    /// Whatever the instruction makes of the values is not followed.
    pub(crate) fn consume(&mut self, set: SetId) {
        self.pin(set);
        if self.pool.has_address(set) {
            self.opaque(OpaqueReason::AddressComputed);
        }
    }

    /// The stack, or its pointer, is used in a way that is not followed.
    pub(crate) fn lose_stack(&mut self, reason: OpaqueReason) {
        self.findings.stack_is_lost = true;
        self.opaque(reason);
    }

    pub(crate) fn opaque(&mut self, reason: OpaqueReason) {
        self.findings.opaque.entry(self.at).or_insert(reason);
    }

    /// The lower half of `set`; if it cannot be followed, a number that `register` stands for.
    pub(crate) fn narrowed(&mut self, set: SetId, signed: bool, register: u8) -> SetId {
        let mut hidden = Vec::new();
        let narrowed = self.pool.narrowed(set, signed, &mut hidden);
        self.findings.pinned.extend(hidden);
        narrowed.unwrap_or_else(|| {
            self.consume(set);
            self.computed(register)
        })
    }

    /// Either of two sets.
    pub(crate) fn either(&mut self, left: SetId, right: SetId, register: u8) -> SetId {
        let place = Unknown::Computed(self.at, register);
        match self.pool.merged(left, right, place) {
            Merge::Set(set) => set,
            Merge::TooMany => {
                self.consume(left);
                self.consume(right);
                self.computed(register)
            }
        }
    }

    /// What an instruction reads from memory.
    pub(crate) fn load(&mut self, address: SetId, size: u32) -> SetId {
        let mut values = Vec::new();
        let mut elsewhere = false;
        self.depend_on_address(address);
        for value in self.pool.values(address).to_vec() {
            match self.stack_place(&value) {
                Some((base, Some(offset))) => match self.spilled(base, offset, size) {
                    Some(set) => values.extend_from_slice(self.pool.values(set)),
                    None => values.push(self.loaded()),
                },
                Some((base, None)) => {
                    self.check_spills(|spill| spill.base == base);
                    values.push(self.loaded());
                }
                None => {
                    elsewhere = true;
                    values.push(self.loaded());
                }
            }
        }
        if elsewhere {
            self.access(address, size, false);
        }
        self.pool.set(values)
    }

    fn loaded(&mut self) -> Value {
        Value::unknown(self.pool.unknown(Unknown::Loaded(self.at)))
    }

    /// What was saved in exactly that place.
    fn spilled(&mut self, base: UnknownId, offset: i64, size: u32) -> Option<SetId> {
        let exact = |spill: &&Spill| (spill.base, spill.offset, spill.size) == (base, offset, size);
        let found = self.state.stack.iter().find(exact).map(|spill| spill.set);
        if found.is_none() {
            self.check_spills(|spill| spill.overlaps(base, offset, size));
        }
        found
    }

    /// Something reads or overwrites these places in a way that is not followed.
    fn check_spills(&mut self, concerned: impl Fn(&Spill) -> bool) {
        let sets: Vec<SetId> = self
            .state
            .stack
            .iter()
            .filter(|spill| concerned(spill))
            .map(|spill| spill.set)
            .collect();
        for set in sets {
            self.consume(set);
        }
    }

    /// What an instruction writes to memory.
    pub(crate) fn store(&mut self, address: SetId, size: u32, set: SetId) {
        let values = self.pool.values(address).to_vec();
        let is_certain = values.len() == 1;
        self.depend_on_address(address);
        let mut elsewhere = false;
        for value in &values {
            match self.stack_place(value) {
                Some((base, Some(offset))) if is_certain => {
                    self.findings.stack_is_lost |= offset.saturating_add(size.into()) > 0;
                    self.state
                        .stack
                        .retain(|spill| !spill.overlaps(base, offset, size));
                    if self.state.stack.len() == MAX_SPILLS {
                        self.consume(set);
                        continue;
                    }
                    let spill = Spill {
                        base,
                        offset,
                        size,
                        set,
                        kept: Kept::default(),
                    };
                    let at = self
                        .state
                        .stack
                        .partition_point(|other| (other.base, other.offset) < (base, offset));
                    self.state.stack.insert(at, spill);
                }
                Some((base, offset)) => {
                    let concerned = |spill: &Spill| match offset {
                        Some(offset) => spill.overlaps(base, offset, size),
                        None => spill.base == base,
                    };
                    self.check_spills(concerned);
                    self.state.stack.retain(|spill| !concerned(spill));
                    self.consume(set);
                }
                None => elsewhere = true,
            }
        }
        if elsewhere {
            self.consume(set);
            self.access(address, size, true);
            self.findings.stores.insert(Store {
                at: self.at,
                address,
                size,
                set,
            });
        }
    }

    /// The stack pointer that an address is relative to, and its distance if that is known.
    fn stack_place(&self, value: &Value) -> Option<(UnknownId, Option<i64>)> {
        let term = value
            .stack(self.pool)
            .filter(|term| value.base == 0 && term.coefficient == 1)?;
        let exact = value.terms.len() == 1;
        Some((term.unknown, exact.then_some(value.constant)))
    }

    fn access(&mut self, address: SetId, size: u32, writes: bool) {
        self.findings.accesses.insert(Access {
            at: self.at,
            address,
            size,
            writes,
        });
    }

    /// Moves the stack pointer down and saves a register there.
    pub(crate) fn push_register(&mut self, stack_pointer: u8, size: u32, register: u8) {
        self.push(stack_pointer, size, self.read(register));
        self.saved(self.read(stack_pointer), register);
    }

    /// Takes a register from the top of the stack.
    pub(crate) fn pop_register(&mut self, stack_pointer: u8, size: u32, register: u8) {
        let address = self.read(stack_pointer);
        let set = self.pop(stack_pointer, size);
        self.write(register, set);
        self.restored(address, register);
    }

    /// Moves the stack pointer down and saves a value there.
    pub(crate) fn push(&mut self, stack_pointer: u8, size: u32, set: SetId) {
        self.move_stack(stack_pointer, -i64::from(size));
        let address = self.read(stack_pointer);
        self.store(address, size, set);
    }

    /// Takes a value from the top of the stack.
    pub(crate) fn pop(&mut self, stack_pointer: u8, size: u32) -> SetId {
        let address = self.read(stack_pointer);
        let set = self.load(address, size);
        self.move_stack(stack_pointer, size.into());
        set
    }

    fn move_stack(&mut self, stack_pointer: u8, distance: i64) {
        let distance = self.pool.one(Value::constant(distance));
        let moved = self.pool.sum(self.read(stack_pointer), distance, 1);
        let moved = moved.unwrap_or_else(|| self.computed(stack_pointer));
        self.write(stack_pointer, moved);
    }

    /// Forgets what lies below the stack pointer: frames of functions that have returned.
    pub(crate) fn forget_below(&mut self, stack_pointer: u8) {
        let [value] = self.pool.values(self.read(stack_pointer)) else {
            return;
        };
        if let Some((base, Some(offset))) = self.stack_place(value) {
            self.state
                .stack
                .retain(|spill| spill.base != base || spill.offset >= offset);
        }
    }
}
