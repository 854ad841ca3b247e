//! From accesses to relocations.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::attribute::{Meaning, Vvar};
use super::fixpoint::Analysis;
use super::machine::Access;
use super::value::{ConstantId, Value};
use crate::Svma;
use crate::image::Image;
use crate::reachability::Code;
use crate::relocation::{
    Constraint, Kind, Need, Opaque, OpaqueReason, OperandField, Relocation, Relocations,
    RightHandSide, Term, Width,
};
use crate::symtab::name::{Reference, VersionedName};

/// Symbols, or all that begin with a dot at the end, that read 0 where a kernel lacks them;
/// `docs/abi.md`, section 3.
const DEFAULTS: [&str; 6] = [
    // Every distance counts as one that could overflow.
    "time.clock[].max_cycles",
    "timens.clock[].max_cycles",
    "rng.is_ready",
    // Not read as long as `is_ready` is 0.
    "rng.generation",
    // Not read unless `clock_mode` asks for them, which a kernel without them never does.
    "pvclock.",
    "hvclock.",
];

/// An access with one of its addresses, in terms of the image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Site {
    at: u32,
    value: Value,
    size: u32,
    writes: bool,
}

/// A constraint, in terms of constants: site, right-hand side, need, addend, and constants with
/// coefficients.
type Stated = (u32, RightHandSide, u32, i64, Vec<(ConstantId, i64)>);

/// The table while it is made.
pub(super) struct Table<'a> {
    image: &'a Image,
    code: &'a Code,
    vvar: &'a Vvar<'a>,
    sites: BTreeSet<Site>,
    pinned: BTreeSet<ConstantId>,
    opaque: BTreeMap<u32, OpaqueReason>,
    needs: Vec<Need>,
    need_indices: FxHashMap<VersionedName, u32>,
    constraints: BTreeSet<Stated>,
}

impl<'a> Table<'a> {
    pub(super) fn new(image: &'a Image, code: &'a Code, vvar: &'a Vvar<'a>) -> Self {
        Self {
            image,
            code,
            vvar,
            sites: BTreeSet::new(),
            pinned: BTreeSet::new(),
            opaque: BTreeMap::new(),
            needs: Vec::new(),
            need_indices: FxHashMap::default(),
            constraints: BTreeSet::new(),
        }
    }

    /// Adds what was found out about one function.
    pub(super) fn add(&mut self, analysis: Analysis) {
        let Analysis { pool, findings, .. } = analysis;
        self.pinned.extend(&findings.pinned);
        self.opaque.extend(findings.opaque);
        for access in &findings.accesses {
            for value in pool.values(access.address) {
                let is_stack = value.base == 0 && value.stack(&pool).is_some();
                if !is_stack {
                    self.address(access, value);
                }
            }
        }
    }

    /// Something is read or written at `value`.
    fn address(&mut self, access: &Access, value: &Value) {
        let in_image = |address: i64| {
            u64::try_from(address).is_ok_and(|address| address < self.image.bytes().len() as u64)
        };
        if value.base == 0
            || (value.base == 1 && value.terms.is_empty() && in_image(value.constant))
        {
            // What else these constants are used for must not change.
            self.pinned.extend(value.constants());
            return;
        }
        // Unknowns are numbered by function; which one it is does not matter, only what it is
        // multiplied by.
        let mut value = value.clone();
        for term in &mut value.terms {
            term.unknown = 0;
        }
        self.sites.insert(Site {
            at: access.at,
            value,
            size: access.size,
            writes: access.writes,
        });
    }

    pub(super) fn finish(mut self) -> Relocations {
        for site in std::mem::take(&mut self.sites) {
            if let Err(reason) = self.site(&site) {
                self.opaque.entry(site.at).or_insert(reason);
            }
        }
        self.check_left_over();
        self.relocations()
    }

    /// States what an access means.
    fn site(&mut self, site: &Site) -> Result<(), OpaqueReason> {
        if site.writes {
            return Err(OpaqueReason::Written);
        }
        if site.value.base != 1 {
            return Err(OpaqueReason::AddressesAdded);
        }
        for meaning in self.vvar.meaning(&site.value, site.size)? {
            self.meaning(site, &meaning)?;
        }
        Ok(())
    }

    fn meaning(&mut self, site: &Site, meaning: &Meaning) -> Result<(), OpaqueReason> {
        let need = self.need(&meaning.name, meaning.size);
        let mut terms = Vec::with_capacity(site.value.provenance.len());
        let mut fixed = site.value.constant;
        for &(constant, coefficient) in &site.value.provenance {
            if !self.pinned.contains(&constant) {
                let (_, value) = self.constant(constant);
                fixed = fixed.wrapping_sub(value.wrapping_mul(coefficient));
                terms.push((constant, coefficient));
            }
        }
        if terms.is_empty() {
            return Err(OpaqueReason::FixedAddress(meaning.name.to_string()));
        }
        let addend = meaning.within.wrapping_sub(fixed);
        self.constraints
            .insert((site.at, RightHandSide::Address, need, addend, terms));
        for indexed in &meaning.indexed {
            let element = format!("{}[]", indexed.array);
            for (name, right_hand_side) in [
                (&indexed.array, RightHandSide::Presence),
                (&element, RightHandSide::Size),
            ] {
                let Some(symbol) = self.vvar.symbol(name) else {
                    return Err(OpaqueReason::NoSize(name.clone()));
                };
                let need = self.need(
                    &VersionedName {
                        version: symbol.version,
                        ..VersionedName::first(name)
                    },
                    symbol.size,
                );
                let scale = indexed.scale.filter(|scale| {
                    right_hand_side == RightHandSide::Size && !self.pinned.contains(scale)
                });
                let (addend, terms) = match (right_hand_side, scale) {
                    (RightHandSide::Size, None) => (-indexed.stride, Vec::new()),
                    (_, scale) => (0, scale.into_iter().map(|scale| (scale, 1)).collect()),
                };
                self.constraints
                    .insert((site.at, right_hand_side, need, addend, terms));
            }
        }
        Ok(())
    }

    /// The number of a need.
    fn need(&mut self, name: &VersionedName, size: u64) -> u32 {
        if let Some(&index) = self.need_indices.get(name) {
            return index;
        }
        let has_default = DEFAULTS.iter().any(|&symbol| match symbol.ends_with('.') {
            true => name.name.starts_with(symbol),
            false => name.name == symbol,
        });
        self.needs.push(Need {
            reference: Reference::Place(name.clone()),
            size,
            default: has_default.then(|| vec![0; size as usize]),
        });
        let index = self.needs.len() as u32 - 1;
        self.need_indices.insert(name.clone(), index);
        index
    }

    /// A constant of the code, and its value.
    fn constant(&self, constant: ConstantId) -> (OperandField, i64) {
        let instruction = &self.code.instructions()[(constant / 2) as usize];
        let field = match constant % 2 {
            0 => instruction.displacement,
            _ => instruction.immediate,
        };
        let place = instruction.address.offset(i64::from(field.offset));
        let bytes = self.image.bytes().get(place.index()..).unwrap_or_default();
        let width = match field.size {
            1 => Width::I8,
            4 => Width::I32,
            _ => Width::None,
        };
        let Some(value) = width.get(bytes).filter(|_| width != Width::None) else {
            let place = instruction.address;
            let width = Width::None;
            return (OperandField { place, width }, 0);
        };
        (OperandField { place, width }, value)
    }

    /// Every operand that refers to the vvar must be part of something that was stated.
    fn check_left_over(&mut self) {
        let stated: BTreeSet<u32> = self
            .constraints
            .iter()
            .flat_map(|constraint| constraint.4.iter().map(|&(constant, _)| constant / 2))
            .collect();
        let instructions = self.code.instructions();
        let refers = |index: u32| self.vvar.is_referred_to_by(&instructions[index as usize]);
        let mut left_over = BTreeSet::new();
        for function in self.code.functions() {
            // Where something else is not understood, this is only what follows from it.
            let is_known = function.indirect.is_some()
                || function
                    .reached
                    .iter()
                    .any(|index| self.opaque.contains_key(index));
            if !is_known {
                let unstated = |&index: &u32| refers(index) && !stated.contains(&index);
                left_over.extend(function.reached.iter().copied().filter(unstated));
            }
        }
        for index in left_over {
            self.opaque.insert(index, OpaqueReason::NoSymbol);
        }
    }

    fn relocations(self) -> Relocations {
        let mut uses: BTreeMap<ConstantId, u32> = BTreeMap::new();
        for (_, _, _, _, terms) in &self.constraints {
            for &(constant, _) in terms {
                *uses.entry(constant).or_default() += 1;
            }
        }
        let mut entries = Vec::new();
        let mut constraints = Vec::new();
        for constraint in &self.constraints {
            match self.plain(constraint, &uses) {
                Some(entry) => entries.push(entry),
                None => constraints.push(constraint),
            }
        }
        let constants: BTreeSet<ConstantId> = constraints
            .iter()
            .flat_map(|constraint| constraint.4.iter().map(|&(constant, _)| constant))
            .collect();
        let mut operand_fields: Vec<(OperandField, ConstantId)> = constants
            .into_iter()
            .map(|constant| (self.constant(constant).0, constant))
            .collect();
        operand_fields.sort_unstable();
        let numbers: BTreeMap<ConstantId, u32> = operand_fields
            .iter()
            .zip(0..)
            .map(|((_, id), operand_field)| (*id, operand_field))
            .collect();
        let constraints =
            constraints
                .into_iter()
                .map(|(at, right_hand_side, need, addend, terms)| {
                    let term = |&(constant, coefficient): &(ConstantId, i64)| Term {
                        operand_field: numbers[&constant],
                        coefficient,
                    };
                    let mut terms: Vec<Term> = terms.iter().map(term).collect();
                    terms.sort_unstable();
                    Constraint {
                        site: self.address_of(*at),
                        right_hand_side: *right_hand_side,
                        need: *need,
                        addend: *addend,
                        terms,
                    }
                });
        let mut constraints: Vec<Constraint> = constraints.collect();
        entries.sort_by_key(|entry: &Relocation| entry.place);
        let needs = in_order_of_use(&self.needs, &mut entries, &mut constraints);
        let opaque = self.opaque.iter().map(|(&at, reason)| Opaque {
            site: self.address_of(at),
            reason: reason.clone(),
        });
        Relocations {
            entries,
            operand_fields: operand_fields
                .into_iter()
                .map(|(operand_field, _)| operand_field)
                .collect(),
            constraints,
            opaque: opaque.collect(),
            needs,
        }
    }

    fn address_of(&self, index: u32) -> Svma {
        self.code.instructions()[index as usize].address
    }

    /// The ordinary relocation that says the same as a constraint: that of a PC-relative operand
    /// which nothing else depends on.
    fn plain(&self, constraint: &Stated, uses: &BTreeMap<ConstantId, u32>) -> Option<Relocation> {
        let (at, RightHandSide::Address, need, addend, [(constant, 1)]) = (
            constraint.0,
            constraint.1,
            constraint.2,
            constraint.3,
            &constraint.4[..],
        ) else {
            return None;
        };
        let operand_field = self.constant(*constant).0;
        let own = constant / 2 == at && uses.get(constant) == Some(&1);
        (own && operand_field.width == Width::I32).then(|| Relocation {
            place: operand_field.place,
            kind: Kind::Pc32,
            need,
            // S + A - P is to be S - B + addend, and P is B plus the place.
            addend: addend.wrapping_add(operand_field.place.signed()),
        })
    }
}

/// Numbers needs as they are first used, as a reader of the written table does, and leaves out what
/// nothing uses.
fn in_order_of_use(
    needs: &[Need],
    entries: &mut [Relocation],
    constraints: &mut [Constraint],
) -> Vec<Need> {
    let mut numbers = vec![None; needs.len()];
    let mut used = Vec::with_capacity(needs.len());
    let entries = entries.iter_mut().map(|entry| &mut entry.need);
    for need in entries.chain(
        constraints
            .iter_mut()
            .map(|constraint| &mut constraint.need),
    ) {
        let old = *need as usize;
        *need = *numbers[old].get_or_insert_with(|| {
            used.push(needs[old].clone());
            used.len() as u32 - 1
        });
    }
    used
}
