//! x86-64.
//!
//! | module | has |
//! |---|---|
//! | `core` | the registers of a thread |
//! | `processors` | `cpuinfo.img` |

mod core;
mod processors;

pub(crate) use self::core::Core;
pub(crate) use processors::Processors;

/// `X86_64` of the enumeration `march` in CRIU's `core.proto`.
pub(crate) const MACHINE: i32 = 1;
