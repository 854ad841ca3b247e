//! Why a context is still inside a vDSO.

use std::fmt;

/// Why a context is still inside a vDSO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StuckReason {
    /// A signal interrupted it, and the handler has not returned.
    InHandler,
    /// Signals come so often that it does not get out.
    Signals,
    /// It blocks `SIGTRAP`, so that it cannot be stepped.
    TrapBlocked,
    /// Its process ignores `SIGTRAP`, so that it cannot be stepped.
    TrapIgnored,
    /// It does not get out by itself, however often it is stepped.
    Loops,
    /// It waits in a system call.
    Waits,
    /// It is in a system call that cannot be interrupted.
    Uninterruptible,
}

impl StuckReason {
    /// A word for machines, which stays as it is.
    pub fn code(self) -> &'static str {
        match self {
            Self::InHandler => "in-handler",
            Self::Signals => "signals",
            Self::TrapBlocked => "trap-blocked",
            Self::TrapIgnored => "trap-ignored",
            Self::Loops => "loops",
            Self::Waits => "waits",
            Self::Uninterruptible => "uninterruptible",
        }
    }
}

impl fmt::Display for StuckReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InHandler => "a signal interrupted it, and the handler has not returned",
            Self::Signals => "signals do not let it get out",
            Self::TrapBlocked => "it blocks SIGTRAP, so that it cannot be stepped",
            Self::TrapIgnored => "its process ignores SIGTRAP, so that it cannot be stepped",
            Self::Loops => "it does not get out by itself",
            Self::Waits => "it waits in a system call",
            Self::Uninterruptible => "it is in a system call that cannot be interrupted",
        })
    }
}
