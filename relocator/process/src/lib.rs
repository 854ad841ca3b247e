//! Linking live processes, with all their threads.
//!
//! | module | does |
//! |---|---|
//! | [`targets`] | what stands between a plan and the world: a process |
//! | [`apply`] | links a process, and undoes it |
//! | [`step_out`] | leads the threads of a process out of its vDSO, so that a checkpoint holds none inside |
//! | [`tracing`] | threads of other processes, stopped and driven by `ptrace` |
//! | [`maps`] | the mappings of a process: the one reader of `/proc/PID/maps` |
//! | [`running`] | the running kernel, by this process and others |
//! | [`kept`] | derived tables and vDSOs, kept in a directory for the next time |
//! | [`persist`] | writes files whole or not at all |
//! | [`cpu_features`] | which alternatives the kernel applies on this processor |
//!
//! Nothing here prints, reads the environment, or fetches anything.

pub mod apply;
mod arch;
mod error;
pub mod kept;
pub mod maps;
pub mod persist;
pub mod running;
pub mod step_out;
pub mod targets;
pub mod tracing;

pub use arch::cpu_features;
pub use error::{Error, Obstacle, Refusal, Result, StepFailure, Unlinkable};
