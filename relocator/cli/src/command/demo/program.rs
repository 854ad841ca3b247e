//! The program that `relocator demo` works on: threads that read clocks all the time, as any program does.
//!
//! It knows nothing of vDSOs. It calls libc, whose pointers lead into whatever vDSO the auxiliary vector names, and
//! holds each answer against system calls before and after it. On standard input it gets questions, one a line, and
//! answers each with one line of JSON.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::clocks::{CALLS, Call};
use crate::json::demo::{Count, Look};

/// Calls between two comparisons. Most of the time, threads are inside the vDSO and not in a system call.
const BATCH: u32 = 64;

/// Calls that are timed together.
const TIMED: u32 = 20_000;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Threads that call.
    #[arg(long, default_value_t = 4)]
    threads: usize,
}

/// What the program is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Question {
    /// What each function says now, once, and how long it takes.
    Look,
    /// How many calls were compared since the last time, and how many of them were wrong.
    Count,
}

impl Count {
    /// Adds what was counted later.
    pub(super) fn add(&mut self, later: Self) {
        self.calls += later.calls;
        self.compared += later.compared;
        self.wrong += later.wrong;
        self.silent += later.silent;
    }
}

struct Shared {
    /// By thread.
    tallies: Vec<Mutex<Tally>>,
    stop: AtomicBool,
}

/// What one thread has counted since it was asked last.
#[derive(Default)]
struct Tally {
    /// How often it was asked. A comparison counts only if this is the same before and after it:
    /// otherwise the call may have begun before the process was linked.
    period: u64,
    count: Count,
}

/// Runs until standard input is closed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shared = Arc::new(Shared {
        tallies: (0..arguments.threads).map(|_| Mutex::default()).collect(),
        stop: AtomicBool::new(false),
    });
    let threads: Vec<_> = (0..arguments.threads)
        .map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || call(&shared, number))
        })
        .collect();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Question::Look => serde_json::to_string(&CALLS.map(look))?,
            Question::Count => serde_json::to_string(&shared.take())?,
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    shared.stop.store(true, Relaxed);
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
    }
    Ok(())
}

impl Shared {
    fn take(&self) -> Count {
        let mut total = Count::default();
        for number in 0..self.tallies.len() {
            let mut tally = self.tally(number);
            tally.period += 1;
            let count = std::mem::take(&mut tally.count);
            let silent = u64::from(count.calls == 0);
            total.add(Count { silent, ..count });
        }
        total
    }

    fn tally(&self, number: usize) -> MutexGuard<'_, Tally> {
        let tally = self.tallies[number].lock();
        tally.unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's life.
fn call(shared: &Shared, number: usize) {
    while !shared.stop.load(Relaxed) {
        for call in CALLS {
            let period = shared.tally(number).period;
            for _ in 0..BATCH {
                std::hint::black_box(call.vdso());
            }
            let is_right = compare(call).2;
            let mut tally = shared.tally(number);
            let counts = tally.period == period;
            tally.count.add(Count {
                calls: u64::from(BATCH) + 1,
                compared: u64::from(counts),
                wrong: u64::from(counts && !is_right),
                silent: 0,
            });
        }
    }
}

/// What the function says, what the system call says afterwards, and whether the former is right.
fn compare(call: Call) -> (i128, i128, bool) {
    let before = call.system();
    let value = call.vdso();
    let after = call.system();
    (value, after, (before..=after).contains(&value))
}

fn look(call: Call) -> Look {
    let (value, system, is_right) = compare(call);
    let started = Instant::now();
    for _ in 0..TIMED {
        std::hint::black_box(call.vdso());
    }
    let nanoseconds = started.elapsed().as_secs_f64() * 1e9 / f64::from(TIMED);
    Look {
        value: call.show(value),
        system: call.show(system),
        is_right,
        nanoseconds,
    }
}
