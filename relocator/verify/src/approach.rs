//! What can be done with a whole process when its kernel is another one.

use std::fmt;

use serde::{Deserialize, Serialize};

use relocator::plan::{Policy, Strategy};

/// A way for a whole process to go on: what `compare` puts side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Approach {
    /// Old code is linked to the new vvar, and threads that were stopped inside are carried across.
    #[default]
    Relocate,
    /// Old entries jump to the new vDSO, and threads are carried across.
    Proxy,
    /// Threads are stepped out of the old code on the old kernel; then old code is linked. Contexts
    /// in signal frames stay as they are.
    StepOut,
    /// Old entries make the system call, and threads are carried across.
    Syscall,
    /// The entries that CRIU knows jump to the new vDSO, as CRIU writes them. Threads and other
    /// functions stay as they are, on a vvar that is all zeros.
    Criu,
    /// Old code and threads stay as they are, on a vvar that is all zeros.
    Nothing,
    /// A program that starts on the new kernel, and calls the new vDSO: what the others are
    /// measured against.
    Native,
}

impl Approach {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::Relocate,
        Self::Proxy,
        Self::StepOut,
        Self::Syscall,
        Self::Criu,
        Self::Nothing,
        Self::Native,
    ];

    /// Those of a process that comes from the old kernel: threads can be inside its vDSO when the
    /// kernel is swapped.
    pub const OF_OLD_PROCESSES: [Self; 6] = [
        Self::Relocate,
        Self::Proxy,
        Self::StepOut,
        Self::Syscall,
        Self::Criu,
        Self::Nothing,
    ];

    /// Its name in reports and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relocate => "relocate",
            Self::Proxy => "proxy",
            Self::StepOut => "step-out",
            Self::Syscall => "syscall",
            Self::Criu => "criu",
            Self::Nothing => "nothing",
            Self::Native => "native",
        }
    }

    /// Whether it is one of ours, which must not be wrong. Others are there to be compared with.
    pub fn is_ours(self) -> bool {
        self.policy().is_some()
    }

    /// How the old image is linked, if it is.
    pub fn policy(self) -> Option<Policy> {
        match self {
            Self::Relocate | Self::StepOut => Some(Policy::Auto),
            Self::Proxy => Some(Policy::Proxy),
            Self::Syscall => Some(Policy::Syscall),
            Self::Criu | Self::Nothing | Self::Native => None,
        }
    }

    /// The approach that executes the same code, if it was measured before this one.
    pub fn code_of(self) -> Option<Self> {
        (self == Self::StepOut).then_some(Self::Relocate)
    }

    /// Whether threads and contexts in signal frames are carried across.
    pub fn carries_threads(self) -> bool {
        matches!(self, Self::Relocate | Self::Proxy | Self::Syscall)
    }

    /// Whether a function of that strategy came out so.
    pub fn covers(self, strategy: Strategy) -> bool {
        match self {
            Self::Relocate | Self::StepOut => {
                matches!(strategy, Strategy::Relocate | Strategy::Keep)
            }
            Self::Proxy => strategy == Strategy::Proxy,
            Self::Syscall => strategy == Strategy::Syscall,
            Self::Criu | Self::Nothing | Self::Native => false,
        }
    }
}

impl fmt::Display for Approach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
