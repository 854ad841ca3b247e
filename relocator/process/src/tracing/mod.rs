//! Threads of other processes, stopped and driven by `ptrace`.
//!
//! | module | does |
//! |---|---|
//! | `query` | single mappings of it |
//! | `request` | the system calls; `unsafe` is here, in `pagemap` and in `query` only |
//! | `stop` | why a thread stopped |
//! | `tracee` | one traced thread |
//! | `seize` | stops all threads of a process |
//! | `memory` | the memory of a process |
//! | `reader` | reads it while the process goes on, and gives up in time |
//! | `served` | which files somebody serves, who may not answer |
//! | `mounts` | lines of `mountinfo` |
//! | `standing` | reads it while the process stands still, and waits for nothing |
//! | `pagemap` | which pages of it hold anything |
//! | `process` | a process: whether its threads can be traced at all, and where its vDSOs are |
//! | `undisturbed` | no termination of this tool at a moment when it would hurt the process |
//! | `life` | whether it goes on, or ends |
//! | `frozen` | whether its control group lets it stop |
//! | `limits` | whether there is room for what linking it takes |
//! | `linkable` | what else a process must be to be changed |
//! | `restorer` | whether CRIU has finished restoring it |
//!
//! A tracee belongs to the thread that began to trace it: the kernel refuses every other one.

mod frozen;
mod life;
mod limits;
mod linkable;
mod memory;
mod mounts;
mod pagemap;
mod process;
mod query;
mod reader;
mod request;
mod restorer;
mod seize;
mod served;
mod standing;
mod stop;
mod tracee;
mod undisturbed;

pub use crate::arch::UserRegisters;
pub use limits::Limit;
pub use memory::ProcessMemory;
pub(crate) use pagemap::Pagemap;
pub use process::TraceableProcess;
pub(crate) use process::{auxv_vdso, proc_error};
pub(crate) use query::MappingQuery;
pub(crate) use reader::Reader;
pub use seize::{Seized, Standing, is_gone};
pub(crate) use served::{read_unserved, shared_memory};
pub(crate) use standing::{StandingMemory, read_now};
pub use stop::Stop;
pub use tracee::Tracee;
pub(crate) use undisturbed::Undisturbed;

#[cfg(test)]
mod tests;
