//! For how long linking stops a process, and how much memory the tool takes, by what the process
//! has much of.
//!
//! Run with `cargo bench -p relocator-tests --bench bounds`; words after `--` choose kinds. Each
//! line is a process of its own, which this program links and rolls back. Before, the kernel forgets
//! how much memory this program has had at most.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use procfs::process::Process;
use relocator_process::apply;
use relocator_tests::bed::Restored;
use relocator_tests::tool::Tool;

const LOAD: &str = env!("CARGO_BIN_EXE_load");

/// What the process was checkpointed with, if it has been fetched, and a fixture otherwise. It has
/// random numbers, whose states are looked for.
const OLD: (&str, &str) = ("6.12", "hidden");

/// How often each is linked.
const TURNS: usize = 5;

/// How long threads are given.
const PATIENCE: Duration = Duration::from_secs(20);

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// What there is, how much of it, and how many threads.
const CASES: [(&str, usize, usize); 35] = [
    ("nothing", 0, 0),
    ("nothing", 0, 63),
    ("nothing", 0, 255),
    ("nothing", 0, 999),
    ("nothing", 0, 3999),
    ("mappings", 1000, 0),
    ("mappings", 4000, 0),
    ("mappings", 16_000, 0),
    ("mappings", 60_000, 0),
    ("stacks", MIB, 10),
    ("stacks", 16 * MIB, 200),
    ("stacks", 64 * MIB, 200),
    ("stacks", 256 * MIB, 200),
    ("stacks", GIB, 200),
    ("forged", MIB, 1),
    ("forged", 16 * MIB, 1),
    ("forged", 64 * MIB, 1),
    ("forged", 256 * MIB, 1),
    ("droppable", GIB, 0),
    ("droppable", 32 * GIB, 0),
    ("droppable", 1024 * GIB, 0),
    ("resident", MIB, 0),
    ("resident", 64 * MIB, 0),
    ("resident", GIB, 0),
    ("reserved", GIB, 0),
    ("reserved", 1024 * GIB, 0),
    ("code", GIB, 0),
    ("code", 1024 * GIB, 0),
    ("texts", 10, 0),
    ("texts", 100, 0),
    ("texts", 400, 0),
    ("files", 100, 0),
    ("files", 1000, 0),
    ("files", 8000, 0),
    ("main-stack", 7 * MIB + 768 * 1024, 0),
];

fn start(tool: &Tool, kind: &str, amount: usize, threads: usize) -> Restored {
    let mut command = Command::new(LOAD);
    command.args([kind, &amount.to_string(), "--threads", &threads.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut restored = tool.bed.launch(command).expect("a process");
    let output = restored.child.stdout.take().expect("its output");
    let mut line = String::new();
    let read = BufReader::new(output).read_line(&mut line);
    assert!(read.is_ok() && line == "0\n", "{kind} {amount}: {line:?}");
    restored
}

/// What came of one link, with the rollback after it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Once {
    /// For how long the process stood still.
    stopped: Duration,
    /// How long all of it took.
    took: Duration,
    attempts: u32,
    /// Bytes in which no contexts were looked for.
    left_out: u64,
}

fn once(tool: &Tool, pid: i32) -> Result<Once, String> {
    let began = Instant::now();
    let done = apply::apply(pid, &tool.kernel, &tool.old, &tool.options);
    let done = done.map_err(|error| error.to_string())?;
    let took = began.elapsed();
    let undone = apply::rollback(pid, &tool.kernel, &tool.old, &tool.options);
    undone.map_err(|error| error.to_string())?;
    let left_out = done.crossed.left_out.iter();
    Ok(Once {
        stopped: done.times.total,
        took,
        attempts: done.attempts,
        left_out: left_out.map(|range| range.end.0 - range.start.0).sum(),
    })
}

/// The most memory that this process has had, in KiB.
fn peak() -> u64 {
    let status = Process::myself().and_then(|process| process.status());
    status.ok().and_then(|status| status.vmhwm).unwrap_or(0)
}

/// One line of the table.
fn case(tool: &Tool, kind: &str, amount: usize, threads: usize) {
    let process = start(tool, kind, amount, threads);
    // The most that it has had is forgotten.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = peak();
    let results = (0..turns()).map(|_| once(tool, process.pid()));
    let results: Result<Vec<_>, String> = results.collect();
    match results {
        Err(error) => println!("{kind:10} {amount:>14} {threads:>7} | {error}"),
        Ok(mut results) => {
            results.sort_unstable();
            let median = &results[results.len() / 2];
            let (attempts, left_out) = (median.attempts, median.left_out);
            let [stopped, took] = [median.stopped, median.took].map(|time| time.as_micros());
            println!(
                "{kind:10} {amount:>14} {threads:>7} | {stopped:>9} {took:>10} {attempts:>3} {left_out:>12} {:>9}",
                peak() - before
            );
        }
    }
}

fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

fn turns() -> usize {
    if is_measured() { TURNS } else { 1 }
}

fn main() {
    let tool = Tool::new(OLD, PATIENCE);
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    println!(
        "{:10} {:>14} {:>7} | stopped us,   took us, attempts, left out, KiB more",
        "", "amount", "threads"
    );
    for (kind, amount, threads) in CASES {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|word| word == kind);
        // `cargo test` runs few of them.
        let is_small = amount <= 64 * MIB && threads <= 255;
        if is_wanted && (is_measured() || is_small) {
            case(&tool, kind, amount, threads);
        }
    }
}
