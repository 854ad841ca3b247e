//! How each function of an old image goes on.
//!
//! A function is *relocated* if all its relocations can be applied, *kept* if it needs none, and otherwise *proxied*: its
//! entry becomes a jump to the function of that name in the new vDSO, or a *system call* where the new kernel has none.
//! What cannot be told is never guessed; the reason goes into the report.

pub(crate) mod own;

use std::fmt;

use elf_tools::image::Image;
use elf_tools::reachability::{Code, Function};
use elf_tools::{Avma, Svma};

use crate::input::{New, Old};
use crate::placement::Placement;
use crate::{Error, Result, proxy};
use own::{Own, Relocated};

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
    pub reason: String,
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

/// Plans every function of `old`. `owns` says for each whether its own code can run.
pub(crate) fn plan(
    old: &Old,
    new: &New<'_>,
    owns: &[Own],
    placement: &Placement,
    policy: Policy,
) -> Result<Vec<FunctionPlan>> {
    let planner = Planner {
        old,
        new,
        placement,
        policy,
    };
    let mut plans = Vec::with_capacity(old.code.functions().len());
    for (function, own) in old.code.functions().iter().zip(owns) {
        plans.push(planner.function(function, own)?);
    }
    planner.resolve_conflicts(&mut plans)?;
    check_patches(&plans)?;
    if policy == Policy::Relocate
        && let Some(plan) = plans
            .iter()
            .find(|plan| !matches!(plan.strategy, Strategy::Keep | Strategy::Relocate))
    {
        let (function, entry, reason) = (plan.name().to_owned(), plan.entry, plan.reason.clone());
        return Err(Error::Refused {
            function,
            entry,
            reason,
        });
    }
    Ok(plans)
}

/// Where a function begins inside another one's replacement, the two would overwrite each other.
fn check_patches(plans: &[FunctionPlan]) -> Result<()> {
    let mut patched: Vec<&FunctionPlan> = plans.iter().filter(|p| p.patch.is_some()).collect();
    patched.sort_by_key(|plan| plan.entry);
    for pair in patched.windows(2) {
        let end = pair[0].entry.0 + pair[0].patch.as_ref().map_or(0, Vec::len) as u64;
        if pair[1].entry.0 < end {
            return Err(Error::Refused {
                function: pair[1].name().to_owned(),
                entry: pair[1].entry,
                reason: format!("it begins inside the replacement of {}", pair[0].name()),
            });
        }
    }
    Ok(())
}

struct Planner<'a> {
    old: &'a Old,
    new: &'a New<'a>,
    placement: &'a Placement,
    policy: Policy,
}

impl Planner<'_> {
    fn function(&self, function: &Function, own: &Own) -> Result<FunctionPlan> {
        let exports = self.old.image.exports_at(function.entry);
        let names = exports.clone().map(|export| export.name.clone());
        let mut names: Vec<String> = names.collect();
        names.sort_by_key(|name| (!name.starts_with("__"), name.clone()));
        let plan = FunctionPlan {
            names,
            entry: function.entry,
            size: exports.map(|export| export.size).max().unwrap_or(0),
            strategy: Strategy::Keep,
            reason: String::new(),
            relocations: 0,
            detours: 0,
            patch: None,
        };
        if let Some(landing) = plan.names.iter().find(|name| must_stay(name)) {
            let reason = format!("the kernel returns to `{landing}` by address");
            return Ok(FunctionPlan { reason, ..plan });
        }
        if let Some(tied) = plan.names.iter().find(|name| is_tied(name)) {
            return self.tied(plan.clone(), tied);
        }
        let withheld = self.old.withheld.iter();
        let mut withheld = withheld.filter(|withheld| plan.names.contains(&withheld.name));
        if let Some(withheld) = withheld.next() {
            return self.withheld(plan, &withheld.reason);
        }
        if !self.policy.keeps_code() {
            return self.replace(plan, "asked for".to_owned());
        }
        match own {
            Own::Keep(reason) => Ok(FunctionPlan {
                reason: reason.clone(),
                ..plan
            }),
            Own::Relocate(relocated) => Ok(FunctionPlan {
                strategy: Strategy::Relocate,
                reason: relocated.to_string(),
                relocations: relocated.relocations,
                detours: relocated.detours,
                ..plan
            }),
            Own::No(reason) => self.replace(plan, reason.clone()),
        }
    }

    /// A function that only works in the kernel's own vDSO.
    fn tied(&self, plan: FunctionPlan, name: &str) -> Result<FunctionPlan> {
        let why = format!("the kernel recognises `{name}` by its place in its own vDSO");
        match self.target(&plan.names) {
            Some(target) => self.patched(plan, Strategy::Proxy, why, |planner, code, entry| {
                proxy::proxy_patch(planner.placement.image, entry, code, target)
            }),
            None => Ok(FunctionPlan {
                reason: format!("{why}, and the new one has none to send it to"),
                ..plan
            }),
        }
    }

    /// A function that has to make the system call.
    fn withheld(&self, plan: FunctionPlan, reason: &str) -> Result<FunctionPlan> {
        let call = plan.names.iter().find_map(|name| proxy::system_call(name));
        let call = call.ok_or_else(|| Error::Refused {
            function: plan.name().to_owned(),
            entry: plan.entry,
            reason: format!("{reason}, and no system call does the same"),
        })?;
        self.patched(plan, Strategy::Syscall, reason.to_owned(), |_, code, _| {
            proxy::system_call_patch(code, call)
        })
    }

    /// Gives the function another implementation.
    fn replace(&self, plan: FunctionPlan, reason: String) -> Result<FunctionPlan> {
        let proxied = self.target(&plan.names);
        let call = plan.names.iter().find_map(|name| proxy::system_call(name));
        let jump = |plan: FunctionPlan, target: Avma| {
            self.patched(
                plan,
                Strategy::Proxy,
                reason.clone(),
                |planner, code, entry| {
                    proxy::proxy_patch(planner.placement.image, entry, code, target)
                },
            )
        };
        let stub = |plan: FunctionPlan, call: proxy::SystemCall, reason: String| {
            self.patched(plan, Strategy::Syscall, reason, |_, code, _| {
                proxy::system_call_patch(code, call)
            })
        };
        match (proxied, call) {
            (_, Some(call)) if self.policy == Policy::Syscall => stub(plan, call, reason),
            (Some(target), None) => jump(plan, target),
            (Some(target), Some(call)) => match jump(plan.clone(), target) {
                Ok(plan) => Ok(plan),
                Err(_) => stub(plan, call, format!("{reason}; a jump does not fit")),
            },
            (None, Some(call)) => stub(
                plan,
                call,
                format!("{reason}; the new vDSO has no such function"),
            ),
            (None, None) => Err(Error::Refused {
                function: plan.name().to_owned(),
                entry: plan.entry,
                reason: format!(
                    "{reason}; the new vDSO has no such function, and no system call does the same"
                ),
            }),
        }
    }

    fn patched(
        &self,
        plan: FunctionPlan,
        strategy: Strategy,
        reason: String,
        patch: impl Fn(&Self, &[u8], Svma) -> Vec<u8>,
    ) -> Result<FunctionPlan> {
        let patch = patch(
            self,
            &self.old.image.bytes()[plan.entry.index()..],
            plan.entry,
        );
        if patch.len() as u64 > plan.size {
            return Err(Error::Refused {
                function: plan.name().to_owned(),
                entry: plan.entry,
                reason: format!(
                    "{reason}; it has {} bytes, and its replacement {}",
                    plan.size,
                    patch.len()
                ),
            });
        }
        Ok(FunctionPlan {
            strategy,
            reason,
            patch: Some(patch),
            ..plan
        })
    }

    /// The new vDSO's function of one of these names.
    fn target(&self, names: &[String]) -> Option<Avma> {
        let base = self.placement.new_vdso()?;
        let image = self.new.image?;
        let export = names.iter().find_map(|name| image.export(name))?;
        Some(export.address.at(base))
    }

    /// A function whose code runs on must not run into bytes that were overwritten for another one, except at the other
    /// one's entry, where the replacement does what the function did.
    fn resolve_conflicts(&self, plans: &mut [FunctionPlan]) -> Result<()> {
        loop {
            let conflict = plans.iter().enumerate().find_map(|(index, plan)| {
                let runs = plan.patch.is_none() && !plan.names.iter().any(|name| must_stay(name));
                let other = runs
                    .then(|| {
                        plans
                            .iter()
                            .find(|other| enters(&self.old.code, index, other))
                    })
                    .flatten()?;
                Some((
                    index,
                    format!("it shares code with {}, which is replaced", other.name()),
                ))
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

/// Whether function `index` begins at or can reach an instruction that the patch of `other` overwrites, beyond the entry.
fn enters(code: &Code, index: usize, other: &FunctionPlan) -> bool {
    let Some(patch) = &other.patch else {
        return false;
    };
    let end = other.entry.0 + patch.len() as u64;
    let function = &code.functions()[index];
    if function.entry > other.entry && function.entry.0 < end {
        return true;
    }
    // Reaching the entry brings the instructions behind it; only what jumps into the middle is a conflict.
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

/// In words that explain why the function's own code runs.
impl fmt::Display for Relocated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} relocations resolved", self.relocations)?;
        match self.detours {
            0 => return Ok(()),
            1 => f.write_str(", 1 instruction moved out of line")?,
            detours => write!(f, ", {detours} instructions moved out of line")?,
        }
        if !self.fewest {
            f.write_str(" (fewer may do)")?;
        }
        Ok(())
    }
}

/// Whether the function at `entry` keeps its place whatever the tables say: it stays, or the kernel's own is used.
pub(crate) fn is_pinned(image: &Image, entry: Svma) -> bool {
    let mut exports = image.exports_at(entry);
    exports.any(|export| must_stay(&export.name) || is_tied(&export.name))
}

/// Functions whose address the kernel or the hardware knows: signal trampolines and the 32-bit system call pad.
fn must_stay(name: &str) -> bool {
    matches!(
        name,
        "__kernel_sigreturn" | "__kernel_rt_sigreturn" | "__kernel_vsyscall"
    )
}

/// Functions that the kernel treats specially by their place in its own vDSO: `docs/architecture.md`.
fn is_tied(name: &str) -> bool {
    name == "__vdso_sgx_enter_enclave"
        || (name.starts_with("__vdso_futex_robust_list") && name.ends_with("_try_unlock"))
}
