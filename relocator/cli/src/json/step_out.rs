//! What `relocator step-out` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::MemoryRange;

/// What became of the threads of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StepOut {
    /// `relocator.step-out/1`.
    pub schema: &'static str,
    /// The process.
    pub pid: i32,
    /// Whether it is stopped now, as by SIGSTOP.
    pub stopped: bool,
    /// Number of its threads.
    pub threads: usize,
    /// How often they were looked at.
    pub attempts: u32,
    /// Its vDSOs.
    pub vdsos: Vec<Vdso>,
    /// Threads that were inside and are outside now.
    pub moved: Vec<MovedThread>,
    /// Contexts that are still inside.
    pub stuck: Vec<StuckContext>,
    /// Where contexts may be that were not looked for, because stacks are too large.
    pub left_out: Vec<MemoryRange>,
}

/// Where a vDSO is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Vdso {
    /// First byte.
    pub address: u64,
    /// In bytes.
    pub size: u64,
}

/// A thread that left the vDSO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MovedThread {
    /// Its number.
    pub thread: i32,
    /// Where it was.
    pub address: u64,
    /// The same, relative to the image.
    pub offset: u64,
    /// How often it was let run.
    pub runs: u32,
    /// How many instructions it was stepped.
    pub steps: u32,
}

/// A context that is still inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StuckContext {
    /// Number of its thread.
    pub thread: i32,
    /// Where it goes on.
    pub address: u64,
    /// The same, relative to the image.
    pub offset: u64,
    /// The signal frame that it is in, or null if it is the thread's own.
    pub frame: Option<u64>,
    /// Why it is still inside.
    pub reason: String,
}
