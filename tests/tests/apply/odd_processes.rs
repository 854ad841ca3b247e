//! The table of odd processes in `docs/odd-processes.md`: what `apply` does with each, and in which
//! time. What it does has to be as the table says.
//!
//! `RELOCATOR_WRITE_DOCS=1 cargo test -p relocator-tests --test apply -- odd_processes` writes the
//! table anew, with this machine's times.

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator_cli::source::Spec;
use relocator_tests::bed::{Bed, old_vdso};
use relocator_tests::command::relocator;
use relocator_tests::odd::Other;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};
use tempfile::TempDir;

use crate::bounded::{bounded_output, goes_on, start};
use crate::places::{OLD, fetched};
use crate::refused::Odd;
use crate::{hostile, odd, served};

const LOAD: &str = env!("CARGO_BIN_EXE_load");

/// Where the table is, between two lines.
const DOCUMENT: &str = "docs/odd-processes.md";
const BEGIN: &str = "<!-- table -->";
const END: &str = "<!-- end of table -->";

/// Who wants the table to be written.
const WRITE: &str = "RELOCATOR_WRITE_DOCS";

/// How a process is started.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// As one of [`odd`]'s or [`hostile`]'s.
    Kind(&'static str),
    /// As one that has much of something, with that many threads more.
    Load(&'static str, u64, u32),
    /// As a program without an old vDSO.
    Plain,
    /// As one that has ended.
    Ended,
    /// As one that a signal has stopped.
    Stopped,
}

use Start::{Ended, Kind, Load, Plain, Stopped};

/// What it is, how it is started, and what `apply` does: `linked`, or the words that it says.
const ROWS: [(&str, Start, &str); 48] = [
    ("sleeps", Kind(odd::PLAIN), "linked"),
    ("is stopped by `SIGSTOP`", Stopped, "linked"),
    ("has no old vDSO", Plain, "untouched"),
    ("has ended, and nobody waited for it", Ended, "has ended"),
    (
        "has lost its first thread",
        Kind(hostile::HEADLESS),
        "goes on without its first thread",
    ),
    (
        "is in CRIU's restorer",
        Kind(odd::RESTORING),
        "is still being restored",
    ),
    ("waits in code of a compiler", Kind(odd::COMPILED), "linked"),
    (
        "makes short system calls all the time",
        Kind(odd::SLEEPING),
        "linked",
    ),
    (
        "filters the system calls of a thread",
        Kind(odd::FILTERED),
        "seccomp filters",
    ),
    (
        "has a thread in seccomp's strict mode",
        Kind(odd::STRICT),
        "seccomp filters",
    ),
    (
        "is not dumpable, and root's",
        Kind(odd::UNDUMPABLE),
        "is not dumpable",
    ),
    (
        "is not dumpable, and another user's",
        Kind(odd::NOBODYS),
        "is not dumpable",
    ),
    (
        "waits for a child with its memory",
        Kind(odd::VFORKED),
        "shares its memory",
    ),
    (
        "begins and ends threads all the time",
        Kind(odd::SPAWNING),
        "linked",
    ),
    ("forks all the time", Kind(odd::FORKING), "linked"),
    ("has droppable memory", Kind(odd::WITH_STATES), "linked"),
    (
        "has states that lost their mark",
        Kind(odd::UNMARKED),
        "linked",
    ),
    (
        "has a stack that nobody fills (userfaultfd)",
        Kind(hostile::STACK_UNSERVED),
        "does not come",
    ),
    (
        "fills its stack itself (userfaultfd)",
        Kind(hostile::STACK_SERVED),
        "linked",
    ),
    (
        "has an old vDSO that nobody fills",
        Kind(hostile::TEXT_UNSERVED),
        "does not come",
    ),
    (
        "fills its old vDSO itself",
        Kind(hostile::TEXT_SERVED),
        "linked",
    ),
    (
        "maps files that it serves itself (FUSE)",
        Kind(hostile::FILES_SERVED),
        "linked",
    ),
    (
        "maps files that nobody serves",
        Kind(hostile::FILES_UNSERVED),
        "linked",
    ),
    (
        "has a file that it serves next to a stack",
        Kind(hostile::FILE_STACK_SERVED),
        "linked",
    ),
    (
        "has a file that nobody serves next to a stack",
        Kind(hostile::FILE_STACK_UNSERVED),
        "linked",
    ),
    (
        "has sealed its old vDSO (`mseal`)",
        Kind(hostile::SEALED_TEXT),
        "has sealed its old vDSO",
    ),
    (
        "has the kernel's mappings sealed",
        Kind(hostile::SEALED_KERNEL),
        "linked",
    ),
    (
        "must not make data executable (`PR_SET_MDWE`)",
        Kind(hostile::NO_NEW_CODE),
        "linked",
    ),
    (
        "dispatches system calls, not now (Wine)",
        Kind(hostile::DISPATCHING),
        "linked",
    ),
    (
        "dispatches the system calls of all threads",
        Kind(hostile::DISPATCHED),
        "PR_SET_SYSCALL_USER_DISPATCH",
    ),
    (
        "has used up `RLIMIT_AS`",
        Kind(hostile::FULL_SPACE),
        "RLIMIT_AS",
    ),
    (
        "has used up `RLIMIT_DATA`",
        Kind(hostile::FULL_DATA),
        "RLIMIT_DATA",
    ),
    (
        "has used up `vm.max_map_count`",
        Kind(hostile::FULL_MAPPINGS),
        "vm.max_map_count",
    ),
    (
        "has an old vDSO that cannot be read",
        Kind(hostile::EXECUTE_ONLY),
        "can only be executed",
    ),
    ("has 256 threads", Load("nothing", 0, 255), "linked"),
    ("has 1,000 threads", Load("nothing", 0, 999), "linked"),
    (
        "has 10,000 mappings more",
        Load("mappings", 10_000, 0),
        "linked",
    ),
    (
        "has 60,000 mappings more",
        Load("mappings", 60_000, 0),
        "linked",
    ),
    (
        "has 200 stacks in 64 MiB, all in use",
        Load("stacks", 64 << 20, 200),
        "linked",
    ),
    (
        "has 16 MiB of forged contexts on a stack",
        Load("forged", 16 << 20, 1),
        "linked",
    ),
    (
        "has 1 GiB of droppable memory",
        Load("droppable", 1 << 30, 0),
        "linked",
    ),
    (
        "has 1 TiB of droppable memory",
        Load("droppable", 1 << 40, 0),
        "linked",
    ),
    (
        "has 256 MiB in use",
        Load("resident", 256 << 20, 0),
        "linked",
    ),
    ("has 1 TiB reserved", Load("reserved", 1 << 40, 0), "linked"),
    ("has 1 TiB of code", Load("code", 1 << 40, 0), "linked"),
    (
        "has 50 copies of its old vDSO",
        Load("texts", 50, 0),
        "linked",
    ),
    (
        "maps a file with a vDSO 8,000 times",
        Load("files", 8000, 0),
        "linked",
    ),
    (
        "has used 7.75 MB of its main stack",
        Load("main-stack", 7_750_000, 0),
        "linked",
    ),
];

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = fetched(listing)
        .and_then(|()| hostile::can_seal())
        .and_then(|()| served::can_be())
        .and_then(|()| {
            hostile::userfaultfd()
                .map(drop)
                .map_err(|error| in_words(&error))
        });
    vec![trial("odd_processes::table", &possible, table)]
}

/// A process of the table, which ends when this is dropped.
enum Process {
    Odd(Odd),
    Other(Other),
    Child(Child),
}

impl Process {
    fn start(how: Start) -> Result<Self, String> {
        let failed = |error: std::io::Error| in_words(&error);
        Ok(match how {
            Kind(kind) => Self::Odd(start(kind)?),
            Load(kind, amount, threads) => Self::Odd(load(kind, amount, threads)?),
            Plain => {
                let mut command = Command::new("sleep");
                Self::Other(Other::spawn(command.arg("600")).map_err(failed)?)
            }
            Ended => {
                let mut command = Command::new("true");
                Self::Child(command.stdin(Stdio::null()).spawn().map_err(failed)?)
            }
            Stopped => {
                let odd = start(odd::PLAIN)?;
                let sent = kill(Pid::from_raw(odd.pid()), Signal::SIGSTOP);
                sent.map_err(|errno| in_words(&errno))?;
                Self::Odd(odd)
            }
        })
    }

    fn pid(&self) -> i32 {
        match self {
            Self::Odd(odd) => odd.pid(),
            Self::Other(other) => other.pid(),
            Self::Child(child) => child.id().cast_signed(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Child(child) = self {
            let _ = child.wait();
        }
    }
}

/// One that has much of something.
pub(crate) fn load(kind: &str, amount: u64, threads: u32) -> Result<Odd, String> {
    let mut command = Command::new(LOAD);
    command.args([kind, &amount.to_string(), "--threads", &threads.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let bed = Bed::new(old_vdso(&Spec::Kernel(OLD.to_owned()))?);
    let mut restored = bed.launch(command)?;
    let output = restored.child.stdout.take().ok_or("it has no output")?;
    let mut line = String::new();
    let read = BufReader::new(output).read_line(&mut line);
    read.map_err(|error| in_words(&error))?;
    ensure(line == "0\n", || format!("{kind} has said {line:?}"))?;
    Ok(Odd::of(restored))
}

/// Does all of it, and says what is not as it should be.
fn table() -> Result<(), String> {
    let cache = TempDir::new().map_err(|error| in_words(&error))?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(DOCUMENT);
    let document = fs::read_to_string(&path).map_err(|error| format!("{DOCUMENT}: {error}"))?;
    let mut rows =
        "| a process that | `apply` | stopped, ms | all, ms |\n|---|---|---|---|\n".to_owned();
    let mut wrong = Vec::new();
    for (what, how, expected) in ROWS {
        let row = match one(cache.path(), how, expected) {
            Ok(Answer { stopped, took }) => {
                let stopped = stopped.map_or("-".to_owned(), |us| format!("{:.1}", us / 1000.0));
                format!("| {stopped} | {} |", took.as_millis())
            }
            Err(error) => {
                wrong.push(format!("{what}: {error}"));
                continue;
            }
        };
        let known = known(what, expected);
        if !document.contains(&known) {
            wrong.push(format!("{DOCUMENT} has no line `{known}`"));
        }
        let _ = writeln!(rows, "{known} {}", row.trim_start_matches("| "));
    }
    if std::env::var_os(WRITE).is_some() {
        let (before, rest) = document.split_once(BEGIN).ok_or("the table is nowhere")?;
        let (_, after) = rest.split_once(END).ok_or("the table does not end")?;
        let written = format!("{before}{BEGIN}\n\n{rows}\n{END}{after}");
        fs::write(&path, written).map_err(|error| format!("{DOCUMENT}: {error}"))?;
        wrong.retain(|line| !line.starts_with(DOCUMENT));
    }
    ensure(wrong.is_empty(), || wrong.join("\n"))
}

/// The part of a line that is not about time.
fn known(what: &str, expected: &str) -> String {
    match expected {
        "linked" => format!("| {what} | links it |"),
        "untouched" => format!("| {what} | has nothing to do |"),
        words => format!("| {what} | refuses it: \"{words}\" |"),
    }
}

/// What came of one.
struct Answer {
    stopped: Option<f64>,
    took: Duration,
}

fn one(cache: &Path, how: Start, expected: &str) -> Result<Answer, String> {
    let mut process = Process::start(how)?;
    // It sleeps when it has said that it does, but not at once.
    thread::sleep(Duration::from_millis(50));
    let mut command = relocator();
    command.env(relocator_cli::cache::VARIABLE, cache);
    command.args(["apply", "--pid", &process.pid().to_string()]);
    command.args(["--deadline", "2", "--json"]);
    if !matches!(how, Plain) {
        command.args(["--old", &format!("kernel:{OLD}")]);
    }
    let began = Instant::now();
    let ended = bounded_output(command)?;
    let took = began.elapsed();
    let said: Option<serde_json::Value> = serde_json::from_str(&ended.output).ok();
    let state = said.as_ref().and_then(|said| said.get("state")?.as_str());
    let is_right = match (state, ended.status) {
        (Some(state), Some(0)) => state == expected,
        _ => ended.status == Some(1) && ended.said.contains(expected),
    };
    ensure(is_right, || format!("expected {expected:?}: {ended:?}"))?;
    if let Process::Odd(odd) = &mut process
        && !matches!(how, Stopped)
        && !matches!(how, Kind(odd::VFORKED | hostile::HEADLESS))
    {
        goes_on(odd)?;
    }
    let stopped = said
        .as_ref()
        .and_then(|said| said.get("total_us")?.as_f64());
    Ok(Answer {
        stopped: stopped.filter(|_| expected == "linked"),
        took,
    })
}
