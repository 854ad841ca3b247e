//! The test bed: programs that run as a restore by CRIU on another kernel leaves them.
//!
//! [`relocator_verify::bed`] starts them. Here is what tests need besides:
//!
//! | module | does |
//! |---|---|
//! | `control` | the page by which a tester and the `hammer` talk |
//! | `hammer` | the program that calls every function all the time, as a tester sees it |
//! | `server`, `python` | real programs that use libc's own calls |

pub mod control;
pub mod hammer;
pub mod python;
pub mod server;

use relocator_cli::source::Spec;
pub use relocator_verify::bed::{Bed, OldVdso, PARK, Restored, remote};

use crate::opened::opened;
use crate::running::in_words;

/// The vDSO of a source as its kernel would run it on this processor.
pub fn old_vdso(spec: &Spec) -> Result<OldVdso, String> {
    let source = opened(spec)?;
    OldVdso::of(&source).map_err(|error| in_words(&error))
}
