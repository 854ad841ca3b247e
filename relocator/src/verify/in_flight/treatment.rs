//! What is done to a process when its kernel is another one.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::plan::Policy;

/// A way to deal with a process whose threads may be inside the old vDSO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Treatment {
    /// Old code is linked to the new kernel, and threads are carried across.
    #[default]
    Relocate,
    /// Entries become jumps to the new vDSO, and threads are carried across.
    Proxy,
    /// Entries become system calls, and threads are carried across.
    Syscall,
    /// Threads are stepped out of the old code on the old kernel; then old code is linked. Contexts in signal frames stay as
    /// they are.
    StepOut,
    /// The entries that CRIU knows become jumps to the new vDSO, as CRIU writes them. Threads stay as they are.
    Criu,
    /// The old code stays.
    Nothing,
}

impl Treatment {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Relocate,
        Self::Proxy,
        Self::Syscall,
        Self::StepOut,
        Self::Criu,
        Self::Nothing,
    ];

    /// How the old image is linked, if it is.
    pub(super) fn policy(self) -> Option<Policy> {
        match self {
            Self::Relocate | Self::StepOut => Some(Policy::Auto),
            Self::Proxy => Some(Policy::Proxy),
            Self::Syscall => Some(Policy::Syscall),
            Self::Criu | Self::Nothing => None,
        }
    }

    /// Whether threads and contexts in signal frames are carried across.
    pub(super) fn carries_threads(self) -> bool {
        matches!(self, Self::Relocate | Self::Proxy | Self::Syscall)
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relocate => "relocate",
            Self::Proxy => "proxy",
            Self::Syscall => "syscall",
            Self::StepOut => "step-out",
            Self::Criu => "criu",
            Self::Nothing => "nothing",
        })
    }
}
