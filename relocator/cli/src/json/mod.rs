//! The JSON that commands print. `docs/json.md` documents it; a change that breaks a reader raises the number in
//! `schema`.

pub mod apply;
pub mod check;
pub mod compare;
pub mod demo;
pub mod derive;
pub mod inspect;
mod schema;
pub mod step_out;
pub mod symtab;
pub mod verify;

pub use schema::all as schemas;

use std::fmt;
use std::ops::Range;

use elf_tools::Avma;
use elf_tools::image::LinuxVersion;
use elf_tools::printable;
use elf_tools::relocation::Relocations;
use elf_tools::symtab::Provenance;
use schemars::JsonSchema;
use serde::Serialize;

use relocator::link::LinkedImage;
use relocator::plan::FunctionPlan;
use relocator::source::{LiveMapping, Source};
use relocator::tables::{OldTables, ReentrySummary};

/// Schema of `relocator inspect --json`.
pub const INSPECT: &str = "relocator.inspect/2";
/// Schema of `relocator symtab --json`.
pub const SYMTAB: &str = "relocator.symtab/1";
/// Schema of `relocator derive --json`.
pub const DERIVE: &str = "relocator.derive/2";
/// Schema of `relocator link --json`.
pub const LINK: &str = "relocator.link/1";
/// Schema of `relocator verify --json`.
pub const VERIFY: &str = "relocator.verify/2";
/// Schema of `relocator compare --json`.
pub const COMPARE: &str = "relocator.compare/3";
/// Schema of `relocator step-out --json`.
pub const STEP_OUT: &str = "relocator.step-out/1";

/// Schema of `relocator apply --json` and `relocator rollback --json`.
pub const APPLY: &str = "relocator.apply/2";

/// Schema of `relocator check --json`.
pub const CHECK: &str = "relocator.check/1";

/// Schema of `relocator demo --json`.
pub const DEMO: &str = "relocator.demo/1";

/// A part of an address space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MemoryRange {
    /// Its first byte.
    pub address: u64,
    /// In bytes.
    pub size: u64,
}

/// Parts of an address space.
pub fn ranges(ranges: &[Range<Avma>]) -> Vec<MemoryRange> {
    let range = |range: &Range<Avma>| MemoryRange {
        address: range.start.0,
        size: range.end.0.saturating_sub(range.start.0),
    };
    ranges.iter().map(range).collect()
}

/// A kernel, old or new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Kernel {
    /// The source it was read from.
    pub source: String,
    /// Build-id of the vDSO in hexadecimal.
    pub build_id: Option<String>,
    /// Version, for example `6.18.44`.
    pub kernel: Option<String>,
    /// Where its tables came from: `exported`, `file` or `none` on both sides, `cache` or `derived` on the old one, `btf` or
    /// `dwarf` on the new one.
    pub tables: &'static str,
}

impl Kernel {
    /// The old side, whose table is the relocation table.
    pub fn old(source: &Source, tables: &OldTables) -> Self {
        Self {
            tables: tables.provenance.word(),
            ..Self::new(source)
        }
    }

    /// The new side, whose table is the symbol table.
    pub fn new(source: &Source) -> Self {
        Self {
            source: source.name.clone(),
            build_id: source.build_id().map(elf_tools::BuildId::to_string),
            kernel: source
                .linux_version()
                .map(|version: LinuxVersion| version.to_string()),
            tables: provenance(source.provenance()),
        }
    }
}

/// As commands print it for a person.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.kernel.as_deref().unwrap_or("unknown kernel");
        write!(f, "{} ({version}, tables: {})", self.source, self.tables)
    }
}

/// The word for a table's provenance.
pub fn provenance(provenance: Option<Provenance>) -> &'static str {
    match provenance {
        Some(Provenance::Exported) => "exported",
        Some(Provenance::File) => "file",
        Some(Provenance::Btf) => "btf",
        Some(Provenance::Dwarf) => "dwarf",
        None => "none",
    }
}

/// One function of a linked image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Function {
    /// Name.
    pub name: String,
    /// Other names of the same code.
    pub aliases: Vec<String>,
    /// `keep`, `relocate`, `proxy` or `syscall`.
    pub strategy: String,
    /// Why.
    pub reason: String,
    /// The same as a word that stays as it is.
    pub reason_code: &'static str,
    /// Number of relocations that it uses.
    pub relocations: usize,
    /// Number of instructions moved out of line.
    pub detours: usize,
}

impl From<&FunctionPlan> for Function {
    fn from(plan: &FunctionPlan) -> Self {
        Self {
            name: plan.name().to_owned(),
            aliases: plan.names.iter().skip(1).cloned().collect(),
            strategy: plan.strategy.to_string(),
            reason: printable(&plan.reason.to_string()).into_owned(),
            reason_code: plan.reason.code(),
            relocations: plan.relocations,
            detours: plan.detours,
        }
    }
}

/// What `relocator link --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Link {
    /// `relocator.link/1`.
    pub schema: &'static str,
    /// The image that is linked.
    pub old: Kernel,
    /// The kernel it is linked to.
    pub new: Kernel,
    /// Why the old image has no relocation table, if it has none.
    pub no_tables: Option<String>,
    /// Size of the linked image in bytes, defaults included.
    pub size: usize,
    /// The functions.
    pub functions: Vec<Function>,
    /// Boundaries that are elsewhere now.
    pub moved: Vec<Moved>,
}

/// An instruction that was moved out of line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Moved {
    /// Its place in the old image.
    pub from: u64,
    /// Its place in the linked image.
    pub to: u64,
}

impl Link {
    /// The report on `linked`.
    pub fn new(old: Kernel, new: Kernel, no_tables: Option<String>, linked: &LinkedImage) -> Self {
        let functions = linked.functions.iter().map(Function::from).collect();
        Self {
            schema: LINK,
            old,
            new,
            no_tables,
            size: linked.bytes.len(),
            functions,
            moved: linked
                .moved
                .iter()
                .map(|moved| Moved {
                    from: moved.from.0,
                    to: moved.to.0,
                })
                .collect(),
        }
    }
}

/// What an image needs of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Need {
    /// The symbol or distance.
    pub reference: String,
    /// Number of places that it determines alone.
    pub places: usize,
    /// Number of constraints that it takes part in.
    pub constraints: usize,
    /// Whether there is a value for kernels that lack it.
    pub has_default: bool,
}

/// What a relocation table needs of a kernel.
pub fn needs(table: &Relocations) -> Vec<Need> {
    let needs = table.needs.iter().map(|need| Need {
        reference: need.reference.to_string(),
        places: 0,
        constraints: 0,
        has_default: need.default.is_some(),
    });
    let mut needs: Vec<Need> = needs.collect();
    for entry in &table.entries {
        needs[entry.need as usize].places += 1;
    }
    for constraint in &table.constraints {
        needs[constraint.need as usize].constraints += 1;
    }
    needs
}

/// A mapping of a kernel, in a process or in a symbol table's own address space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Mapping {
    /// As in `/proc/PID/maps`.
    pub name: String,
    /// First byte.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
}

impl From<&elf_tools::symtab::Mapping> for Mapping {
    fn from(mapping: &elf_tools::symtab::Mapping) -> Self {
        Self {
            name: mapping.name.clone(),
            address: mapping.address,
            size: mapping.size,
        }
    }
}

impl From<&LiveMapping> for Mapping {
    fn from(mapping: &LiveMapping) -> Self {
        Self {
            name: mapping.name.clone(),
            address: mapping.start.0,
            size: mapping.size,
        }
    }
}

/// What a re-entry table says of the boundaries of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reentry {
    /// Number of distinct functions.
    pub functions: usize,
    /// Number of boundaries that functions reach.
    pub boundaries: usize,
    /// Of those, boundaries from which nothing is read any more that depends on the kernel: a thread goes on.
    pub untouched: usize,
    /// Boundaries from which a thread goes back to the entry of its function.
    pub reenter: usize,
    /// Boundaries at which a thread cannot be put back, in at least one of the ways that lead there.
    pub lost: usize,
    /// Why, most frequent first.
    pub reasons: Vec<LostReason>,
    /// Number of different recipes.
    pub recipes: usize,
}

/// Why threads cannot be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LostReason {
    /// In words.
    pub reason: String,
    /// Number of boundaries.
    pub boundaries: usize,
}

impl From<&ReentrySummary> for Reentry {
    fn from(summary: &ReentrySummary) -> Self {
        let reasons = summary.reasons.iter().map(|lost| LostReason {
            reason: printable(&lost.reason).into_owned(),
            boundaries: lost.boundaries,
        });
        Self {
            functions: summary.functions,
            boundaries: summary.boundaries,
            untouched: summary.untouched,
            reenter: summary.reenter,
            lost: summary.lost,
            reasons: reasons.collect(),
            recipes: summary.recipes,
        }
    }
}
