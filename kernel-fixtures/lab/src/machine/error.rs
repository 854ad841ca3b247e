//! Why a machine did not do its job.

use std::time::Duration;

/// Why a machine did not do its job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// Somebody asked the lab to end.
    #[error("interrupted; the machine was stopped")]
    Interrupted,
    /// The guest did not end in time.
    #[error("the guest did not end within {} s and was stopped; its console ends with: {console}", limit.as_secs())]
    TimedOut {
        /// The time that it had.
        limit: Duration,
        /// The last lines of the console.
        console: String,
    },
    /// The guest's kernel gave up.
    #[error("the guest's kernel panicked: {line}")]
    Panicked {
        /// What it said.
        line: String,
    },
    /// The guest ended without a result.
    #[error("the guest left no result ({reason}); its console ends with: {console}")]
    NoResult {
        /// What is wrong with the result.
        reason: String,
        /// The last lines of the console.
        console: String,
    },
    /// The emulator itself failed.
    #[error("the emulator failed: {reason}")]
    Emulator {
        /// What it said.
        reason: String,
    },
}
