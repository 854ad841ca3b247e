//! How each function of an old image goes on.
//!
//! The planner *relocates* a function if the linker can apply all its relocations, *keeps* it if it
//! needs none, and otherwise *proxies* it: its entry becomes a jump to the function of that name in
//! the new vDSO, or a *system call* where the new kernel has none. The planner never guesses; each
//! decision has a [`Reason`].

pub(crate) mod eligibility;
mod out_of_line;
pub(crate) mod time_namespaces;

use std::fmt;

use elf_tools::image::Image;
use elf_tools::reachability::{Code, Function};
use elf_tools::{Avma, Svma};

use crate::arch::{self, Arch};
use crate::input::{New, Old};
use crate::placement::Placement;
use crate::proxy::{AT_ONCE, SystemCall};
pub use crate::reason::{ConstraintFault, Forced, Reason, Refusal, Unresolved, Unsolvable};
use crate::{Error, Result};
use eligibility::Eligibility;
pub(crate) use out_of_line::OutOfLine;

/// What happens to a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// Its code stays as it is.
    Keep,
    /// Its code runs on the new vvar.
    Relocate,
    /// Its entry jumps to the new vDSO.
    Proxy,
    /// Its entry makes the system call.
    Syscall,
}

impl Strategy {
    /// All of them, the best one first.
    pub const ALL: [Self; 4] = [Self::Keep, Self::Relocate, Self::Proxy, Self::Syscall];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Relocate => "relocate",
            Self::Proxy => "proxy",
            Self::Syscall => "syscall",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which strategies may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The best one for each function.
    #[default]
    Auto,
    /// Relocation only: refuse an image of which any function would need another strategy.
    Relocate,
    /// A proxy for each function that the new vDSO has, a system call for others.
    Proxy,
    /// A system call for each function that has one, a proxy for others.
    Syscall,
}

impl Policy {
    /// All of them, the usual one first.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Relocate, Self::Proxy, Self::Syscall];

    /// Its name in reports and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Relocate => "relocate",
            Self::Proxy => "proxy",
            Self::Syscall => "syscall",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The decision for one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionPlan {
    /// Its names, aliases included; `__vdso_` and `__kernel_` names first.
    pub names: Vec<String>,
    /// Entry point.
    pub entry: Svma,
    /// Size in bytes.
    pub size: u64,
    /// What happens to it.
    pub strategy: Strategy,
    /// Why.
    pub reason: Reason,
    /// Number of relocations that it uses.
    pub relocations: usize,
    /// Number of instructions moved out of line because an operand no longer fits.
    pub detours: usize,
    /// What overwrites its entry, if anything does.
    pub patch: Option<Vec<u8>>,
}

impl FunctionPlan {
    /// The name it is reported under.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

impl Policy {
    /// Whether a function whose own code can run on keeps it.
    pub(crate) fn keeps_code(self) -> bool {
        matches!(self, Self::Auto | Self::Relocate)
    }
}

/// The decisions about all functions.
#[derive(Debug)]
pub(crate) struct Plans {
    /// One for each function, by entry point.
    pub(crate) functions: Vec<FunctionPlan>,
    /// What has no room at entries.
    pub(crate) outside: OutOfLine,
}

/// Plans every function of `old`. `eligible` says for each whether its own code can run, and
/// `outside` where what has no room at entries goes.
pub(crate) fn plan(
    arch: &'static dyn Arch,
    old: &Old,
    new: &New<'_>,
    eligible: &[Eligibility],
    placement: &Placement,
    policy: Policy,
    outside: OutOfLine,
) -> Result<Plans> {
    let mut planner = Planner {
        arch,
        old,
        new,
        placement,
        policy,
        outside,
    };
    let mut plans = Vec::with_capacity(old.code.functions().len());
    for (function, eligibility) in old.code.functions().iter().zip(eligible) {
        plans.push(planner.function(function, eligibility)?);
    }
    planner.resolve_conflicts(&mut plans)?;
    check_patches(&plans)?;
    if policy == Policy::Relocate
        && let Some(plan) = plans
            .iter()
            .find(|plan| !matches!(plan.strategy, Strategy::Keep | Strategy::Relocate))
    {
        return Err(refused(
            plan,
            Refusal::NotRelocated(Box::new(plan.reason.clone())),
        ));
    }
    Ok(Plans {
        functions: plans,
        outside: planner.outside,
    })
}

/// Where a function begins inside the replacement of another, the two would overwrite each other.
fn check_patches(plans: &[FunctionPlan]) -> Result<()> {
    let mut patched: Vec<&FunctionPlan> = plans.iter().filter(|p| p.patch.is_some()).collect();
    patched.sort_by_key(|plan| plan.entry);
    for pair in patched.windows(2) {
        let end = pair[0].entry.0 + pair[0].patch.as_ref().map_or(0, Vec::len) as u64;
        if pair[1].entry.0 < end {
            let other = pair[0].name().to_owned();
            return Err(refused(pair[1], Refusal::InsideReplacement(other)));
        }
    }
    Ok(())
}

fn refused(plan: &FunctionPlan, reason: Refusal) -> Error {
    Error::Refused {
        function: plan.name().to_owned(),
        entry: plan.entry,
        reason,
    }
}

struct Planner<'a> {
    arch: &'static dyn Arch,
    old: &'a Old,
    new: &'a New<'a>,
    placement: &'a Placement,
    policy: Policy,
    outside: OutOfLine,
}

impl Planner<'_> {
    fn function(&mut self, function: &Function, eligibility: &Eligibility) -> Result<FunctionPlan> {
        let exports = self.old.image.exports_at(function.entry);
        let names = exports.clone().map(|export| export.name.clone());
        let mut names: Vec<String> = names.collect();
        names.sort_by_key(|name| (!name.starts_with("__"), name.clone()));
        let plan = FunctionPlan {
            names,
            entry: function.entry,
            size: exports.map(|export| export.size).max().unwrap_or(0),
            strategy: Strategy::Keep,
            reason: Reason::ReadsNoVvar,
            relocations: 0,
            detours: 0,
            patch: None,
        };
        if let Some(name) = plan
            .names
            .iter()
            .find(|name| self.arch.is_return_address(name))
        {
            let reason = Reason::ReturnAddress { name: name.clone() };
            return Ok(FunctionPlan { reason, ..plan });
        }
        let recognised = plan
            .names
            .iter()
            .find(|name| self.arch.is_kernel_recognised(name));
        if let Some(name) = recognised.cloned() {
            return self.kernel_recognised(plan, name);
        }
        let mut forced = self.old.forced.iter();
        if let Some(forced) = forced.find(|forced| plan.names.contains(&forced.name)) {
            return self.forced(plan, forced.reason);
        }
        if !self.policy.keeps_code() {
            return self.replace(plan, Reason::Requested);
        }
        match eligibility {
            Eligibility::Unchanged => Ok(plan),
            Eligibility::Relocated(relocated) => Ok(FunctionPlan {
                strategy: Strategy::Relocate,
                reason: Reason::Resolved {
                    relocations: relocated.relocations,
                    detours: relocated.detours,
                    fewest: relocated.fewest,
                },
                relocations: relocated.relocations,
                detours: relocated.detours,
                ..plan
            }),
            Eligibility::Ineligible(reason) => self.replace(plan, reason.clone()),
        }
    }

    /// A function that only works in the kernel's own vDSO.
    fn kernel_recognised(&mut self, plan: FunctionPlan, name: String) -> Result<FunctionPlan> {
        let target = self.target(&plan.names);
        let has_target = target.is_some();
        let reason = Reason::KernelRecognised { name, has_target };
        match target {
            // It is called where it is then, as before, and the kernel does not know it there.
            Some(target) => match self.jump(plan.clone(), reason.clone(), target) {
                Ok(plan) => Ok(plan),
                Err(_) => {
                    let reason = Reason::NoRoomForJump(Box::new(reason));
                    Ok(FunctionPlan { reason, ..plan })
                }
            },
            None => Ok(FunctionPlan { reason, ..plan }),
        }
    }

    /// A function that the caller forces to the system call.
    fn forced(&mut self, plan: FunctionPlan, reason: Forced) -> Result<FunctionPlan> {
        match self.system_call(&plan) {
            Some(call) => self.stub(plan, Reason::Forced(reason), call),
            None => Err(refused(&plan, Refusal::NoSystemCall(reason))),
        }
    }

    /// Gives the function another implementation.
    fn replace(&mut self, plan: FunctionPlan, reason: Reason) -> Result<FunctionPlan> {
        match (self.target(&plan.names), self.system_call(&plan)) {
            (_, Some(call)) if self.policy == Policy::Syscall => self.stub(plan, reason, call),
            (Some(target), None) => self.jump(plan, reason, target),
            (Some(target), Some(call)) => match self.jump(plan.clone(), reason.clone(), target) {
                Ok(plan) => Ok(plan),
                Err(_) => self.stub(plan, Reason::NoRoomForJump(Box::new(reason)), call),
            },
            (None, Some(call)) => self.stub(plan, Reason::NotInNewVdso(Box::new(reason)), call),
            (None, None) => Err(refused(&plan, Refusal::NoReplacement(Box::new(reason)))),
        }
    }

    /// The function as a jump to the new vDSO's.
    fn jump(&mut self, plan: FunctionPlan, reason: Reason, target: Avma) -> Result<FunctionPlan> {
        let entry = plan.entry.at(self.placement.image);
        let whole = arch::jump_patch(self.arch, entry, self.code(&plan), target);
        let short = self.arch.jump(entry, target);
        self.patched(plan, Strategy::Proxy, reason, [whole, short])
    }

    /// The function as a system call.
    fn stub(
        &mut self,
        plan: FunctionPlan,
        reason: Reason,
        call: SystemCall,
    ) -> Result<FunctionPlan> {
        let whole = arch::system_call_patch(self.arch, self.code(&plan), call);
        let short = arch::system_call_stub(self.arch, call);
        self.patched(plan, Strategy::Syscall, reason, [whole, short])
    }

    /// A function whose entry is overwritten: with a replacement that begins with its landing pad,
    /// with the same without, since no Linux enforces landing pads in programs, or with a jump to
    /// where the replacement has room.
    fn patched(
        &mut self,
        plan: FunctionPlan,
        strategy: Strategy,
        reason: Reason,
        replacements: [Vec<u8>; 2],
    ) -> Result<FunctionPlan> {
        // While a system call stands in for a function, all of it can change but the beginning.
        let limit = match self.system_call(&plan) {
            Some(_) => plan.size,
            None => plan.size.min(AT_ONCE as u64),
        };
        let mut inline = replacements.iter();
        let inline = inline.find(|replacement| replacement.len() as u64 <= limit);
        let near = self.arch.near_jump_size();
        let patch = match inline {
            Some(replacement) => replacement.clone(),
            None if near as u64 <= limit => {
                let place = self.outside.push(plan.entry, &replacements[0]);
                self.arch.near_jump(plan.entry, place)?
            }
            None => {
                let too_short = Refusal::TooShort {
                    reason: Box::new(reason),
                    size: plan.size,
                    replacement: near,
                };
                return Err(refused(&plan, too_short));
            }
        };
        Ok(FunctionPlan {
            strategy,
            reason,
            patch: Some(patch),
            ..plan
        })
    }

    /// The system call that does what a function does.
    fn system_call(&self, plan: &FunctionPlan) -> Option<SystemCall> {
        let mut names = plan.names.iter();
        names.find_map(|name| SystemCall::of(self.arch, name))
    }

    /// The image's bytes from a function's entry on.
    fn code(&self, plan: &FunctionPlan) -> &[u8] {
        &self.old.image.bytes()[plan.entry.index()..]
    }

    /// The new vDSO's function of one of these names.
    fn target(&self, names: &[String]) -> Option<Avma> {
        let base = self.placement.new_vdso()?;
        let image = self.new.image?;
        let export = names.iter().find_map(|name| image.export(name))?;
        Some(export.address.at(base))
    }

    /// A function whose code runs on must not run into bytes that were overwritten for another one,
    /// except at the other one's entry, where the replacement does what the function did.
    fn resolve_conflicts(&mut self, plans: &mut [FunctionPlan]) -> Result<()> {
        loop {
            let conflict = plans.iter().enumerate().find_map(|(index, plan)| {
                let mut names = plan.names.iter();
                let runs =
                    plan.patch.is_none() && !names.any(|name| self.arch.is_return_address(name));
                let other = runs
                    .then(|| {
                        plans
                            .iter()
                            .find(|other| enters(&self.old.code, index, other))
                    })
                    .flatten()?;
                let with = other.name().to_owned();
                Some((index, Reason::SharedCode { with }))
            });
            let Some((index, reason)) = conflict else {
                return Ok(());
            };
            let plan = FunctionPlan {
                relocations: 0,
                detours: 0,
                ..plans[index].clone()
            };
            plans[index] = self.replace(plan, reason)?;
        }
    }
}

/// Whether function `index` begins at or can reach an instruction that the patch of `other`
/// overwrites, beyond the entry.
fn enters(code: &Code, index: usize, other: &FunctionPlan) -> bool {
    let Some(patch) = &other.patch else {
        return false;
    };
    let end = other.entry.0 + patch.len() as u64;
    let function = &code.functions()[index];
    if function.entry > other.entry && function.entry.0 < end {
        return true;
    }
    // Reaching the entry brings the instructions behind it; only what jumps into the middle is a
    // conflict.
    let mut jumps = code
        .reached(function)
        .filter_map(|instruction| match instruction.flow {
            elf_tools::disassembly::Flow::Jump(t)
            | elf_tools::disassembly::Flow::Branch(t)
            | elf_tools::disassembly::Flow::Call(t) => {
                let own = (other.entry.0..end).contains(&instruction.address.0);
                (!own).then_some(t)
            }
            _ => None,
        });
    jumps.any(|target| target > other.entry && target.0 < end)
}

/// Whether the function at `entry` keeps its place whatever the tables say: it stays, or the
/// kernel's own is used.
pub(crate) fn is_known_by_address(arch: &dyn Arch, image: &Image, entry: Svma) -> bool {
    let mut exports = image.exports_at(entry);
    exports.any(|export| {
        arch.is_return_address(&export.name) || arch.is_kernel_recognised(&export.name)
    })
}
