//! The kernel that runs the tests.

use std::sync::LazyLock;

use relocator_cli::source::Spec;
use relocator_verify::{Running, probe_time_namespace};

pub use relocator::in_words;

/// The running kernel with its symbols, or why it has none.
pub static RUNNING: LazyLock<Result<Running, String>> = LazyLock::new(|| {
    let source = Spec::Own.open().map_err(|error| in_words(&error))?;
    let image = source.require_image().map_err(|error| in_words(&error))?;
    let symtab = source.require_symtab().map_err(|error| in_words(&error))?;
    Ok(Running {
        image: image.clone(),
        symtab: Some(symtab.clone()),
    })
});

/// Whether a process may have a time namespace of its own here, or why not.
pub static TIME_NAMESPACE: LazyLock<Result<(), String>> = LazyLock::new(|| {
    RUNNING.as_ref().map_err(Clone::clone)?;
    probe_time_namespace().map_err(|error| in_words(&error))
});

/// What the running kernel counts cycles with.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Whether other kernels can be emulated here, or why not: they are filled from pages that count with the time-stamp
/// counter.
pub static EMULATION: LazyLock<Result<(), String>> = LazyLock::new(|| {
    RUNNING.as_ref().map_err(Clone::clone)?;
    let source = std::fs::read_to_string(CLOCK_SOURCE);
    let source = source.map_err(|error| format!("{CLOCK_SOURCE}: {error}"))?;
    match source.trim() {
        "tsc" => Ok(()),
        other => Err(format!(
            "the clock source is {other}, and not the time-stamp counter"
        )),
    }
});
