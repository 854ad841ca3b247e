//! Whether the code that a function has can run on the new kernel.

use elf_tools::Svma;
use elf_tools::reachability::Function;
use elf_tools::relocation::{FunctionUses, Relocations, Width};

use crate::input::Old;

/// Whether a function's own code can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Own {
    /// As it is; why.
    Keep(String),
    /// Relocated.
    Relocate(Relocated),
    /// Not; why.
    No(String),
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

/// A part of a table that cannot be met, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Index into the entries or the constraints of the table.
    pub(crate) index: u32,
    /// In words that name the symbol.
    pub(crate) reason: String,
}

/// What of an image's table cannot be met, whatever values are chosen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures {
    /// Entries, by index.
    pub(crate) entries: Vec<Failure>,
    /// Sums, by index.
    pub(crate) constraints: Vec<Failure>,
}

impl Failures {
    /// The first that costs a function its code.
    fn of(&self, uses: &FunctionUses) -> Option<&Failure> {
        let first = |failures: &'_ [Failure], used: &[u32]| {
            failures
                .iter()
                .position(|failure| used.binary_search(&failure.index).is_ok())
        };
        match first(&self.entries, &uses.entries) {
            Some(position) => Some(&self.entries[position]),
            None => first(&self.constraints, &uses.constraints)
                .map(|position| &self.constraints[position]),
        }
    }
}

/// Decides for every function, by index. The result holds if values are found for all constraints that are used.
pub(crate) fn all(old: &Old, failures: &Failures) -> Vec<Own> {
    let functions = old.code.functions();
    let (Some(relocations), Some(uses)) = (&old.relocations, &old.uses) else {
        let reason = "the image carries no relocation table";
        return vec![Own::No(reason.to_owned()); functions.len()];
    };
    let covered = Covered::of(relocations);
    let decide = |(function, uses)| own(old, relocations, &covered, failures, function, uses);
    functions
        .iter()
        .zip(&uses.by_function)
        .map(decide)
        .collect()
}

fn own(
    old: &Old,
    relocations: &Relocations,
    covered: &Covered<'_>,
    failures: &Failures,
    function: &Function,
    uses: &FunctionUses,
) -> Own {
    if let Some(place) = function.indirect {
        return Own::No(format!("where control goes at {place} cannot be told"));
    }
    if let Some(&index) = uses.opaque.first() {
        let opaque = &relocations.opaque[index as usize];
        return Own::No(format!("{}: {}", opaque.site, opaque.reason));
    }
    if let Some(place) = stray_reference(old, covered, function) {
        return Own::No(format!(
            "{place} refers to memory outside the image, and no relocation covers it"
        ));
    }
    if let Some(failure) = failures.of(uses) {
        return Own::No(failure.reason.clone());
    }
    match uses.len() {
        0 => Own::Keep("it reads no vvar".to_owned()),
        relocations => Own::Relocate(Relocated {
            relocations,
            detours: 0,
            fewest: true,
        }),
    }
}

/// An operand that leaves the image without a relocation would read the old kernel's place for something.
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
    in_sums: Vec<bool>,
}

impl<'a> Covered<'a> {
    fn of(relocations: &'a Relocations) -> Self {
        let mut in_sums = vec![false; relocations.operand_fields.len()];
        for term in relocations
            .constraints
            .iter()
            .flat_map(|constraint| &constraint.terms)
        {
            if let Some(place) = in_sums.get_mut(term.operand_field as usize) {
                *place = true;
            }
        }
        Self {
            relocations,
            in_sums,
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
        operand_field
            .is_some_and(|operand_field| operand_field.width == Width::I32 && self.in_sums[index])
    }
}
