//! Kernels and fixtures as sources, each opened once in a process: to take a kernel apart takes as
//! long as most tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use relocator::source::Source;
use relocator_cli::source::Spec;

use crate::running::in_words;

type Opened = Arc<OnceLock<Result<Source, String>>>;

static OPENED: Mutex<BTreeMap<String, Opened>> = Mutex::new(BTreeMap::new());

/// What a source has. Files and processes change, and are opened each time.
pub fn opened(spec: &Spec) -> Result<Source, String> {
    let open = || spec.open().map_err(|error| in_words(&error));
    match spec {
        Spec::Kernel(_) | Spec::Fixture(_) => {
            let mut all = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
            let source = Arc::clone(all.entry(spec.to_string()).or_default());
            drop(all);
            source.get_or_init(open).clone()
        }
        _ => open(),
    }
}
