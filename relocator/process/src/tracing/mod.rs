//! Threads of other processes, stopped and driven by `ptrace`.
//!
//! | module | does |
//! |---|---|
//! | `request` | the system calls: the only place with `unsafe` |
//! | `stop` | what a thread that is waited for was found to do |
//! | `tracee` | one thread that is traced |
//! | `seize` | all threads of a process, made to stand still |
//! | `memory` | the memory of its process |
//! | `process` | a process: whether its threads can be traced at all, and where its vDSOs are |
//! | `linkable` | what more is demanded of a process that is changed |
//!
//! A tracee belongs to the thread that began to trace it: the kernel refuses every other one.

mod linkable;
mod memory;
mod process;
mod request;
mod seize;
mod stop;
mod tracee;

pub use crate::arch::UserRegisters;
pub use memory::ProcessMemory;
pub use process::TraceableProcess;
pub(crate) use process::{auxv_vdso, proc_error};
pub use seize::{Seized, Standing, is_gone};
pub use stop::Stop;
pub use tracee::Tracee;

#[cfg(test)]
mod tests;
