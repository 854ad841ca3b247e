//! The ways for an old process to go on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::{Policy, Strategy};
use crate::verify::in_flight::Treatment;

/// A way for an old process to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Old code on the new vvar: functions that were relocated or need no relocation. Threads that were stopped inside are put
    /// back to the entry.
    Relocate,
    /// Old entries that jump to the new vDSO, with the same care for threads.
    Proxy,
    /// The same code as [`Way::Relocate`], after threads were stepped out of the old code on the old kernel.
    StepOut,
    /// Old entries that make the system call, with the same care for threads.
    Syscall,
    /// The jumps that CRIU writes to the functions that it knows. Threads, and other functions, stay as they are, on a vvar
    /// that is all zeros.
    Criu,
    /// The old code stays as it is, on a vvar that is all zeros.
    Nothing,
    /// The new vDSO as a program that starts on the new kernel calls it: what the others are measured against.
    Native,
}

/// What is executed in a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// The old image, linked.
    Linked(Policy),
    /// The old image on zeros, with the jumps that CRIU writes or without.
    Unlinked { jumps: bool },
    /// That of another way.
    As(Way),
    /// The running kernel's.
    Native,
}

impl Way {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 7] = [
        Self::Relocate,
        Self::Proxy,
        Self::StepOut,
        Self::Syscall,
        Self::Criu,
        Self::Nothing,
        Self::Native,
    ];

    /// Whether it is one of ours, which must not be wrong. Others are there to be compared with.
    pub fn is_ours(self) -> bool {
        !matches!(self, Self::Criu | Self::Nothing | Self::Native)
    }

    pub(super) fn code(self) -> Code {
        match self {
            Self::Relocate => Code::Linked(Policy::Auto),
            Self::Proxy => Code::Linked(Policy::Proxy),
            Self::Syscall => Code::Linked(Policy::Syscall),
            Self::StepOut => Code::As(Self::Relocate),
            Self::Criu => Code::Unlinked { jumps: true },
            Self::Nothing => Code::Unlinked { jumps: false },
            Self::Native => Code::Native,
        }
    }

    /// What is done to threads that are inside when the kernel is swapped. Nobody is inside the running kernel's own.
    pub fn treatment(self) -> Option<Treatment> {
        match self {
            Self::Relocate => Some(Treatment::Relocate),
            Self::Proxy => Some(Treatment::Proxy),
            Self::StepOut => Some(Treatment::StepOut),
            Self::Syscall => Some(Treatment::Syscall),
            Self::Criu => Some(Treatment::Criu),
            Self::Nothing => Some(Treatment::Nothing),
            Self::Native => None,
        }
    }

    /// Whether a function of that strategy came out so.
    pub(super) fn covers(self, strategy: Strategy) -> bool {
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

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relocate => "relocate",
            Self::Proxy => "proxy",
            Self::StepOut => "step-out",
            Self::Syscall => "syscall",
            Self::Criu => "criu",
            Self::Nothing => "nothing",
            Self::Native => "native",
        })
    }
}
