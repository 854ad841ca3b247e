//! The program that `relocator demo` works on: threads that read clocks all the time, as any program does.
//!
//! It knows nothing of vDSOs. It calls libc, whose pointers lead into whatever vDSO the auxiliary vector names, and
//! holds each answer against system calls before and after it. On standard input it gets questions, one a line, and
//! answers each with one line of JSON.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
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

#[derive(Default)]
struct Shared {
    /// Calls, by thread.
    calls: Vec<AtomicU64>,
    compared: AtomicU64,
    wrong: AtomicU64,
    stop: AtomicBool,
}

/// Runs until standard input is closed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shared = Arc::new(Shared {
        calls: (0..arguments.threads).map(|_| AtomicU64::new(0)).collect(),
        ..Shared::default()
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
        let calls = self.calls.iter().map(|calls| calls.swap(0, Relaxed));
        let calls: Vec<u64> = calls.collect();
        Count {
            silent: calls.iter().filter(|&&calls| calls == 0).count() as u64,
            calls: calls.iter().sum(),
            compared: self.compared.swap(0, Relaxed),
            wrong: self.wrong.swap(0, Relaxed),
        }
    }
}

/// One thread's life.
fn call(shared: &Shared, number: usize) {
    while !shared.stop.load(Relaxed) {
        for call in CALLS {
            for _ in 0..BATCH {
                std::hint::black_box(call.vdso());
            }
            let is_right = compare(call).2;
            shared.calls[number].fetch_add(u64::from(BATCH) + 1, Relaxed);
            shared.compared.fetch_add(1, Relaxed);
            shared.wrong.fetch_add(u64::from(!is_right), Relaxed);
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
