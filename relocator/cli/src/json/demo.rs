//! What `relocator demo` prints.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Kernel;

/// What was done, and what came of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Demo {
    /// `relocator.demo/1`.
    pub schema: &'static str,
    /// The kernel that the program comes from.
    pub old: Kernel,
    /// The running kernel.
    pub new: Kernel,
    /// The process that was linked.
    pub pid: i32,
    /// Threads that call, and the one that answers.
    pub threads: usize,
    /// By call.
    pub calls: Vec<CallStory>,
    /// By function, what linking did to it.
    pub strategies: Vec<Fate>,
    /// Calls before the link.
    pub before: Count,
    /// Calls while the process was linked.
    pub linked: Count,
    /// How often it was linked and rolled back.
    pub cycles: usize,
    /// In how many of the cycles text and mappings were byte for byte what they were before.
    pub restored: usize,
    /// How many threads were inside the old code when it was linked, over all cycles.
    pub inside: usize,
    /// For how long all threads stood still, the median of the links, in microseconds.
    pub stop_us: f64,
}

/// What one call said.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CallStory {
    /// As a program writes it.
    pub call: &'static str,
    /// In a process whose old vDSO is left alone.
    pub alone: Look,
    /// With CRIU's jumps.
    pub jumps: Look,
    /// Linked.
    pub linked: Look,
}

/// What linking did to one function.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Fate {
    /// Its name.
    pub function: String,
    /// `keep`, `relocate`, `proxy` or `syscall`.
    pub strategy: &'static str,
}

/// What one function says at a moment.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Look {
    /// What it returned.
    pub value: String,
    /// What the system call returned directly afterwards.
    pub system: String,
    /// Whether the answer lies between those of system calls before and after it.
    pub is_right: bool,
    /// Nanoseconds a call.
    pub nanoseconds: f64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// Calls, compared or not.
    pub calls: u64,
    /// Calls that were compared with the system call.
    pub compared: u64,
    /// Those of them that were wrong.
    pub wrong: u64,
    /// Threads that made no call at all: they hang.
    pub silent: u64,
}
