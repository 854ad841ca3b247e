//! Sets of values: what a register may hold, by number, so that states are small and compared
//! quickly.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::value::{ConstantId, Scaled, SetId, Unknown, UnknownId, Value};

/// Most values that a location may have. Stock code stays below 5; beyond the limit a value counts
/// as unknown.
pub(crate) const MAX_VALUES: usize = 10;

/// Most different constants that are kept apart; more are an index of some sort.
const MAX_CONSTANTS: usize = 4;

/// Unknowns and sets of values by number, so that states are small and compared quickly.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    unknowns: Vec<Unknown>,
    unknown_ids: FxHashMap<Unknown, UnknownId>,
    sets: Vec<Vec<Value>>,
    set_ids: FxHashMap<Vec<Value>, SetId>,
    /// Sums that were asked for before.
    constraints: FxHashMap<(SetId, SetId, i64), Option<SetId>>,
    /// Values that an unknown stands for: what they depend on does not show any more.
    hides: FxHashMap<UnknownId, BTreeSet<Value>>,
}

impl Pool {
    pub(crate) fn unknown(&mut self, unknown: Unknown) -> UnknownId {
        *self.unknown_ids.entry(unknown).or_insert_with(|| {
            self.unknowns.push(unknown);
            self.unknowns.len() as UnknownId - 1
        })
    }

    pub(crate) fn unknown_of(&self, id: UnknownId) -> Unknown {
        self.unknowns[id as usize]
    }

    pub(crate) fn is_stack(&self, id: UnknownId) -> bool {
        matches!(
            self.unknown_of(id),
            Unknown::Stack | Unknown::AlignedStack(_)
        )
    }

    /// Whether an unknown is one number as long as the function runs.
    pub(crate) fn is_the_same_always(&self, id: UnknownId) -> bool {
        matches!(
            self.unknown_of(id),
            Unknown::Initial(_) | Unknown::Stack | Unknown::AlignedStack(_)
        )
    }

    /// The number of a set; `values` need not be in order.
    pub(crate) fn set(&mut self, mut values: Vec<Value>) -> SetId {
        values.sort_unstable();
        values.dedup();
        if let Some(&id) = self.set_ids.get(&values) {
            return id;
        }
        let id = self.sets.len() as SetId;
        self.sets.push(values.clone());
        self.set_ids.insert(values, id);
        id
    }

    pub(crate) fn one(&mut self, value: Value) -> SetId {
        self.set(vec![value])
    }

    /// The set of one unknown.
    pub(crate) fn of_unknown(&mut self, unknown: Unknown) -> SetId {
        let id = self.unknown(unknown);
        self.one(Value::unknown(id))
    }

    pub(crate) fn values(&self, set: SetId) -> &[Value] {
        &self.sets[set as usize]
    }

    /// Whether any value of the set has the image's address in it.
    pub(crate) fn has_address(&self, set: SetId) -> bool {
        self.values(set).iter().any(|value| value.base != 0)
    }

    /// Every sum of a value of `left` and `factor` times a value of `right`; `None` where that
    /// cannot be told.
    pub(crate) fn sum(&mut self, left: SetId, right: SetId, factor: i64) -> Option<SetId> {
        if let Some(&known) = self.constraints.get(&(left, right, factor)) {
            return known;
        }
        let constraint = self.new_sum(left, right, factor);
        self.constraints.insert((left, right, factor), constraint);
        constraint
    }

    fn new_sum(&mut self, left: SetId, right: SetId, factor: i64) -> Option<SetId> {
        let mut constraints =
            Vec::with_capacity(self.values(left).len() * self.values(right).len());
        for a in self.values(left) {
            for b in self.values(right) {
                constraints.push(a.plus(b, factor, self)?);
            }
        }
        Some(self.set(constraints))
    }

    /// Every value of `set`, times `factor`.
    pub(crate) fn product(&mut self, set: SetId, factor: i64) -> Option<SetId> {
        let zero = Value::default();
        let products: Option<Vec<Value>> = self
            .values(set)
            .iter()
            .map(|value| zero.plus(value, factor, self))
            .collect();
        Some(self.set(products?))
    }

    /// `set` multiplied by a constant of the code, which stays known as the scale of an unknown.
    pub(crate) fn scaled(
        &mut self,
        set: SetId,
        factor: i64,
        constant: ConstantId,
    ) -> Option<SetId> {
        let product = self.product(set, factor)?;
        let scale = |value: &Value| {
            let plain = value.base == 0 && value.constant == 0 && value.provenance.is_empty();
            let mut value = value.clone();
            if let [term] = &mut value.terms[..]
                && plain
                && term.coefficient == factor
            {
                term.scale = Some(constant);
            }
            value
        };
        let values = self.values(product).iter().map(scale).collect();
        Some(self.set(values))
    }

    /// The lower half of every value, extended by zeros or by the sign; `None` if it is not known
    /// or an address would be cut. Constants of the code in it are added to `hidden`: in a half
    /// they may not change as they like.
    pub(crate) fn narrowed(
        &mut self,
        set: SetId,
        signed: bool,
        hidden: &mut Vec<ConstantId>,
    ) -> Option<SetId> {
        let mut narrowed = Vec::new();
        for value in self.values(set).to_vec() {
            hidden.extend(value.constants());
            narrowed.push(match value.as_unknown() {
                _ if value.base != 0 => return None,
                Some(unknown) => {
                    let whole = match self.unknown_of(unknown) {
                        Unknown::Low(whole) | Unknown::Signed(whole) => whole,
                        _ => unknown,
                    };
                    Value::unknown(self.unknown(match signed {
                        false => Unknown::Low(whole),
                        true => Unknown::Signed(whole),
                    }))
                }
                None if value.terms.is_empty() => Value::constant(match signed {
                    true => i64::from(value.constant as i32),
                    false => i64::from(value.constant as u32),
                }),
                None => return None,
            });
        }
        Some(self.set(narrowed))
    }

    /// Both sets, with numbers that are too many replaced by an unknown. `place` names where they
    /// meet.
    pub(crate) fn merged(&mut self, left: SetId, right: SetId, place: Unknown) -> Merge {
        if left == right {
            return Merge::Set(left);
        }
        let known = self.values(left);
        if self.values(right).iter().all(|value| known.contains(value)) {
            return Merge::Set(left);
        }
        let mut values = self.values(left).to_vec();
        values.extend_from_slice(self.values(right));
        values.sort_unstable();
        values.dedup();
        let (numbers, mut rest): (Vec<_>, Vec<_>) =
            values.into_iter().partition(|value| value.is_number(self));
        let constants = numbers.iter().all(|number| number.terms.is_empty());
        let few = constants && numbers.len() <= MAX_CONSTANTS;
        if numbers.len() <= 1 || few || self.are_of_one_register(&numbers) {
            rest.extend(numbers);
        } else {
            rest.push(self.collapsed(numbers, place));
        }
        if rest.len() > MAX_VALUES {
            return Merge::TooMany;
        }
        Merge::Set(self.set(rest))
    }

    /// Whether all of these are what one register held at the entry, as a whole or its lower half.
    fn are_of_one_register(&self, numbers: &[Value]) -> bool {
        let mut registers = numbers
            .iter()
            .map(|number| self.initial(number.as_unknown()?));
        match registers.next() {
            Some(Some(first)) => registers.all(|register| register == Some(first)),
            _ => false,
        }
    }

    /// The register whose initial value, or half of it, an unknown is.
    fn initial(&self, id: UnknownId) -> Option<u8> {
        match self.unknown_of(id) {
            Unknown::Initial(register) => Some(register),
            Unknown::Low(whole) | Unknown::Signed(whole) => self.initial(whole),
            _ => None,
        }
    }

    /// One value for many numbers: an unknown, with what is common to all of them.
    fn collapsed(&mut self, numbers: Vec<Value>, place: Unknown) -> Value {
        let unknown = self.unknown(place);
        let first = &numbers[0];
        let terms = || numbers.iter().flat_map(|number| &number.terms);
        let divisor = terms().fold(0, |d, term| gcd(d, term.coefficient.unsigned_abs()));
        let divisor = i64::try_from(divisor).unwrap_or(0);
        let alike = numbers
            .iter()
            .all(|n| (n.constant, &n.provenance) == (first.constant, &first.provenance));
        let common = match divisor > 1 && alike {
            true => Value {
                terms: vec![Scaled {
                    unknown,
                    coefficient: divisor,
                    scale: None,
                }],
                ..first.clone()
            },
            false => Value::unknown(unknown),
        };
        // What is common shows still; an unknown does not hide itself.
        let hidden = numbers.into_iter().map(|mut number| {
            if divisor > 1 && alike {
                number.provenance.clear();
            }
            number.terms.retain(|term| term.unknown != unknown);
            number
        });
        let hidden: Vec<Value> = hidden.collect();
        self.hides.entry(unknown).or_default().extend(hidden);
        common
    }

    /// One unknown for everything in a set.
    pub(crate) fn forgotten(&mut self, sets: [SetId; 2], place: Unknown) -> SetId {
        let unknown = self.unknown(place);
        let values: Vec<Value> = sets
            .into_iter()
            .flat_map(|set| self.values(set).to_vec())
            .filter(|value| value.as_unknown() != Some(unknown))
            .collect();
        self.hides.entry(unknown).or_default().extend(values);
        self.one(Value::unknown(unknown))
    }

    /// All constants of the code that these unknowns depend on without showing it.
    pub(crate) fn hidden_constants(&self, used: &BTreeSet<UnknownId>) -> BTreeSet<ConstantId> {
        let mut constants = BTreeSet::new();
        let mut seen = used.clone();
        let mut pending: Vec<UnknownId> = used.iter().copied().collect();
        while let Some(id) = pending.pop() {
            let mut next: Vec<UnknownId> = Vec::new();
            if let Unknown::Low(whole) | Unknown::Signed(whole) = self.unknown_of(id) {
                next.push(whole);
            }
            for value in self.hides.get(&id).into_iter().flatten() {
                constants.extend(value.constants());
                next.extend(value.terms.iter().map(|term| term.unknown));
            }
            pending.extend(next.into_iter().filter(|&unknown| seen.insert(unknown)));
        }
        constants
    }
}

/// What came of merging two sets.
pub(crate) enum Merge {
    Set(SetId),
    /// More values than can be followed.
    TooMany,
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
