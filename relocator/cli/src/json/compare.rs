//! What `relocator compare` prints.

use relocator_verify::Approach;
use relocator_verify::compare::{Counts, Row};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Kernel;

/// A comparison, with everything that a reader needs to make it again.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Compare {
    /// `relocator.compare/3`.
    pub schema: &'static str,
    /// The command that was given.
    pub command: String,
    /// When it ended, in seconds since 1970.
    pub ended: u64,
    /// The running kernel.
    pub new: Kernel,
    /// Whether calls were made in a time namespace.
    pub time_namespace: bool,
    /// Calls for each combination of function and arguments.
    pub rounds: u32,
    /// Batches of each timed call.
    pub batches: u32,
    /// Calls in a batch.
    pub batch: u32,
    /// How often each image was linked in memory.
    pub links: u32,
    /// By approach, over the old images that exist outside of this project; over all, if there is none.
    pub summary: Vec<Summary>,
    /// By old image.
    pub olds: Vec<Compared>,
}

/// One old image.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Compared {
    /// The kernel that it is of.
    pub old: Kernel,
    /// By approach.
    pub rows: Vec<Row>,
}

/// One approach over several old images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Summary {
    /// Which.
    pub approach: Approach,
    /// Number of old images.
    pub olds: usize,
    /// Number of functions that can go on so, of all images.
    pub covered: usize,
    /// Number of functions that there is a system call to compare with, of all images.
    pub functions: usize,
    /// Number of calls that were compared.
    pub calls: u64,
    /// Number of calls that differed.
    pub mismatches: u64,
    /// Calls as ratios to the native ones, as far as they are right.
    pub ratios: Option<Spread>,
    /// Number of timed calls that are not right.
    pub wrong_timings: usize,
    /// Microseconds to link.
    pub link_us: Option<Spread>,
    /// Number of bytes that are written.
    pub bytes_written: Option<Spread>,
    /// Number of boundaries that are moved.
    pub boundaries_moved: Option<Spread>,
    /// Number of old images whose threads were stopped in flight.
    pub swept: usize,
    /// Their boundaries by the worst that has happened there.
    pub in_flight: Counts,
    /// The same for threads that were stopped there themselves, not in a handler of signals.
    pub in_flight_direct: Counts,
    /// All of this in a sentence.
    pub sentence: String,
}

/// The smallest, the middle and the largest of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// The median.
    pub median: f64,
    /// The largest.
    pub most: f64,
}
