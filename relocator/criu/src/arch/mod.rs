//! All that this crate knows about an architecture.
//!
//! Images are read on the machine that they are to be restored on, so the compiler selects the
//! folder. A folder for another architecture has to bring:
//!
//! | item | is |
//! |---|---|
//! | `MACHINE` | what CRIU calls it in `core-*.img` |
//! | `Core` | the message in `core-*.img`, of which only the registers differ |
//! | `Core::registers` | those registers as [`relocator::threads`] knows them |
//! | `Processors` | the message in `cpuinfo.img`, and what its processors can execute |

#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod native;

pub(crate) use native::{Core, MACHINE, Processors};
