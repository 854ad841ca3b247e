//! What `relocator verify` prints.

use elf_tools::disassembly::Instruction;
use elf_tools::processor::ProcessorFeatures;
use relocator::link::Old;
use relocator_verify::FunctionOutcome;
use relocator_verify::in_flight::InFlight;
use schemars::JsonSchema;
use serde::Serialize;

use super::Kernel;

/// Calls that were held against system calls.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Verify {
    /// `relocator.verify/2`.
    pub schema: &'static str,
    /// The kernel that the vDSO is of.
    pub old: Kernel,
    /// The kernel that it was linked to.
    pub new: Kernel,
    /// Whether that is another kernel than the one that runs, or has another clock source: its pages were emulated.
    pub emulated: bool,
    /// What its clocks count with: `tsc`, `pvclock`, `hvclock`.
    pub clock: String,
    /// Whether calls were made in a time namespace.
    pub time_namespace: bool,
    /// The processor that it was linked for.
    pub processor: Processor,
    /// By function.
    pub functions: Vec<FunctionOutcome>,
}

/// A processor, and what of the old code it cannot execute.
///
/// This is decided by the extension that each instruction needs which a function can reach in the
/// image as it is: alternatives for another processor are part of it. An instruction whose extension
/// is not known by name is one that the processor lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Processor {
    /// The extensions that code may need and that it has, as `/proc/cpuinfo` calls them.
    pub features: Vec<&'static str>,
    /// The functions that it cannot run.
    pub cannot_run: Vec<CannotRun>,
}

/// A function that a processor cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CannotRun {
    /// Its name.
    pub function: String,
    /// The instructions.
    pub instructions: Vec<LackedInstruction>,
}

/// An instruction that a processor cannot execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LackedInstruction {
    /// Its place in the old image.
    pub address: u64,
    /// The extensions that it needs and the processor lacks, `unknown` for one without a name.
    pub lacks: Vec<&'static str>,
}

impl Processor {
    /// What a processor that has these extensions cannot run of an old image.
    pub fn new(has: ProcessorFeatures, old: &Old) -> Self {
        let lacked = |one: &Instruction| {
            let lacks = one.needs.without(has);
            (!lacks.is_empty()).then(|| LackedInstruction {
                address: one.address.0,
                lacks: lacks.names().collect(),
            })
        };
        let functions = old.code.functions().iter().filter_map(|function| {
            let instructions: Vec<_> = old.code.reached(function).filter_map(lacked).collect();
            let name = old.image.exports_at(function.entry).next()?.name.clone();
            (!instructions.is_empty()).then_some(CannotRun {
                function: name,
                instructions,
            })
        });
        Self {
            features: has.names().collect(),
            cannot_run: functions.collect(),
        }
    }
}

/// Threads that were stopped inside when the kernel was swapped (`--in-flight`).
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Sweep {
    /// `relocator.verify/2`.
    pub schema: &'static str,
    /// The kernel that the vDSO is of.
    pub old: Kernel,
    /// The kernel that it was linked to before, or null.
    pub linked_to: Option<Kernel>,
    /// The running kernel.
    pub new: Kernel,
    /// What became of the threads.
    pub in_flight: InFlight,
}
