//! Why the tool refuses a process.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use elf_tools::Avma;
use nix::errno::Errno;

use crate::tracing::{Limit, Stop};

/// Why the tool refuses a process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is this tool itself.
    OwnProcess,
    /// It is a thread of the kernel.
    KernelThread,
    /// It has ended, and its parent has not waited for it.
    Zombie,
    /// It has ended since, or is ending: what is left of it executes nothing of its program.
    Ended,
    /// It has no memory: it is starting or ending.
    NoMemory,
    /// Its first thread, by way of which its memory is seen, has ended before the others.
    NoFirstThread,
    /// The operating system does not let this user trace it.
    NotPermitted,
    /// Another process traces one of its threads.
    Traced {
        /// The thread.
        thread: i32,
        /// Who traces it.
        tracer: i32,
    },
    /// CRIU is restoring it: a thread is in CRIU's restorer.
    BeingRestored {
        /// The thread.
        thread: i32,
    },
    /// CRIU is restoring it, and traces its threads.
    TracedByCriu {
        /// A thread.
        thread: i32,
        /// CRIU.
        tracer: i32,
    },
    /// It is not dumpable (`PR_SET_DUMPABLE`).
    NotDumpable,
    /// System calls of one of its threads are filtered (seccomp).
    Seccomp {
        /// The thread.
        thread: i32,
    },
    /// It shares its memory with another process, which would not be stopped.
    SharedMemory {
        /// The other process.
        with: i32,
        /// Whether the system says so. Otherwise it does not tell, and both are equally large.
        is_certain: bool,
    },
    /// It is for another machine than linked images are.
    OtherMachine {
        /// What shows it: `its vDSO is for …`.
        shown_by: String,
    },
    /// One of its threads executes code of another machine or mode.
    OtherCode {
        /// The thread.
        thread: i32,
        /// What shows it.
        shown_by: String,
    },
    /// Its control group lets it execute nothing, so that it does not stop either.
    Frozen {
        /// The directory of the group.
        group: PathBuf,
    },
    /// It may not have as much more of something as linking it takes.
    Limited {
        /// The limit.
        limit: Limit,
        /// How much it has, in bytes or mappings.
        used: u64,
        /// How much it may have.
        allowed: u64,
        /// How much more it would need.
        needed: u64,
    },
    /// A mapping that would have to be changed is sealed (`mseal`).
    Sealed {
        /// Where.
        at: Avma,
    },
    /// Memory that the tool has to see does not come.
    Unserved {
        /// Where.
        at: Avma,
    },
    /// The process itself would have to consent to changes of its mappings, while it is stopped.
    Watched {
        /// The mapping.
        at: Avma,
    },
    /// A thread does not stop.
    DoesNotStop {
        /// How long the tool waited.
        patience: Duration,
    },
    /// A thread is in a system call that cannot be interrupted.
    Uninterruptible {
        /// The thread.
        thread: i32,
    },
    /// The tool was to change a thread that has not stopped.
    NotStopped,
    /// Something else stopped a thread that was to make a system call.
    UnexpectedStop {
        /// What has stopped it.
        stop: Stop,
    },
    /// A system call that the tool injected does not end.
    CallDoesNotEnd {
        /// How long the tool waited.
        patience: Duration,
    },
    /// No executable mapping of it ends with bytes of zeros, in which code that makes system calls
    /// would have room.
    NoRoomForCalls,
    /// A step has failed, and the tool has undone all before it.
    Step(StepFailure),
    /// The running kernel's vDSO is not in it.
    NoKernelVdso,
    /// Mappings of the running kernel's are not in it.
    MissingMappings {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// Another kernel was running when it was linked, so this one cannot roll it back.
    LinkedElsewhere,
    /// It cannot be rolled back, since something is where a mapping of the kernel's has to go.
    PlaceTaken {
        /// Where.
        at: Avma,
        /// What is there: its protection and its name.
        by: String,
    },
}

/// Why a step could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepFailure {
    /// Code that was written is not there.
    NotWritten {
        /// Where it should be.
        at: Avma,
    },
    /// No code was prepared for a place.
    NotPrepared {
        /// The place.
        at: Avma,
    },
    /// Something is mapped where nothing should be.
    InUse {
        /// Where.
        at: Avma,
    },
    /// A mapping that must not be covered is in the way.
    Occupied {
        /// Where it begins to be.
        at: Avma,
        /// Its protection and its name.
        by: String,
    },
    /// Data are in the way.
    Data {
        /// Where they begin.
        at: Avma,
    },
    /// A system call that a thread of it was made to make has failed.
    Call {
        /// The call.
        name: String,
        /// Its first argument.
        at: Avma,
        /// What the kernel says.
        errno: Errno,
    },
    /// The kernel has moved a mapping to another place than the tool asked for.
    MovedElsewhere {
        /// Where it should be.
        to: Avma,
        /// Where it is.
        instead: Avma,
    },
}

/// What to do about a process that CRIU has not finished restoring.
const RESTORED: &str =
    "run this in CRIU's `post-resume` script, or after `criu restore -d -s` has ended";

impl Refusal {
    /// A word for machines, which stays as it is.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OwnProcess => "own-process",
            Self::KernelThread => "kernel-thread",
            Self::Zombie => "zombie",
            Self::Ended => "ended",
            Self::NoMemory => "no-memory",
            Self::NoFirstThread => "no-first-thread",
            Self::NotPermitted => "not-permitted",
            Self::Traced { .. } => "traced",
            Self::BeingRestored { .. } | Self::TracedByCriu { .. } => "being-restored",
            Self::NotDumpable => "not-dumpable",
            Self::Seccomp { .. } => "seccomp",
            Self::SharedMemory { .. } => "shared-memory",
            Self::OtherMachine { .. } => "other-machine",
            Self::OtherCode { .. } => "other-code",
            Self::Frozen { .. } => "frozen",
            Self::Limited { .. } => "limited",
            Self::Sealed { .. } => "sealed",
            Self::Unserved { .. } => "unserved-memory",
            Self::Watched { .. } => "watched-memory",
            Self::DoesNotStop { .. } => "does-not-stop",
            Self::Uninterruptible { .. } => "uninterruptible",
            Self::NotStopped => "not-stopped",
            Self::UnexpectedStop { .. } => "unexpected-stop",
            Self::CallDoesNotEnd { .. } => "call-does-not-end",
            Self::NoRoomForCalls => "no-room-for-calls",
            Self::Step(_) => "step-failed",
            Self::NoKernelVdso => "no-kernel-vdso",
            Self::MissingMappings { .. } => "missing-mappings",
            Self::LinkedElsewhere => "linked-elsewhere",
            Self::PlaceTaken { .. } => "place-taken",
        }
    }

    /// A whole sentence about a process.
    pub(super) fn about(&self, pid: i32) -> String {
        match self {
            Self::NotPermitted => {
                format!("cannot trace process {pid}: permission denied (needs CAP_SYS_PTRACE)")
            }
            Self::Step(failure) => {
                format!("cannot change process {pid}: {failure} (all changes were undone)")
            }
            other => format!("process {pid} {other}"),
        }
    }
}

/// What follows `process N`.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnProcess => f.write_str("is this one"),
            Self::KernelThread => f.write_str("is a thread of the kernel"),
            Self::Zombie => f.write_str("has ended, and its parent has not waited for it"),
            Self::Ended => f.write_str("has ended"),
            Self::NoMemory => f.write_str("has no memory: it is starting or ending"),
            Self::NoFirstThread => {
                f.write_str("goes on without its first thread, and such a process cannot be linked")
            }
            Self::NotPermitted => f.write_str("cannot be traced: permission denied"),
            Self::Traced { thread, tracer } => write!(
                f,
                "is already traced: process {tracer} traces its thread {thread}; try again when it has let go"
            ),
            Self::BeingRestored { thread } => write!(
                f,
                "is still being restored (its thread {thread} is in CRIU's restorer); {RESTORED}"
            ),
            Self::TracedByCriu { thread, tracer } => write!(
                f,
                "is still being restored (CRIU, process {tracer}, traces its thread {thread}); {RESTORED}"
            ),
            Self::NotDumpable => f.write_str(
                "is not dumpable: it has asked the kernel to protect its memory (PR_SET_DUMPABLE)",
            ),
            Self::Seccomp { thread } => write!(
                f,
                "cannot move its mappings: seccomp filters the system calls of its thread {thread}"
            ),
            Self::SharedMemory { with, is_certain } => {
                let verb = if *is_certain { "shares" } else { "may share" };
                write!(
                    f,
                    "{verb} its memory with process {with}, as after `vfork`; try again when that one has ended or \
                     executed another program"
                )
            }
            Self::OtherMachine { shown_by } => write!(f, "is not a 64-bit process: {shown_by}"),
            Self::OtherCode { thread, shown_by } => {
                write!(f, "does not only execute 64-bit code: its thread {thread} {shown_by}")
            }
            Self::Frozen { group } => write!(
                f,
                "is frozen by its control group {}, and cannot be stopped for a change; thaw it first",
                group.display()
            ),
            Self::Limited {
                limit,
                used,
                allowed,
                needed,
            } => write!(
                f,
                "has {used} and would need {needed} more than that, of {allowed} that its limit allows: {limit}"
            ),
            Self::Sealed { at } => write!(
                f,
                "has sealed its old vDSO at {at} (mseal), which nobody can put another text in place of any more; \
                 restore it without the seal"
            ),
            Self::Unserved { at } => write!(
                f,
                "has memory at {at} that does not come: a userfaultfd fills it, and nobody answers that; try again when it does, or when the memory is complete"
            ),
            Self::Watched { at } => write!(
                f,
                "watches its mapping at {at} by a userfaultfd of its own, and would have to answer while it is stopped; \
                 try again when it has let go of that memory"
            ),
            Self::DoesNotStop { patience } => write!(f, "does not stop within {patience:?}"),
            Self::Uninterruptible { thread } => write!(
                f,
                "cannot be stopped: its thread {thread} is in a system call that cannot be interrupted, such as `vfork`"
            ),
            Self::NotStopped => f.write_str("is not a stopped thread"),
            Self::UnexpectedStop { stop } => {
                write!(f, "was to make a system call, and was stopped by {stop}")
            }
            Self::CallDoesNotEnd { patience } => {
                write!(f, "does not end a system call within {patience:?}")
            }
            Self::NoRoomForCalls => f.write_str(
                "has no room for code that makes system calls: none of its executable mappings ends with zeros",
            ),
            Self::Step(failure) => write!(f, "could not be changed: {failure}"),
            Self::NoKernelVdso => {
                f.write_str("has no vDSO of the running kernel: there is nothing to link to")
            }
            Self::MissingMappings { names } => {
                write!(f, "has no {}: there is nothing to link to", names.join(", "))
            }
            Self::LinkedElsewhere => f.write_str(
                "was linked on another kernel: it cannot be rolled back on this one, only be linked to it",
            ),
            Self::PlaceTaken { at, by } => write!(
                f,
                "has {by} at {at} now, where a mapping of the kernel's would have to go back to"
            ),
        }
    }
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWritten { at } => write!(f, "code that was written to {at} is not there"),
            Self::NotPrepared { at } => write!(f, "no code was prepared for {at}"),
            Self::InUse { at } => write!(f, "{at} is in use"),
            Self::Occupied { at, by } => write!(f, "{at} holds {by}"),
            Self::Data { at } => write!(f, "{at} holds data"),
            Self::Call { name, at, errno } => {
                write!(f, "{name} of {at} has failed: {}", errno.desc())?;
                match errno {
                    Errno::ENOMEM => {
                        f.write_str(" (RLIMIT_AS, RLIMIT_DATA or vm.max_map_count leave no room)")
                    }
                    Errno::EACCES => f.write_str(
                        " (a security module, or PR_SET_MDWE, does not let it have new code)",
                    ),
                    _ => Ok(()),
                }
            }
            Self::MovedElsewhere { to, instead } => {
                write!(f, "a mapping was to go to {to}, and went to {instead}")
            }
        }
    }
}
