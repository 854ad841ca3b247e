//! What was done to a process, or would be.

use std::time::Duration;

use elf_tools::{Avma, BuildId};

use super::layout::Layout;
use super::record::{Placed, Record};
use super::survey::Survey;
use super::text::Text;
use super::transaction::Crossed;
use crate::Result;
use crate::targets::{Target, Whereabouts};
use relocator::link::LinkedImage;
use relocator::plan::FunctionPlan;
use relocator::tables::OldTables;

/// What became of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyState {
    /// It has no old vDSO, or was not linked: nothing to do.
    Untouched,
    /// It was linked before: nothing to do.
    AlreadyLinked,
    /// It was linked.
    Linked,
    /// The tool completed an interrupted apply.
    Completed,
    /// It is what it was before it was linked.
    RolledBack,
    /// It is ready for a dump.
    Prepared,
    /// It was ready for a dump: nothing to do.
    AlreadyPrepared,
    /// A dry run: it would be linked.
    WouldBeLinked,
    /// A dry run: the tool would complete an interrupted apply.
    WouldBeCompleted,
    /// A dry run: it would be what it was before it was linked.
    WouldBeRolledBack,
    /// A dry run: it would be made ready for a dump.
    WouldBePrepared,
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
    /// Misleading names and hints in the process.
    pub misleading_names: Vec<String>,
    /// Its threads, as they were carried across.
    pub crossed: Crossed,
    /// Its threads, as a dry run sees them.
    pub seen: Option<ThreadsSeen>,
    /// How long it was stopped.
    pub times: ApplyTimes,
    /// How often the process was surveyed; each time but the last, something was in the way.
    pub attempts: u32,
}

impl ApplyState {
    /// A word for machines, which stays as it is.
    pub fn code(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::AlreadyLinked => "already-linked",
            Self::Linked => "linked",
            Self::Completed => "completed",
            Self::RolledBack => "rolled-back",
            Self::Prepared => "prepared",
            Self::AlreadyPrepared => "already-prepared",
            Self::WouldBePrepared => "would-be-prepared",
            Self::WouldBeLinked => "would-be-linked",
            Self::WouldBeCompleted => "would-be-completed",
            Self::WouldBeRolledBack => "would-be-rolled-back",
        }
    }

    /// What a dry run says instead.
    pub(super) fn only_planned(self) -> Self {
        match self {
            Self::Linked => Self::WouldBeLinked,
            Self::Completed => Self::WouldBeCompleted,
            Self::RolledBack => Self::WouldBeRolledBack,
            Self::Prepared => Self::WouldBePrepared,
            other => other,
        }
    }
}

/// Where threads are during a dry run, which does not stop them: a stop alone ends some waits early
/// (`epoll_wait`, `semop`, and others of `signal(7)`), so it would not leave the process alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadsSeen {
    /// Number of all threads.
    pub threads: usize,
    /// Those that wait in the kernel and were called from an old text or from the kernel's vDSO.
    /// They would have to be carried across. Whether that is possible is only known when they stand
    /// still.
    pub inside: Vec<ThreadInside>,
    /// Those that run, so that their place is unknown.
    pub unknown: usize,
}

/// A thread inside a vDSO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadInside {
    /// Its number.
    pub thread: i32,
    /// Where it goes on.
    pub pc: Avma,
}

impl ThreadsSeen {
    pub(super) fn of(target: &impl Target, survey: &Survey) -> Result<Self> {
        let texts: Vec<_> = survey.occupied().collect();
        let mut seen = Self::default();
        for Whereabouts { thread, pc } in target.whereabouts()? {
            seen.threads += 1;
            match pc {
                Some(pc) if texts.iter().any(|text| text.contains(&pc)) => {
                    seen.inside.push(ThreadInside { thread, pc });
                }
                Some(_) => {}
                None => seen.unknown += 1,
            }
        }
        Ok(seen)
    }
}

impl ApplyOutcome {
    pub(super) fn new(survey: &Survey) -> Self {
        Self {
            pid: survey.id,
            state: ApplyState::Untouched,
            texts: Vec::new(),
            kernel: Vec::new(),
            unreachable: None,
            no_symbols: None,
            misleading_names: survey.found.misleading_names.clone(),
            crossed: Crossed::default(),
            seen: None,
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
            build_id: BuildId::new(&record.old).map_or_else(String::new, |id| id.to_string()),
            tables: text.tables.clone(),
            functions: Vec::new(),
            jumps: text.jumps.len(),
            added: 0,
            record: record.encode().map_or(0, |note| note.len()),
        }
    }
}

/// How long a process was stopped. All times begin when this tool asked the first thread to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyTimes {
    /// Until all threads had stopped.
    pub stop: Duration,
    /// Until everything was written.
    pub commit: Duration,
    /// Until this tool had let all threads go on.
    pub total: Duration,
}
