//! Which functions are eligible: whether their own code can run on the new kernel.

use elf_tools::Svma;
use elf_tools::processor::ProcessorFeatures;
use elf_tools::reachability::Function;
use elf_tools::relocation::{FunctionUses, Opaque, Relocations, Width};

use crate::input::Old;
use crate::reason::{ConstraintFault, Reason, Unresolved};

/// Whether a function's own code can run on the new kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Eligibility {
    /// It can as it is: it reads no vvar.
    Unchanged,
    /// It can when it is relocated.
    Relocated(Relocated),
    /// It cannot.
    Ineligible(Reason),
}

/// What was done to a function's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relocated {
    /// Number of relocations that it uses.
    pub(crate) relocations: usize,
    /// Number of constants in it that are out of line now.
    pub(crate) detours: usize,
    /// Whether it is known that fewer would not do.
    pub(crate) fewest: bool,
}

/// A part of a table that cannot be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Index into the entries or the constraints of the table.
    pub(crate) index: u32,
    /// Why.
    pub(crate) fault: Fault,
}

/// Why a part of a table cannot be met. Names are only looked up for the functions that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its need is not met.
    Unresolved,
    /// Its value does not fit its place.
    OutOfRange(i128),
    /// No values meet it.
    Constraint(ConstraintFault),
}

/// What of an image's table cannot be met, whatever values are chosen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures {
    /// Entries, by index.
    pub(crate) entries: Vec<Failure>,
    /// Constraints, by index.
    pub(crate) constraints: Vec<Failure>,
    /// For each need of the table why it is not met, if it is not.
    pub(crate) unresolved: Vec<Option<Unresolved>>,
}

impl Failures {
    /// The first that costs a function its code, as a reason.
    fn of(&self, uses: &FunctionUses, relocations: &Relocations) -> Option<Reason> {
        let first = |failures: &[Failure], used: &[u32]| {
            let mut failures = failures.iter().copied();
            failures.find(|failure| used.binary_search(&failure.index).is_ok())
        };
        if let Some(Failure { index, fault }) = first(&self.entries, &uses.entries) {
            let entry = &relocations.entries[index as usize];
            let reference = &relocations.needs[entry.need as usize].reference;
            return match fault {
                Fault::OutOfRange(value) => Some(Reason::OutOfRange {
                    reference: reference.to_string(),
                    place: entry.place,
                    value,
                    kind: entry.kind,
                }),
                Fault::Unresolved | Fault::Constraint(_) => self.unresolved(entry.need),
            };
        }
        let Failure { index, fault } = first(&self.constraints, &uses.constraints)?;
        let constraint = &relocations.constraints[index as usize];
        let reference = &relocations.needs[constraint.need as usize].reference;
        match fault {
            Fault::Constraint(fault) => Some(Reason::Constraint {
                reference: reference.to_string(),
                site: constraint.site,
                fault,
            }),
            Fault::Unresolved | Fault::OutOfRange(_) => self.unresolved(constraint.need),
        }
    }

    fn unresolved(&self, need: u32) -> Option<Reason> {
        let unresolved = self.unresolved.get(need as usize)?.clone()?;
        Some(Reason::Unresolved(unresolved))
    }
}

/// Decides for every function, by index. The result holds if values are found for all constraints
/// that are used.
pub(crate) fn all(
    old: &Old,
    failures: &Failures,
    processor: Option<ProcessorFeatures>,
) -> Vec<Eligibility> {
    let functions = old.code.functions();
    let (Some(relocations), Some(uses)) = (&old.relocations, &old.uses) else {
        return vec![Eligibility::Ineligible(Reason::NoTable); functions.len()];
    };
    let covered = Covered::of(relocations);
    let decide = |(function, uses)| {
        let lacking = processor.and_then(|has| lacking(old, has, function));
        match lacking {
            Some(reason) => Eligibility::Ineligible(reason),
            None => one(old, relocations, &covered, failures, function, uses),
        }
    };
    functions
        .iter()
        .zip(&uses.by_function)
        .map(decide)
        .collect()
}

/// The first instruction of a function that a processor cannot execute.
fn lacking(old: &Old, has: ProcessorFeatures, function: &Function) -> Option<Reason> {
    let mut special = old.code.special();
    special.find_map(|(index, instruction)| {
        let lacks = instruction.needs.without(has);
        let is_missing = !lacks.is_empty() && function.reached.binary_search(&index).is_ok();
        let place = instruction.address;
        is_missing.then_some(Reason::Processor { place, lacks })
    })
}

fn one(
    old: &Old,
    relocations: &Relocations,
    covered: &Covered<'_>,
    failures: &Failures,
    function: &Function,
    uses: &FunctionUses,
) -> Eligibility {
    if let Some(place) = function.indirect {
        return Eligibility::Ineligible(Reason::IndirectFlow { place });
    }
    if let Some(&index) = uses.opaque.first() {
        let Opaque { site, reason } = relocations.opaque[index as usize].clone();
        return Eligibility::Ineligible(Reason::Opaque { site, reason });
    }
    if let Some(place) = stray_reference(old, covered, function) {
        return Eligibility::Ineligible(Reason::StrayReference { place });
    }
    if let Some(reason) = failures.of(uses, relocations) {
        return Eligibility::Ineligible(reason);
    }
    match uses.len() {
        0 => Eligibility::Unchanged,
        relocations => Eligibility::Relocated(Relocated {
            relocations,
            detours: 0,
            fewest: true,
        }),
    }
}

/// An operand that leaves the image without a relocation would read the old kernel's place for
/// something.
fn stray_reference(old: &Old, covered: &Covered<'_>, function: &Function) -> Option<Svma> {
    let outside = |target: Svma| target.0 >= old.image.bytes().len() as u64;
    old.code.reached(function).find_map(|instruction| {
        let stray = instruction.target.is_some_and(outside);
        let operand = instruction
            .address
            .offset(i64::from(instruction.displacement.offset));
        (stray && !covered.contains(operand)).then_some(instruction.address)
    })
}

/// The places that a table has something to say about.
struct Covered<'a> {
    relocations: &'a Relocations,
    /// Whether each operand field is in a constraint.
    in_constraints: Vec<bool>,
}

impl<'a> Covered<'a> {
    fn of(relocations: &'a Relocations) -> Self {
        let mut in_constraints = vec![false; relocations.operand_fields.len()];
        for term in relocations
            .constraints
            .iter()
            .flat_map(|constraint| &constraint.terms)
        {
            if let Some(place) = in_constraints.get_mut(term.operand_field as usize) {
                *place = true;
            }
        }
        Self {
            relocations,
            in_constraints,
        }
    }

    /// Whether an entry covers the operand at `place`, or a constraint decides about it.
    fn contains(&self, place: Svma) -> bool {
        if self.relocations.covering(place).is_some() {
            return true;
        }
        let operand_fields = &self.relocations.operand_fields;
        // An absent constant, the first byte of its instruction, is never where a displacement is.
        let index = operand_fields.partition_point(|operand_field| operand_field.place < place);
        let operand_field = operand_fields
            .get(index)
            .filter(|operand_field| operand_field.place == place);
        operand_field.is_some_and(|operand_field| {
            operand_field.width == Width::I32 && self.in_constraints[index]
        })
    }
}
