//! Whether somebody wants the lab to end. Machines that run are stopped then, and what is temporary
//! is removed, as at any other end.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

static WANTED: AtomicBool = AtomicBool::new(false);

/// From here on the signals that ask a program to end are noticed instead of obeyed. To be called
/// before there are other threads.
pub(crate) fn watch() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("signals")?;
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            // Somebody who asks twice does not want to wait.
            if WANTED.swap(true, SeqCst) {
                std::process::exit(128 + signal as i32);
            }
        }
    });
    Ok(())
}

/// Whether the lab is to end.
pub(crate) fn is_wanted() -> bool {
    WANTED.load(SeqCst)
}
