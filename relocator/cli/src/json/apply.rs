//! What `relocator apply`, `relocator rollback` and `relocator prepare` print.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Function, MemoryRange};

/// What was done to a process, or what would be.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Apply {
    /// `relocator.apply/2`.
    pub schema: &'static str,
    /// The process.
    pub pid: i32,
    /// What became of it.
    pub state: State,
    /// Its old vDSOs.
    pub texts: Vec<Text>,
    /// The kernel's mappings, where they were and where they are.
    pub kernel: Vec<MovedMapping>,
    /// Why they could not be moved within reach of old vDSOs, or null.
    pub unreachable: Option<String>,
    /// Why the running kernel's symbols are not known, or null.
    pub no_symbols: Option<String>,
    /// Names of mappings and entries of the auxiliary vector that do not say what is there.
    pub misleading_names: Vec<String>,
    /// Number of its threads.
    pub threads: usize,
    /// Number of threads that were inside a vDSO and were carried across.
    pub moved: usize,
    /// Number of contexts in signal frames that were carried across.
    pub frames: usize,
    /// Where contexts may be that were not looked for, because stacks are too large.
    pub left_out: Vec<MemoryRange>,
    /// Where threads were during a dry run, which stops none; null otherwise.
    pub seen: Option<ThreadsSeen>,
    /// How often the process was stopped until it could be done.
    pub attempts: u32,
    /// Bytes of memory that the process has more than before.
    pub added_bytes: u64,
    /// From when the first thread was asked to stop until all had, in microseconds.
    pub stop_us: f64,
    /// From when the first thread was asked to stop until everything was written, in microseconds.
    pub commit_us: f64,
    /// From when the first thread was asked to stop until all went on, in microseconds.
    pub total_us: f64,
}

/// Where threads are that run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ThreadsSeen {
    /// Number of all threads.
    pub threads: usize,
    /// Those that wait in the kernel and were called from a vDSO.
    pub inside: Vec<ThreadInside>,
    /// Number of those that run, so that it cannot be told where they are.
    pub unknown: usize,
}

/// A thread inside a vDSO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ThreadInside {
    /// Its number.
    pub thread: i32,
    /// Where it goes on.
    pub address: u64,
}

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has no old vDSO, or was not linked: nothing was done.
    Untouched,
    /// It was linked before: nothing was done.
    AlreadyLinked,
    /// It was linked.
    Linked,
    /// A link that was interrupted was completed.
    Completed,
    /// It is what it was before it was linked.
    RolledBack,
    /// It is ready for a dump.
    Prepared,
    /// It was ready for a dump: nothing was done.
    AlreadyPrepared,
    /// It would be linked; `--dry-run`.
    WouldBeLinked,
    /// An interrupted link would be completed; `--dry-run`.
    WouldBeCompleted,
    /// It would be rolled back; `--dry-run`.
    WouldBeRolledBack,
    /// It would be made ready for a dump; `--dry-run`.
    WouldBePrepared,
}

/// An old vDSO in a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Text {
    /// Where it is.
    pub address: u64,
    /// Its build-id, hexadecimal.
    pub build_id: String,
    /// Where its relocation table came from: `exported`, `file`, `cache`, `derived`, `none`.
    pub tables: &'static str,
    /// Why it has none, or null.
    pub no_tables: Option<String>,
    /// How many jumps of CRIU's were in it.
    pub jumps: usize,
    /// Bytes of its link record.
    pub record_bytes: usize,
    /// What became of its functions; empty where that is only recorded.
    pub functions: Vec<Function>,
}

/// A mapping of the kernel's that was moved, or stayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MovedMapping {
    /// As in `/proc/PID/maps`.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Its first byte before.
    pub from: u64,
    /// Its first byte now.
    pub to: u64,
}
