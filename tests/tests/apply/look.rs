//! What a process looks like from outside, which a tool must leave as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use relocator_tests::trials::ensure;

/// How long it may take until all threads have run, or signals are as they were: dozens of threads
/// take turns.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often signal masks are looked at to know all that a thread usually has.
const LOOKS: usize = 200;

/// A thread at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    state: char,
    tracer: i32,
    blocked: u64,
    /// How often it has been given a processor.
    turns: u64,
}

/// The threads of a process as they usually are.
#[derive(Debug)]
pub(crate) struct Usual {
    pid: i32,
    /// The signals that each blocks: outside of handlers and in them.
    masks: BTreeMap<i32, BTreeSet<u64>>,
}

impl Usual {
    /// Looks at it for a while.
    pub(crate) fn of(pid: i32) -> Result<Self, String> {
        let mut masks: BTreeMap<i32, BTreeSet<u64>> = BTreeMap::new();
        for _ in 0..LOOKS {
            for (thread, task) in tasks(pid)? {
                masks.entry(thread).or_default().insert(task.blocked);
            }
            thread::sleep(Duration::from_micros(300));
        }
        Ok(Self { pid, masks })
    }

    /// Waits until all threads have run and are what they usually are: neither stopped nor traced,
    /// and none blocks signals that it never blocked.
    pub(crate) fn await_all(&self) -> Result<(), String> {
        let before = tasks(self.pid)?;
        let started = Instant::now();
        loop {
            let odd = self.odd(&before)?;
            let Some(odd) = odd else {
                return Ok(());
            };
            ensure(started.elapsed() < PATIENCE, || odd)?;
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What is odd about a thread.
    fn odd(&self, before: &BTreeMap<i32, Task>) -> Result<Option<String>, String> {
        let now = tasks(self.pid)?;
        for (thread, masks) in &self.masks {
            let Some(task) = now.get(thread) else {
                return Err(format!("thread {thread} is gone"));
            };
            let has_run = before.get(thread).is_none_or(|old| task.turns > old.turns);
            let is_stopped = matches!(task.state, 't' | 'T') || task.tracer != 0;
            if is_stopped || !has_run || !masks.contains(&task.blocked) {
                return Ok(Some(format!(
                    "thread {thread} remains odd: {task:x?}, usually one of {masks:x?}"
                )));
            }
        }
        Ok(None)
    }
}

fn tasks(pid: i32) -> Result<BTreeMap<i32, Task>, String> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // Those that have ended meanwhile are missed by whoever needs them.
    let tasks = numbers.filter_map(|thread| Some((thread, task(pid, thread)?)));
    Ok(tasks.collect())
}

fn task(pid: i32, thread: i32) -> Option<Task> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{name}")).ok();
    let status = read("status")?;
    let value = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).map(|(_, it)| it.trim())
    };
    Some(Task {
        state: value("State")?.chars().next()?,
        tracer: value("TracerPid")?.parse().ok()?,
        blocked: u64::from_str_radix(value("SigBlk")?, 16).ok()?,
        turns: read("schedstat")?.split_whitespace().nth(2)?.parse().ok()?,
    })
}

/// The list of its mappings.
pub(crate) fn maps(pid: i32) -> Result<String, String> {
    let path = format!("/proc/{pid}/maps");
    fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

/// Fails if anything can be written and executed.
pub(crate) fn nothing_is_writable_and_executable(pid: i32) -> Result<(), String> {
    let maps = maps(pid)?;
    let protection = |line: &&str| line.split(' ').nth(1).map(str::to_owned);
    let both = |line: &&str| protection(line).is_some_and(|p| p.contains('w') && p.contains('x'));
    match maps.lines().find(both) {
        Some(line) => Err(format!("it can be written and executed: {line}")),
        None => Ok(()),
    }
}
