//! Updates while others read: all the time, and one that stops halfway.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Emulated;
use super::clock::State;

impl Emulated {
    /// Has a thread of its own update everything, with a rest of `pause` in between, until what is
    /// returned is dropped.
    ///
    /// Kernels update up to a thousand times a second. With a shorter pause, readers meet updates
    /// more often than they ever do at home.
    pub fn keep_current(self: &Arc<Self>, pause: Duration) -> io::Result<Updater> {
        let shared = Arc::new(Shared::default());
        let (emulated, thread) = (Arc::clone(self), Arc::clone(&shared));
        let work = move || {
            while !thread.stop.load(Ordering::Relaxed) {
                emulated.rewrite();
                thread.updates.fetch_add(1, Ordering::Relaxed);
                thread::sleep(pause);
            }
        };
        let thread = thread::Builder::new().spawn(work)?;
        Ok(Updater {
            shared,
            thread: Some(thread),
        })
    }

    /// Begins an update of every clock, which leaves readers waiting until what is returned is
    /// dropped.
    ///
    /// Other updates wait for that as well: one that this thread makes meanwhile waits for ever.
    pub fn halt(&self) -> Halted<'_> {
        let states = self.lock();
        for clock in &self.plan.clocks {
            clock.begin();
        }
        Halted {
            emulated: self,
            states,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    updates: AtomicU64,
}

/// A thread that keeps an emulated kernel current. Dropping this stops it and waits for its end.
#[derive(Debug)]
pub struct Updater {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Updater {
    /// How many updates there have been.
    pub fn updates(&self) -> u64 {
        self.shared.updates.load(Ordering::Relaxed)
    }
}

impl Drop for Updater {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A panic in it was reported by the thread itself, and there is nothing to add.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// An update that stands still. Dropping this completes it.
#[derive(Debug)]
#[must_use = "the update is completed when this is dropped"]
pub struct Halted<'a> {
    emulated: &'a Emulated,
    states: MutexGuard<'a, Vec<State>>,
}

impl Drop for Halted<'_> {
    fn drop(&mut self) {
        for (clock, state) in self.emulated.plan.clocks.iter().zip(&mut *self.states) {
            clock.rewrite(state);
        }
    }
}
