//! All that this crate knows about an architecture.
//!
//! A live process runs on the machine that this tool runs on, so the compiler selects the folder. A
//! folder for another architecture has to bring:
//!
//! | item | is |
//! |---|---|
//! | [`UserRegisters`] | the registers of a stopped thread, with neutral accessors |
//! | [`cpu_features`] | which alternatives the kernel applies on this processor |
//! | `call` | the code of an injected call; where system calls have arguments and results |
//! | `is_native`, `is_native_header` | whether images and programs are for this machine |
//! | `GET_REGISTERS`, `SET_REGISTERS`, `RawRegisters` | how `ptrace` hands out registers |
//! | `EXTENDED_STATE`, `LARGEST_STATE` | how it hands out floating point and vector registers |
//! | `OPERAND_REACH` | how far an operand of a vDSO's code reaches |

#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod native;

pub(crate) use native::{
    EXTENDED_STATE, GET_REGISTERS, LARGEST_STATE, OPERAND_REACH, RawRegisters, SET_REGISTERS, call,
    is_native, is_native_header,
};
pub use native::{UserRegisters, cpu_features};
