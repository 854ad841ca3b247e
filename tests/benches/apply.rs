//! For how long linking a process, and undoing it, has its threads stand still, by the number of threads, next to what merely
//! stopping and releasing them takes.
//!
//! Run with `cargo bench -p relocator-tests --bench apply`. Each is measured by criterion on its own, and then all of them in
//! turns on the same process, since a machine is not equally fast all the time. The table of the latter is printed at the
//! end and is the one to quote; `-- none` as arguments leaves out everything else. On a machine that has other work, stopped time
//! is the time of that work; run it with priority there, as `chrt --rr 10` gives it, and do not look at threads that hammer.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode};
use relocator_process::apply;
use relocator_process::apply::outcome::{ApplyState, ApplyTimes};
use relocator_process::targets::live::Live;
use relocator_tests::bed::control::COVERED;
use relocator_tests::bed::hammer::Hammer;
use relocator_tests::tool::Tool;

const HAMMER: &str = env!("CARGO_BIN_EXE_hammer");

/// What the process was checkpointed with, if it has been fetched, and a fixture otherwise. The
/// second has random numbers, whose states are looked for.
const OLD: [(&str, &str); 2] = [("6.1", "got"), ("6.12", "hidden")];

/// How often each is measured in turns.
const TURNS: usize = 51;

/// How long threads are given to stand still, and to be where they can be carried across.
const PATIENCE: Duration = Duration::from_secs(60);

/// What threads do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// All but one sleep in system calls; that one calls functions of the vDSO.
    Idle,
    /// All but one sleep, on stacks that are parts of one mapping of a gigabyte, with guard pages
    /// between them that are no mappings: as glibc makes them from 2.42 on.
    Shared,
    /// All call functions of the vDSO, but for one that sends them signals.
    Hammering,
}

/// Numbers of threads, and what they do.
const CASES: [(Load, usize); 12] = [
    (Load::Shared, 2),
    (Load::Shared, 64),
    (Load::Shared, 1000),
    (Load::Idle, 1),
    (Load::Idle, 2),
    (Load::Idle, 8),
    (Load::Idle, 64),
    (Load::Idle, 256),
    (Load::Idle, 1000),
    (Load::Hammering, 2),
    (Load::Hammering, 8),
    (Load::Hammering, 64),
];

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "idle",
            Self::Shared => "shared",
            Self::Hammering => "hammering",
        })
    }
}

/// What links, on a bed that lets threads wait for each other.
fn tool(old: (&str, &str)) -> Tool {
    let mut tool = Tool::new(old, PATIENCE);
    tool.bed.gives_way = true;
    tool
}

fn start(tool: &Tool, load: Load, threads: usize) -> Hammer {
    let (calling, idle) = match load {
        Load::Idle | Load::Shared => (0, threads - 1),
        Load::Hammering => (threads - 1, 0),
    };
    let stacks = (load == Load::Shared).then_some(1 << 30);
    let hammer = Hammer::start_on(&tool.bed, Path::new(HAMMER), calling, idle, stacks);
    let hammer = hammer.expect("a hammer");
    hammer.control.set_right(COVERED);
    hammer
}

fn link(tool: &Tool, pid: i32) -> ApplyTimes {
    let done = apply::apply(pid, &tool.kernel, &tool.old, &tool.options);
    let done = done.expect("it is linked");
    assert_eq!(done.state, ApplyState::Linked);
    done.times
}

fn roll_back(tool: &Tool, pid: i32) -> ApplyTimes {
    let done = apply::rollback(pid, &tool.kernel, &tool.old, &tool.options);
    let done = done.expect("it is rolled back");
    assert_eq!(done.state, ApplyState::RolledBack);
    done.times
}

fn stop_and_release(pid: i32) -> ApplyTimes {
    let live = Live::stop(pid, PATIENCE).expect("it stands still");
    let stop = live.stopped_for();
    ApplyTimes {
        stop,
        commit: stop,
        total: live.release(),
    }
}

/// Calls are as slow in wall time as many more of them are in stopped time, so few are asked for.
fn with_criterion(criterion: &mut Criterion, tool: &Tool) {
    let mut group = criterion.benchmark_group(format!("stopped/{}", tool.old[0].name));
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(50));
    for (load, threads) in CASES {
        let mut hammer = None;
        let case = format!("{load}/{threads}");
        let pid_of = |hammer: &mut Option<Hammer>| {
            let hammer = hammer.get_or_insert_with(|| start(tool, load, threads));
            hammer.restored.pid()
        };
        group.bench_function(BenchmarkId::new("stop and release", &case), |bencher| {
            let pid = pid_of(&mut hammer);
            bencher.iter_custom(|count| (0..count).map(|_| stop_and_release(pid).total).sum());
        });
        group.bench_function(BenchmarkId::new("apply", &case), |bencher| {
            let pid = pid_of(&mut hammer);
            let once = |_| {
                let times = link(tool, pid);
                roll_back(tool, pid);
                times.total
            };
            bencher.iter_custom(|count| (0..count).map(once).sum());
        });
        group.bench_function(BenchmarkId::new("rollback", &case), |bencher| {
            let pid = pid_of(&mut hammer);
            let once = |_| {
                link(tool, pid);
                roll_back(tool, pid).total
            };
            bencher.iter_custom(|count| (0..count).map(once).sum());
        });
        if let Some(hammer) = hammer {
            hammer.finish().expect("all answers are right");
        }
    }
    group.finish();
}

/// What was measured of one number of threads.
#[derive(Default)]
struct Measured {
    stop: Vec<ApplyTimes>,
    apply: Vec<ApplyTimes>,
    roll_back: Vec<ApplyTimes>,
}

fn in_turns(tool: &Tool, load: Load, threads: usize) -> Measured {
    let hammer = start(tool, load, threads);
    let pid = hammer.restored.pid();
    let mut measured = Measured::default();
    for _ in 0..turns() {
        measured.stop.push(stop_and_release(pid));
        measured.apply.push(link(tool, pid));
        measured.roll_back.push(roll_back(tool, pid));
    }
    hammer.finish().expect("all answers are right");
    measured
}

/// How often each is measured in turns: once under `cargo test`, as criterion does then.
fn turns() -> usize {
    let measures = std::env::args().any(|argument| argument == "--bench");
    if measures { TURNS } else { 1 }
}

/// The median, in microseconds.
fn median(times: &[ApplyTimes], of: fn(&ApplyTimes) -> Duration) -> f64 {
    let mut all: Vec<Duration> = times.iter().map(of).collect();
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1e6
}

/// Stopped until all stand still, everything is written, all go on: microseconds, and the same per thread beyond the first
/// line of its kind.
fn table(tool: &Tool) {
    let whole = |times: &ApplyTimes| times.total;
    println!(
        "{:9} {:>7} | {:>9} | {:>8} {:>8} {:>8} {:>6} | {:>9} {:>6} | per extra thread: stop, apply, rollback (us)",
        "threads", "", "stop+go", "standing", "written", "apply", "ratio", "rollback", "ratio"
    );
    let mut first: Option<(Load, usize, [f64; 3])> = None;
    for (load, threads) in CASES {
        let measured = in_turns(tool, load, threads);
        let all = [&measured.stop, &measured.apply, &measured.roll_back];
        let [stop, apply, roll_back] = all.map(|times| median(times, whole));
        let standing = median(&measured.apply, |times| times.stop);
        let written = median(&measured.apply, |times| times.commit);
        print!(
            "{load:9} {threads:>7} | {stop:>9.0} | {standing:>8.0} {written:>8.0} {apply:>8.0} {:>6.2} | {roll_back:>9.0} {:>6.2} |",
            apply / stop,
            roll_back / stop
        );
        match first {
            Some((kind, fewest, base)) if kind == load => {
                let growth = |now: f64, then: f64| (now - then) / (threads - fewest) as f64;
                let growths = [stop, apply, roll_back].into_iter().zip(base);
                let growths = growths.map(|(now, then)| format!("{:.2}", growth(now, then)));
                println!(" {}", growths.collect::<Vec<_>>().join(", "));
            }
            _ => {
                first = Some((load, threads, [stop, apply, roll_back]));
                println!();
            }
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let tools = OLD.map(tool);
    for tool in &tools {
        with_criterion(&mut criterion, tool);
    }
    criterion.final_summary();
    for tool in &tools {
        println!("{}", tool.old[0].name);
        table(tool);
    }
}
