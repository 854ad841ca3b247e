//! A linker for vDSOs: it makes the code of an old kernel's vDSO run on the vvar of a new kernel.
//!
//! Data flows one way, and each step is a module that the next one reads:
//!
//! | module | does |
//! |---|---|
//! | [`source`] | finds images, kernels and tables: the edge where files and processes are read |
//! | [`tables`] | finds the relocation table of an old image: its own, a file, the cache, or derived |
//! | [`placement`] | says where everything is, or will be, in the process |
//! | [`link`] | resolves needs, chooses and encodes values, moves what does not fit, overwrites entries: bytes in, bytes and a report out |
//! | [`plan`] | decides how each function goes on: keep, relocate, proxy, system call |
//! | [`criu`] | what CRIU writes to vDSOs |
//! | [`proxy`] | the instructions that replace a function's entry |
//! | [`threads`] | carries threads across that were stopped inside the old image: registers and memory in, registers and writes out |
//! | [`target`] | what stands between a plan and the world: a process |
//! | [`apply`] | links a process with all its threads, and undoes it |
//! | [`tracing`] | threads of other processes, stopped and driven by `ptrace` |
//! | [`step_out`] | has the threads of a live process leave its vDSO, so that a checkpoint holds none inside |
//! | [`verify`] | runs the result in a child process and compares it with the system calls |
//! | [`compare`] | puts the strategies side by side |
//! | [`hexadecimal`] | build-ids as they are printed |
//! | [`persist`] | writes files whole or not at all |
//! | [`report`] | the versioned JSON that commands print |
//!
//! The linking core does no I/O. What it needs from an image is read by `elf-tools`.

pub mod apply;
pub mod compare;
pub mod criu;
mod error;
pub mod hexadecimal;
mod input;
pub mod link;
pub mod persist;
pub mod placement;
pub mod plan;
pub mod proxy;
pub mod report;
pub mod source;
pub mod step_out;
pub mod tables;
pub mod target;
pub mod threads;
pub mod tracing;
pub mod verify;

pub use error::{Error, Result};
