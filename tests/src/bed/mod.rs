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

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use relocator::source::Source;
use relocator_cli::source::Spec;
pub use relocator_verify::bed::{Bed, OldVdso, PARK, Restored, remote};

use crate::running::in_words;

/// A kernel or a fixture. A kernel is unpacked once, since that takes long: on emulated processors
/// longer than many a test.
pub fn source(spec: &Spec) -> Result<Source, String> {
    static KNOWN: Mutex<BTreeMap<String, Source>> = Mutex::new(BTreeMap::new());
    let name = spec.to_string();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(source) = known.get(&name) {
        return Ok(source.clone());
    }
    let source = spec.open().map_err(|error| in_words(&error))?;
    if matches!(spec, Spec::Kernel(_) | Spec::Fixture(_)) {
        known.insert(name, source.clone());
    }
    Ok(source)
}

/// The vDSO of a source as its kernel would run it on this processor.
pub fn old_vdso(spec: &Spec) -> Result<OldVdso, String> {
    OldVdso::of(&source(spec)?).map_err(|error| in_words(&error))
}
