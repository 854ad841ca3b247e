//! What can be wrong with an answer of a function.

use nix::errno::Errno;

use crate::entry::Time;

/// How a call differed from the system call, or from what every such call has to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Difference {
    /// Something that must be equal is not.
    #[error("{what}: returned {found}, the system call {expected}")]
    Answer {
        what: &'static str,
        found: String,
        expected: String,
    },
    /// A clock is not between the system calls before and after the call.
    #[error("returned {found}, the system calls before and after it {before} and {after}")]
    Outside {
        found: String,
        before: String,
        after: String,
    },
    /// More than a second, or less than nothing, behind the whole seconds.
    #[error("{count} {unit}")]
    Fraction { count: i64, unit: &'static str },
    /// A clock went back from one way to read it to another, or could not be read.
    #[error("{caller} returned {code} and {time:?} after {earlier} {before:?}")]
    Backwards {
        caller: &'static str,
        code: i64,
        time: Time,
        earlier: &'static str,
        before: Time,
    },
    /// A function does not say how to allocate a state.
    #[error("the result is {code}")]
    Parameters { code: i64 },
    /// A state has no size that a state can have.
    #[error("a state of {size} bytes")]
    StateSize { size: u32 },
    /// A state would be mapped over something else.
    #[error("a state is to be mapped with flags {flags:#x}")]
    StateFlags { flags: u32 },
    /// The kernel does not map a state in the way that the function asks for.
    #[error("a state cannot be mapped as it is to be: {errno}")]
    StateNotMapped { errno: Errno },
    /// A byte of the buffer stays what it was.
    #[error("byte {at} was never written")]
    NeverWritten { at: usize },
    /// A call that fails changes the buffer.
    #[error("byte {at} was written although the call failed")]
    WrittenInFailure { at: usize },
    /// A call writes more than the buffer.
    #[error("bytes behind the buffer were written")]
    BehindBuffer,
    /// Two calls return the same random bytes.
    #[error("the same bytes twice in a row")]
    Repeated,
    /// Random bytes are equal, and too many of them.
    #[error("{run} equal bytes in a row")]
    EqualBytes { run: usize },
    /// A clock cannot be read, or not as a time.
    #[error("the result is {code} and {time:?}")]
    NoTime { code: i64, time: Time },
    /// A clock is far from what the system call says, both in nanoseconds.
    #[error("{found} ns where the system call says {expected}")]
    Stale { found: i128, expected: i128 },
    /// A clock went back from one call to the next, both in nanoseconds.
    #[error("{now} ns after {before}")]
    WentBack { now: i128, before: i128 },
    /// A call returned in the middle of an update.
    #[error("it did not wait for the end of the update")]
    DidNotWait,
}
