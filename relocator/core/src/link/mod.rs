//! Linking: an old image, a new kernel's symbols and a placement in; bytes and a report out.
//!
//! | step | does |
//! |---|---|
//! | `resolve`, `defaults` | looks each need up in the symbol table, and lays out defaults |
//! | `constraints`, `solve` | chooses new values for the constants that addresses are computed with |
//! | `encode` | stores relocations and constants, with a check of their range |
//! | `detour` | moves instructions whose constants are out of range |
//! | `unwind` | makes call frame information that of the linked code |
//! | [`plan`] | decides about each function, and overwrites entries |
//!
//! Linking neither reads nor writes files or processes, so the same code serves a live process, a
//! checkpoint and a test.

pub(crate) mod constant;
mod constraints;
mod defaults;
mod detour;
mod encode;
mod resolve;
mod solve;

use std::ops::Range;

use elf_tools::image::Image;
use elf_tools::relocation::Relocations;
use elf_tools::{Avma, Svma};

use crate::arch::{self, Arch};
use crate::placement::Placement;
use crate::plan::eligibility::{self, Eligibility, Failures};
use crate::plan::time_namespaces;
use crate::plan::{self, FunctionPlan, OutOfLine, Plans, Policy, Strategy};
use crate::proxy::AT_ONCE;
use crate::reason::Reason;
use crate::threads::{CodeNow, Patch};
use crate::unwind::{self, Changes, Detail, Proxied, Room};
use crate::{Error, Result};

pub use crate::input::{ForcedFunction, New, Old};
pub use crate::threads::Moved;
use constant::Constant;
use defaults::Defaults;
use detour::{Detours, Relocated};
use solve::{Problem, Refusal, Solution};

/// An image that runs on the new kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedImage {
    /// The image's bytes, followed by the copies of defaults that it reads, code that was moved out
    /// of line or has no room at entries, and call frame information. All of it belongs in one
    /// mapping, readable and executable.
    pub bytes: Vec<u8>,
    /// Every distinct exported function, by entry point.
    pub functions: Vec<FunctionPlan>,
    /// Boundaries that are elsewhere now, by where they were. The caller must carry along threads
    /// that were stopped at one.
    pub moved: Vec<Moved>,
    /// The jumps at the ends of detours, and jumps to the new vDSO that have no room at entries: a
    /// thread at `to` is about to go on at `from`, or can.
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
            reentry: None,
        }
    }
}

/// Links `old` to `new` at the given placement.
///
/// # Errors
///
/// [`Error::Architecture`] for an image of an architecture that the linker does not know,
/// [`Error::OtherArchitecture`] for a kernel of another one,
/// [`Error::Refused`] for a function for which no strategy is left, [`Error::Instruction`] if a check
/// after encoding fails.
pub fn link(
    old: &Old,
    new: &New<'_>,
    placement: &Placement,
    policy: Policy,
) -> Result<LinkedImage> {
    link_in_detail(old, new, placement, policy, Detail::default())
}

/// The same, with so much for unwinders.
///
/// # Errors
///
/// As of [`link`].
pub fn link_in_detail(
    old: &Old,
    new: &New<'_>,
    placement: &Placement,
    policy: Policy,
    detail: Detail,
) -> Result<LinkedImage> {
    let image = &old.image;
    let (machine, class) = (image.machine(), image.class());
    let arch = arch::of(machine, class).ok_or(Error::Architecture { machine, class })?;
    let of_new = new.image.map(|new| (new.machine(), new.class()));
    if let Some(new) = of_new.filter(|new| *new != (machine, class)) {
        return Err(Error::OtherArchitecture {
            old: (machine, class),
            new,
        });
    }
    let mut bytes = image.bytes().to_vec();
    let frames = old.frames(arch);
    // Where a function is too short for a change at once, the next link needs the zeros behind the
    // image, which frames of the new vDSO would take.
    let mut exports = image.exports().iter();
    let is_short = exports.any(|export| export.size < AT_ONCE as u64);
    let leads_to = new.image.zip(placement.new_vdso());
    let leads_to = leads_to.filter(|_| !is_short);
    let of_new = leads_to.map_or(0, |(new, _)| Proxied::most(new));
    let room = frames.map(|frames| frames.room(detail, of_new));
    let mut room = room.unwrap_or_default();
    let (eligible, relocated) = match &old.relocations {
        None => (
            eligibility::all(old, &Failures::default(), new.processor),
            Relocated::default(),
        ),
        Some(relocations) => {
            let text = Text {
                room: &mut room,
                bytes: &mut bytes,
            };
            relocate(arch, old, relocations, new, placement, policy, text)?
        }
    };
    let Relocated {
        moved,
        back: mut jumps_back,
        mut pieces,
    } = relocated;
    let outside = OutOfLine::at(room, Svma(bytes.len() as u64));
    let Plans { functions, outside } =
        plan::plan(arch, old, new, &eligible, placement, policy, outside)?;
    for function in &functions {
        if let Some(patch) = &function.patch {
            bytes[function.entry.index()..][..patch.len()].copy_from_slice(patch);
        }
    }
    outside.write(&mut bytes);
    jumps_back.extend(outside.back);
    pieces.extend(outside.pieces);
    let changes = Changes {
        overwritten: functions.iter().filter_map(overwritten).collect(),
        pieces,
        proxied: leads_to.and_then(|(new, at)| proxied(arch, &functions, new, placement, at)),
    };
    let mut elsewhere = None;
    if let Some(frames) = frames.filter(|_| !changes.is_empty()) {
        let name = |at: Svma| name(old, &functions, at);
        let frames = frames.clone();
        elsewhere = frames.update(&changes, detail, &mut bytes, &name);
    }
    if bytes.len() > image.bytes().len() {
        unwind::load_all(&mut bytes, elsewhere.as_ref());
    }
    Ok(LinkedImage {
        bytes,
        functions,
        moved,
        jumps_back,
    })
}

/// What was written over the entry of a function, if anything was.
fn overwritten(function: &FunctionPlan) -> Option<Range<u64>> {
    let patch = function.patch.as_ref()?;
    Some(function.entry.0..function.entry.0 + patch.len() as u64)
}

/// Frames of the new vDSO at `at`, if proxies lead there.
fn proxied(
    arch: &dyn Arch,
    functions: &[FunctionPlan],
    new: &Image,
    placement: &Placement,
    at: Avma,
) -> Option<Proxied> {
    let proxies = functions
        .iter()
        .filter(|one| one.strategy == Strategy::Proxy);
    let export = |one: &FunctionPlan| one.names.iter().find_map(|name| new.export(name));
    let targets = proxies.filter_map(|one| Some(export(one)?.address));
    let targets: Vec<Svma> = targets.collect();
    let distance = at.0.wrapping_sub(placement.image.0).cast_signed();
    let read = || Proxied::read(arch, new, distance, &targets);
    (!targets.is_empty()).then(read).flatten()
}

/// The name of the first function that reaches an instruction.
fn name(old: &Old, functions: &[FunctionPlan], at: Svma) -> String {
    let reaches = |index: &usize| {
        let function = &old.code.functions()[*index];
        let mut reached = old.code.reached(function);
        reached.any(|instruction| instruction.address == at)
    };
    let found = (0..functions.len()).find(reaches);
    found.map_or("", |index| functions[index].name()).to_owned()
}

/// An image that is being linked.
struct Text<'a> {
    /// What is free inside.
    room: &'a mut Room,
    bytes: &'a mut Vec<u8>,
}

/// Relocates what can be relocated and says which functions can run.
fn relocate(
    arch: &'static dyn Arch,
    old: &Old,
    relocations: &Relocations,
    new: &New<'_>,
    placement: &Placement,
    policy: Policy,
    text: Text<'_>,
) -> Result<(Vec<Eligibility>, Relocated)> {
    let Text { room, bytes } = text;
    let mut defaults = Defaults::behind(placement.image, bytes.len());
    let resolved = resolve::all(&relocations.needs, new.symtab, placement, &mut defaults);
    let entries = encode::entries(relocations, &resolved, placement, bytes);
    defaults.append_to(bytes);
    let constants = constant::find(&old.code, old.image.bytes(), &relocations.operand_fields);
    let (totals, constraints) = constraints::totals(relocations, &constants, &resolved, placement);
    let failures = Failures {
        entries,
        constraints,
        unresolved: resolved.into_iter().map(Result::err).collect(),
    };
    let mut eligible = eligibility::all(old, &failures, new.processor);
    time_namespaces::exclude(old, relocations, new.symtab, &mut eligible);
    let mut moved = Relocated::default();
    if policy.keeps_code() && !relocations.constraints.is_empty() {
        let code = CodeConstants {
            arch,
            old,
            relocations,
            constants: &constants,
            totals: &totals,
        };
        moved = code.change(&mut eligible, room, bytes)?;
    }
    Ok((eligible, moved))
}

/// The constants of an image's code and what has to become of them.
struct CodeConstants<'a> {
    arch: &'static dyn Arch,
    old: &'a Old,
    relocations: &'a Relocations,
    constants: &'a [Option<Constant>],
    totals: &'a [Option<i64>],
}

impl CodeConstants<'_> {
    /// Changes them for all functions that can run, and takes functions out for which there is no
    /// way to do it.
    fn change(
        &self,
        eligible: &mut [Eligibility],
        room: &mut Room,
        bytes: &mut Vec<u8>,
    ) -> Result<Relocated> {
        let code = &self.old.code;
        let functions = code.functions();
        let fixed: Vec<usize> = (0..functions.len())
            .filter(|&index| {
                plan::is_known_by_address(self.arch, &self.old.image, functions[index].entry)
            })
            .collect();
        let mut detours = Detours::new(
            self.arch,
            code,
            self.old.image.bytes(),
            self.constants,
            &fixed,
        );
        let (solution, refusals, chosen) = loop {
            let (solution, refusals) = self.solve(eligible, &fixed, &mut detours);
            match detours.choose(&solution.out_of_range) {
                Ok(chosen) => break (solution, refusals, chosen),
                Err(operand_field) => detours.exclude(operand_field),
            }
        };
        for refusal in refusals {
            eligible[refusal.function] = Eligibility::Ineligible(self.reason(refusal));
        }
        let is_out_of_range =
            |operand_field: u32| solution.out_of_range.binary_search(&operand_field).is_ok();
        let (out_of_range, changes): (Vec<_>, Vec<_>) = solution
            .changes
            .iter()
            .copied()
            .partition(|change| is_out_of_range(change.0));
        let operand_fields = &self.relocations.operand_fields;
        encode::constants(
            self.arch,
            operand_fields,
            self.constants,
            code,
            &changes,
            bytes,
        )?;
        let wide: Vec<(Constant, i64)> = out_of_range
            .iter()
            .filter_map(|&(operand_field, value)| {
                Some((self.constants[operand_field as usize]?, value))
            })
            .collect();
        self.count_detours(eligible, &wide, solution.fewest);
        detour::write(self.arch, &chosen, code, &wide, room, bytes)
    }

    fn solve(
        &self,
        eligible: &[Eligibility],
        fixed: &[usize],
        detours: &mut Detours<'_>,
    ) -> (Solution, Vec<Refusal>) {
        let uses = self.old.uses.iter().flat_map(|uses| &uses.by_function);
        let functions: Vec<(usize, &[u32])> = eligible
            .iter()
            .zip(uses)
            .enumerate()
            .filter(|(index, (eligibility, _))| {
                matches!(eligibility, Eligibility::Relocated(_)) && !fixed.contains(index)
            })
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

    /// Why a function cannot have its constants: the first constraint that is to blame.
    fn reason(&self, refusal: Refusal) -> Reason {
        let constraint = &self.relocations.constraints[refusal.constraint as usize];
        let reference = &self.relocations.needs[constraint.need as usize].reference;
        let terms = constraint.terms.iter();
        let operand_fields =
            terms.map(|term| self.relocations.operand_fields[term.operand_field as usize]);
        Reason::Unsolvable {
            reference: reference.to_string(),
            site: constraint.site,
            operand_fields: operand_fields.collect(),
            fault: refusal.fault,
        }
    }

    fn count_detours(&self, eligible: &mut [Eligibility], wide: &[(Constant, i64)], fewest: bool) {
        for (eligibility, function) in eligible.iter_mut().zip(self.old.code.functions()) {
            if let Eligibility::Relocated(relocated) = eligibility {
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
