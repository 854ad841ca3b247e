//! What `relocator verify` prints.

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
    /// By function.
    pub functions: Vec<FunctionOutcome>,
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
