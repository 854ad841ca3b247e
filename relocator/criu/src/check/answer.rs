//! The answer for one task.

use std::fmt;
use std::ops::Range;

use elf_tools::image::Image;
use elf_tools::{Avma, BuildId, Svma};
use relocator_process::apply::outcome::ApplyOutcome;
use relocator_process::targets::Whereabouts;

use crate::plain::{Breakage, PlainRestore, function_at};
use crate::task::Task;

/// A task that was checked.
#[derive(Debug)]
pub struct CheckedTask {
    /// Its number.
    pub pid: i32,
    /// That of its parent.
    pub parent: i32,
    /// Its name.
    pub name: String,
    /// Where its vDSO is, if it has one.
    pub vdso: Option<Avma>,
    /// The build-id of that.
    pub build_id: Option<BuildId>,
    /// The vDSO as it was dumped.
    pub image: Option<Image>,
    /// Its threads.
    pub threads: Vec<CheckedThread>,
    /// Whether the task can be restored and linked.
    pub answer: Answer,
    /// What CRIU alone does with its vDSO, if it has one.
    pub plain: Option<PlainRestore>,
    /// What breaks by that.
    pub broken: Vec<Breakage>,
}

/// Whether a task can be restored and linked.
#[derive(Debug)]
pub enum Answer {
    /// Yes: it had ended, and executes nothing.
    Ended,
    /// Yes: it has no old vDSO.
    Untouched,
    /// Yes: its vDSO is that of the kernel, which CRIU puts in its place.
    Same,
    /// Yes: CRIU takes its vDSO for that of the kernel, which it is not, but no thread is inside
    /// and all functions are at the same offsets.
    TakenForEqual,
    /// Yes, and this is what a link would do.
    Linked(Box<ApplyOutcome>),
    /// No.
    No(No),
}

impl Answer {
    /// Whether it is a yes.
    pub fn is_yes(&self) -> bool {
        !matches!(self, Self::No(_))
    }

    /// A word for machines, which stays as it is.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Untouched => "no-old-vdso",
            Self::Same => "same-vdso",
            Self::TakenForEqual => "taken-for-equal",
            Self::Linked(_) => "linked",
            Self::No(_) => "no",
        }
    }
}

/// Why a task cannot be restored, or not be linked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum No {
    /// The link would refuse it.
    #[error(transparent)]
    Refused(relocator_process::Error),
    /// It has memory that the kernel does not know.
    #[error(
        "CRIU cannot restore it on a kernel before 6.11: the memory at {at} is droppable (MAP_DROPPABLE), as glibc \
         2.41 and later have it for random numbers"
    )]
    Droppable {
        /// Where the first such memory is.
        at: Avma,
    },
    /// It has guard pages that the kernel does not know.
    #[error(
        "CRIU cannot restore it on a kernel before 6.13: there is a guard page without a mapping at {at} \
         (MADV_GUARD_INSTALL), as glibc 2.42 and later put below stacks"
    )]
    GuardPages {
        /// Where the first one is.
        at: Avma,
    },
    /// It executes code of another mode.
    #[error("thread {thread} executes 32-bit code")]
    OtherCode {
        /// The first such thread.
        thread: i32,
    },
    /// CRIU takes its vDSO for another one.
    #[error(
        "CRIU takes its vDSO (build-id {}) for that of the kernel ({}), since sizes and offsets are the same, and \
         puts that in its place under threads and callers that need the old one",
        shown(.old), shown(.new)
    )]
    TakenForEqual {
        /// Build-id of its vDSO.
        old: Option<String>,
        /// Build-id of the kernel's.
        new: Option<String>,
    },
}

fn shown(build_id: &Option<String>) -> &str {
    build_id.as_deref().unwrap_or("none")
}

impl No {
    /// A word for machines, which stays as it is.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(error) => error.code().unwrap_or("refused"),
            Self::Droppable { .. } => "droppable-memory",
            Self::GuardPages { .. } => "guard-pages",
            Self::OtherCode { .. } => "other-code",
            Self::TakenForEqual { .. } => "taken-for-equal",
        }
    }
}

/// A thread that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedThread {
    /// Its number.
    pub id: i32,
    /// Its name, if it has one of its own.
    pub name: Option<String>,
    /// Where it goes on; `None` if that is unknown, as of a thread that runs.
    pub pc: Option<Avma>,
    /// Its contexts inside an old vDSO: its own, and those in signal frames.
    pub contexts: Vec<Context>,
}

/// A context inside an old vDSO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The signal frame that it is in, if a signal had interrupted it.
    pub frame: Option<Avma>,
    /// Where it goes on.
    pub pc: Avma,
    /// The same in the image.
    pub place: Svma,
    /// The function that this is in, and how many bytes behind its entry; `None` in code that
    /// several functions share.
    pub function: Option<(String, u64)>,
    /// What a link makes of it.
    pub fate: Fate,
}

/// What a link makes of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on where it is: it reads nothing more of the kernel's, or was not decided about.
    GoesOn,
    /// It goes on elsewhere: at the entry of its function.
    GoesTo(Avma),
    /// The signal frame is changed, so that it goes back to the entry of its function.
    GoesBack,
}

impl Fate {
    /// A word for machines, which stays as it is.
    pub fn code(self) -> &'static str {
        match self {
            Self::GoesOn => "goes-on",
            Self::GoesTo(_) | Self::GoesBack => "re-enters",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GoesOn => "goes on",
            Self::GoesTo(_) | Self::GoesBack => "goes back to the entry",
        })
    }
}

impl CheckedTask {
    pub(super) fn of(task: &Task) -> Self {
        Self {
            pid: task.pid,
            parent: task.parent,
            name: task.name.clone(),
            vdso: None,
            build_id: None,
            image: None,
            threads: Vec::new(),
            answer: Answer::Ended,
            plain: None,
            broken: Vec::new(),
        }
    }

    /// Notes where threads of a process that runs are.
    pub(super) fn seen_inside(&mut self, seen: &[Whereabouts], vdso: &Range<Avma>) {
        if !self.threads.is_empty() {
            return;
        }
        let image = self.image.as_ref();
        let thread = |one: &Whereabouts| {
            let inside = one.pc.filter(|pc| vdso.contains(pc));
            let context = inside.map(|pc| Context {
                frame: None,
                pc,
                place: Svma(pc.0 - vdso.start.0),
                function: image.and_then(|image| {
                    let place = Svma(pc.0 - vdso.start.0);
                    let (name, behind) = function_at(image, place)?;
                    Some((name.to_owned(), behind))
                }),
                fate: Fate::GoesOn,
            });
            CheckedThread {
                id: one.thread,
                name: None,
                pc: one.pc,
                contexts: context.into_iter().collect(),
            }
        };
        self.threads = seen.iter().map(thread).collect();
    }
}
