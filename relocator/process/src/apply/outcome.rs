//! What was done to a process.

use std::time::Duration;

use elf_tools::Avma;
use nix::unistd::Pid;

use super::layout::Layout;
use super::record::{Placed, Record};
use super::survey::Survey;
use super::text::Text;
use super::transaction::Crossed;
use relocator::hexadecimal;
use relocator::link::LinkedImage;
use relocator::plan::FunctionPlan;
use relocator::tables::OldTables;

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyState {
    /// It has no old vDSO, or was not linked: nothing was done.
    Untouched,
    /// It was linked before: nothing was done.
    AlreadyLinked,
    /// It was linked.
    Linked,
    /// A link that was not complete, as its maker was killed, was completed.
    Completed,
    /// It is what it was before it was linked.
    RolledBack,
}

/// What was done to a process, and what it took.
#[derive(Debug, Clone)]
pub struct ApplyOutcome {
    /// The process.
    pub pid: i32,
    /// What became of it.
    pub state: ApplyState,
    /// Its old texts.
    pub texts: Vec<LinkedText>,
    /// The kernel's mappings, where they were and where they are.
    pub kernel: Vec<Placed>,
    /// Why they could not be moved within reach of old texts.
    pub unreachable: Option<String>,
    /// Why the running kernel's symbols are not known.
    pub no_symbols: Option<String>,
    /// Names and hints in the process that do not say the truth.
    pub misleading_names: Vec<String>,
    /// Its threads.
    pub crossed: Crossed,
    /// For how long it stood still.
    pub times: ApplyTimes,
    /// How often that was.
    pub attempts: u32,
}

impl ApplyOutcome {
    pub(super) fn new(pid: Pid, survey: &Survey) -> Self {
        Self {
            pid: pid.as_raw(),
            state: ApplyState::Untouched,
            texts: Vec::new(),
            kernel: Vec::new(),
            unreachable: None,
            no_symbols: None,
            misleading_names: survey.found.misleading_names.clone(),
            crossed: Crossed::default(),
            times: ApplyTimes::default(),
            attempts: 0,
        }
    }

    /// Bytes of memory that the process has more than before.
    pub fn added(&self) -> u64 {
        self.texts.iter().map(|text| text.added).sum()
    }
}

/// One old text.
#[derive(Debug, Clone)]
pub struct LinkedText {
    /// Where its image is.
    pub image: Avma,
    /// Build-id of the image in hexadecimal.
    pub build_id: String,
    /// Where its relocations come from.
    pub tables: OldTables,
    /// What became of its functions; empty where that is only recorded.
    pub functions: Vec<FunctionPlan>,
    /// Whether CRIU's jumps were there.
    pub jumps: usize,
    /// Bytes of memory that it takes more than before.
    pub added: u64,
    /// Bytes of its link record.
    pub record: usize,
}

impl LinkedText {
    pub(super) fn new(text: &Text, linked: &LinkedImage, layout: &Layout) -> Self {
        let before = text.found.bytes.len() as u64;
        Self {
            functions: linked.functions.clone(),
            added: (layout.size as u64).saturating_sub(before),
            ..Self::recorded(text, &layout.record)
        }
    }

    pub(super) fn recorded(text: &Text, record: &Record) -> Self {
        Self {
            image: text.found.image,
            build_id: hexadecimal::digits(&record.old),
            tables: text.tables.clone(),
            functions: Vec::new(),
            jumps: text.jumps.len(),
            added: 0,
            record: record.encode().map_or(0, |note| note.len()),
        }
    }
}

/// For how long a process stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyTimes {
    /// From when its first thread was asked to stop until all had.
    pub stop: Duration,
    /// Until everything was written.
    pub commit: Duration,
    /// Until all threads went on.
    pub total: Duration,
}
