//! Why a kernel cannot be emulated.

use super::ClockMode;

/// What is in the way, and of which symbol or mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mappings of the kernel do not make a unit with its image.
    #[error("mapping {mapping} of the emulated kernel: {reason}")]
    Mapping {
        /// As in `/proc/PID/maps`.
        mapping: String,
        /// Why not.
        reason: String,
    },
    /// Something that emulation needs is in one of the tables, and in the other one is not.
    #[error("`{symbol}` is missing in the {kernel} kernel")]
    Missing {
        /// Canonical name.
        symbol: String,
        /// `running` or `emulated`.
        kernel: &'static str,
    },
    /// A field that no instruction accesses as a whole.
    #[error("`{symbol}` of the {kernel} kernel has {size} bytes at {address:#x}")]
    Access {
        /// Canonical name.
        symbol: String,
        /// `running` or `emulated`.
        kernel: &'static str,
        /// Its size.
        size: u64,
        /// Where it is in this process.
        address: u64,
    },
    /// Both kernels have a field of that name, and mean different things by it.
    #[error(
        "`{symbol}` has semantic version {emulated} in the emulated kernel and {running} in the running one"
    )]
    Semantics {
        /// Canonical name.
        symbol: String,
        /// Version in the running kernel.
        running: u32,
        /// Version in the emulated kernel.
        emulated: u32,
    },
    /// The running kernel's clock source is another than the processor's counter, from which all
    /// emulated ones are made.
    #[error(
        "the clock mode of the running kernel is {mode}, and only {} ({}) can be emulated from",
        ClockMode::COUNTER.number(),
        ClockMode::COUNTER
    )]
    ClockMode {
        /// `clock_mode` of the running kernel.
        mode: u32,
    },
    /// The operating system refused memory.
    #[error("{what}: {reason}")]
    Memory {
        /// What was to be done.
        what: String,
        /// What the operating system says.
        reason: String,
    },
}

impl Error {
    pub(super) fn memory(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Memory {
            what,
            reason: error.to_string(),
        }
    }
}
