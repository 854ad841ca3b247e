//! All that this crate knows about an architecture. Live processes are those of the machine that this runs on, so the
//! selection is made when this is compiled.
//!
//! A folder for an architecture has to bring:
//!
//! | item | is |
//! |---|---|
//! | [`UserRegisters`] | the registers of a stopped thread, with neutral accessors |
//! | [`cpu_features`] | which alternatives the kernel applies on this processor |
//! | `call` | the code of an injected call, and where arguments and results of system calls are |
//! | `is_native`, `is_native_header` | whether images and programs are for this machine |
//! | `GET_REGISTERS`, `SET_REGISTERS`, `EXTENDED_STATE`, `LARGEST_STATE` | what `ptrace` calls the register sets |
//! | `OPERAND_REACH` | how far an operand of a vDSO's code reaches |

#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod native;

pub(crate) use native::{
    EXTENDED_STATE, GET_REGISTERS, LARGEST_STATE, OPERAND_REACH, RawRegisters, SET_REGISTERS, call,
    is_native, is_native_header,
};
pub use native::{UserRegisters, cpu_features};
