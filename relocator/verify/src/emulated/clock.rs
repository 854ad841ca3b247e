//! One clock of the emulated kernel: an element with a sequence counter of its own.
//!
//! `vdso_write_begin` and `vdso_read_begin` in the kernel's `include/vdso/helpers.h` are the
//! protocol: the counter is odd while the rest is written, and a reader starts again if it was odd
//! or has changed.

use std::hint;
use std::sync::atomic::{Ordering, fence};

use super::copy::Copied;
use super::word::{OwnWord, Word};

/// A clock that follows one of the running kernel.
#[derive(Debug)]
pub(super) struct Clock {
    /// Its sequence counter, which counts on its own: the emulator can rewrite data when the
    /// running kernel does not.
    pub(super) own: OwnWord,
    /// The sequence counter of the clock it follows.
    pub(super) live: Word,
    /// Everything else in it.
    pub(super) fields: Vec<Copied>,
}

/// What is kept from one update to the next.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The sequence of the data that was copied last.
    copied: Option<u64>,
    /// That data, by field.
    values: Vec<u64>,
}

impl Clock {
    /// Copies what the running kernel has now, unless that was copied before. Whether there was
    /// anything to do.
    pub(super) fn refresh(&self, state: &mut State) -> bool {
        if state.copied == Some(self.live.load()) {
            return false;
        }
        self.rewrite(state);
        true
    }

    /// Copies what the running kernel has now.
    pub(super) fn rewrite(&self, state: &mut State) {
        self.read(state);
        self.begin();
        for (field, value) in self.fields.iter().zip(&state.values) {
            field.target.store(*value);
        }
        self.finish();
    }

    /// Tells readers to wait.
    pub(super) fn begin(&self) {
        self.own.store(self.own.load() | 1);
        // No field is seen changed by someone who still sees the counter as it was.
        fence(Ordering::Release);
    }

    fn finish(&self) {
        // Every field is seen changed by someone who sees the counter go on.
        fence(Ordering::Release);
        self.own.store((self.own.load() | 1).wrapping_add(1));
    }

    /// Reads everything as it was at one moment.
    fn read(&self, state: &mut State) {
        loop {
            let sequence = self.live.load();
            if sequence & 1 == 0 {
                fence(Ordering::Acquire);
                state.values.clear();
                state.values.extend(self.fields.iter().map(Copied::load));
                fence(Ordering::Acquire);
                if self.live.load() == sequence {
                    state.copied = Some(sequence);
                    return;
                }
            }
            hint::spin_loop();
        }
    }
}
