//! Holds back signals that would end this tool at a bad moment.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// The usual signals that end a process.
const TERMINATIONS: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

/// While this exists, signals that would end this process by way of this thread wait.
pub(crate) struct Undisturbed {
    before: Option<SigSet>,
}

impl Undisturbed {
    pub(crate) fn begin() -> Self {
        let terminations: SigSet = TERMINATIONS.into_iter().collect();
        let before = terminations.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        Self { before }
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // It was in force before, so nothing about it can be wrong.
            let _ = before.thread_set_mask();
        }
    }
}
