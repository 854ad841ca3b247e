//! Linking: an old image, a new kernel's symbols and a placement in; bytes and a report out.
//!
//! resolve (each need against the symbol table, defaults laid out) → solve (new values for constants that addresses are
//! constraints of) → encode (entries and constants, range checked) → detour (what does not fit) → plan (each function) → write.
//! Nothing here reads or writes files or processes, so the same code serves a live process, a checkpoint and a test.

mod constant;
mod constraints;
mod defaults;
mod detour;
mod encode;
mod resolve;
mod solve;

use elf_tools::relocation::{Relocations, Width};
use elf_tools::{Class, Machine};

use crate::placement::Placement;
use crate::plan::own::{self, Failures, Own};
use crate::plan::{self, FunctionPlan, Policy, Strategy};
use crate::threads::{CodeNow, Patch};
use crate::{Error, Result};

pub use crate::input::{New, Old, Withheld};
pub use crate::threads::Moved;
use constant::Constant;
use defaults::Defaults;
use detour::{Detours, Relocated};
pub use resolve::Unresolved;
use solve::{Problem, Refusal, Solution};

/// An image that runs on the new kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedImage {
    /// The image's bytes, followed by the copies of defaults that it reads and by code that was moved out of line. All
    /// of it belongs into one mapping, readable and executable.
    pub bytes: Vec<u8>,
    /// Every distinct exported function, by entry point.
    pub functions: Vec<FunctionPlan>,
    /// Boundaries that are elsewhere now, by where they were. Threads that were stopped at one must be carried along.
    pub moved: Vec<Moved>,
    /// The jumps at the ends of detours: a thread at `to` is about to go on at `from`.
    pub jumps_back: Vec<Moved>,
}

impl LinkedImage {
    /// What threads find where this image is.
    pub fn code_now(&self) -> CodeNow {
        let patch = |function: &FunctionPlan| {
            let code = function.patch.clone()?;
            let entry = function.entry;
            Some(Patch { entry, code })
        };
        let mut functions = self.functions.iter();
        CodeNow {
            size: self.bytes.len(),
            is_relocated: functions.any(|function| function.strategy == Strategy::Relocate),
            patches: self.functions.iter().filter_map(patch).collect(),
            moved: self.moved.clone(),
            jumps_back: self.jumps_back.clone(),
        }
    }
}

/// Links `old` to `new` at the given placement.
pub fn link(
    old: &Old,
    new: &New<'_>,
    placement: &Placement,
    policy: Policy,
) -> Result<LinkedImage> {
    let image = &old.image;
    if (image.machine(), image.class()) != (Machine::X86_64, Class::Elf64) {
        let what = format!("a {} image of {:?}", image.machine(), image.class());
        return Err(Error::Unlinkable {
            what,
            reason: "only 64-bit x86-64 images are linked".to_owned(),
        });
    }
    let mut bytes = image.bytes().to_vec();
    let (owns, Relocated { moved, back }) = match &old.relocations {
        None => (own::all(old, &Failures::default()), Relocated::default()),
        Some(relocations) => relocate(old, relocations, new, placement, policy, &mut bytes)?,
    };
    let plans = plan::plan(old, new, &owns, placement, policy)?;
    for function in &plans {
        if let Some(patch) = &function.patch {
            bytes[function.entry.index()..][..patch.len()].copy_from_slice(patch);
        }
    }
    Ok(LinkedImage {
        bytes,
        functions: plans,
        moved,
        jumps_back: back,
    })
}

/// Relocates what can be relocated and says which functions can run.
fn relocate(
    old: &Old,
    relocations: &Relocations,
    new: &New<'_>,
    placement: &Placement,
    policy: Policy,
    bytes: &mut Vec<u8>,
) -> Result<(Vec<Own>, Relocated)> {
    let mut defaults = Defaults::behind(placement.image, bytes.len());
    let resolved = resolve::all(&relocations.needs, new.symtab, placement, &mut defaults);
    let entries = encode::entries(relocations, &resolved, placement, bytes);
    defaults.append_to(bytes);
    let constants = constant::find(&old.code, old.image.bytes(), &relocations.operand_fields);
    let (totals, constraints) = constraints::totals(relocations, &constants, &resolved, placement);
    let mut owns = own::all(
        old,
        &Failures {
            entries,
            constraints,
        },
    );
    let mut moved = Relocated::default();
    if policy.keeps_code() && !relocations.constraints.is_empty() {
        let code = CodeConstants {
            old,
            relocations,
            constants: &constants,
            totals: &totals,
        };
        moved = code.change(&mut owns, bytes)?;
    }
    Ok((owns, moved))
}

/// The constants of an image's code and what has to become of them.
struct CodeConstants<'a> {
    old: &'a Old,
    relocations: &'a Relocations,
    constants: &'a [Option<Constant>],
    totals: &'a [Option<i64>],
}

impl CodeConstants<'_> {
    /// Changes them for all functions that can run, and takes functions out for which there is no way to do it.
    fn change(&self, owns: &mut [Own], bytes: &mut Vec<u8>) -> Result<Relocated> {
        let code = &self.old.code;
        let functions = code.functions();
        let pinned: Vec<usize> = (0..functions.len())
            .filter(|&index| plan::is_pinned(&self.old.image, functions[index].entry))
            .collect();
        let mut detours = Detours::new(code, self.old.image.bytes(), self.constants, &pinned);
        let (solution, refusals, chosen) = loop {
            let (solution, refusals) = self.solve(owns, &pinned, &mut detours);
            match detours.choose(&solution.misfits) {
                Ok(chosen) => break (solution, refusals, chosen),
                Err(operand_field) => detours.bar(operand_field),
            }
        };
        for refusal in refusals {
            owns[refusal.function] = Own::No(self.reason(refusal));
        }
        let is_misfit = |operand_field: u32| solution.misfits.binary_search(&operand_field).is_ok();
        let (misfits, changes): (Vec<_>, Vec<_>) = solution
            .changes
            .iter()
            .copied()
            .partition(|change| is_misfit(change.0));
        let operand_fields = &self.relocations.operand_fields;
        encode::constants(operand_fields, self.constants, code, &changes, bytes)?;
        let wide: Vec<(Constant, i64)> = misfits
            .iter()
            .filter_map(|&(operand_field, value)| {
                Some((self.constants[operand_field as usize]?, value))
            })
            .collect();
        self.count_detours(owns, &wide, solution.fewest);
        detour::write(&chosen, code, &wide, bytes)
    }

    fn solve(
        &self,
        owns: &[Own],
        pinned: &[usize],
        detours: &mut Detours<'_>,
    ) -> (Solution, Vec<Refusal>) {
        let uses = self.old.uses.iter().flat_map(|uses| &uses.by_function);
        let functions: Vec<(usize, &[u32])> = owns
            .iter()
            .zip(uses)
            .enumerate()
            .filter(|(index, (own, _))| matches!(own, Own::Relocate(_)) && !pinned.contains(index))
            .map(|(index, (_, uses))| (index, uses.constraints.as_slice()))
            .filter(|function| !function.1.is_empty())
            .collect();
        let values: Vec<Option<i64>> = self
            .constants
            .iter()
            .map(|constant| constant.map(|constant| constant.value))
            .collect();
        let problem = Problem {
            relocations: self.relocations,
            values: &values,
            totals: self.totals,
            functions: &functions,
        };
        problem.solve(&mut |operand_field| detours.is_possible(operand_field))
    }

    /// Why a function cannot have its constants, in words that name the first constraint that is to blame.
    fn reason(&self, refusal: Refusal) -> String {
        let constraint = &self.relocations.constraints[refusal.constraint as usize];
        let reference = &self.relocations.needs[constraint.need as usize].reference;
        let operand_fields = constraint
            .terms
            .iter()
            .map(|term| self.relocations.operand_fields[term.operand_field as usize]);
        let describe = |width: Width| match width {
            Width::None => "no constant",
            Width::I8 => "1 byte",
            Width::I32 => "4 bytes",
        };
        let places: Vec<String> = operand_fields
            .map(|operand_field| {
                format!(
                    "{} ({})",
                    operand_field.place,
                    describe(operand_field.width)
                )
            })
            .collect();
        format!(
            "`{reference}` at {}: the constants at {} {}",
            constraint.site,
            places.join(", "),
            refusal.fault
        )
    }

    fn count_detours(&self, owns: &mut [Own], wide: &[(Constant, i64)], fewest: bool) {
        for (own, function) in owns.iter_mut().zip(self.old.code.functions()) {
            if let Own::Relocate(relocated) = own {
                let reaches = |(constant, _): &&(Constant, i64)| {
                    function
                        .reached
                        .binary_search(&constant.instruction)
                        .is_ok()
                };
                relocated.detours = wide.iter().filter(reaches).count();
                relocated.fewest = fewest;
            }
        }
    }
}
