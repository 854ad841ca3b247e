//! What is in the way at the moment.

use relocator::threads::StuckReason;
use std::fmt;
use std::ops::Range;

use elf_tools::{Avma, Svma};

/// What is in the way at the moment, and perhaps not at the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The process changes its mappings all the time.
    ChangingMappings,
    /// No thread of it can make system calls now: each is in a restartable sequence, or about to be
    /// carried across.
    NoThreadForCalls,
    /// Memory that the tool has to see is not there: a `userfaultfd` fills it, of somebody who may be
    /// the process itself.
    Absent {
        /// Where.
        ranges: Vec<Range<Avma>>,
    },
    /// There is more in its stacks than the tool searches while the process stands still.
    Unsearched {
        /// Where.
        ranges: Vec<Range<Avma>>,
    },
    /// System calls of its threads go to the program instead of the kernel at the moment (syscall
    /// user dispatch).
    Dispatched {
        /// One of them.
        thread: i32,
    },
    /// A context is inside a vDSO, and cannot be carried across from where it is.
    Inside {
        /// Where in its image it goes on.
        place: Svma,
        /// The signal frame that it is in, if it was interrupted.
        frame: Option<Avma>,
        /// Why it cannot be carried across.
        why: StuckReason,
        /// How many other contexts cannot either.
        others: usize,
        /// Whether the thread would get out by itself, with a right result.
        goes_on: bool,
    },
}

impl Obstacle {
    /// A word for machines, which stays as it is.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ChangingMappings => "changing-mappings",
            Self::NoThreadForCalls => "no-thread-for-calls",
            Self::Absent { .. } => "absent-memory",
            Self::Unsearched { .. } => "unsearched-stacks",
            Self::Dispatched { .. } => "dispatched-calls",
            Self::Inside { .. } => "thread-inside",
        }
    }
}

/// What follows `process N`.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChangingMappings => f.write_str("keeps changing its mappings"),
            Self::NoThreadForCalls => f.write_str("has no thread that can make system calls now"),
            Self::Absent { ranges } => {
                f.write_str("has memory that is not there")?;
                match ranges.first() {
                    Some(first) => write!(f, ", at {}", first.start),
                    None => Ok(()),
                }
            }
            Self::Dispatched { thread } => write!(
                f,
                "has no thread that can make system calls now: those of its thread {thread} are dispatched to the \
                 program itself (PR_SET_SYSCALL_USER_DISPATCH), as Wine does while it executes another system's code; \
                 try again, with a longer deadline"
            ),
            Self::Unsearched { .. } => f.write_str("has stacks that were not searched yet"),
            Self::Inside {
                place,
                frame,
                why,
                others,
                ..
            } => {
                match frame {
                    Some(at) => write!(f, "was interrupted (signal frame at {at})")?,
                    None => f.write_str("is")?,
                }
                write!(
                    f,
                    " at {place} of a vDSO and cannot be carried across: {why}"
                )?;
                match others {
                    0 => Ok(()),
                    others => write!(f, " (and {others} more)"),
                }
            }
        }
    }
}
