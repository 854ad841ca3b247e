//! Threads that are inside an old vDSO when the kernel is swapped under them.

mod outcome;
mod treatment;

pub use outcome::{
    Counts, Ending, Failure, FunctionSweep, InFlight, Namespaces, Part, Skipped, Unreached, Variant,
};
pub use treatment::Treatment;
