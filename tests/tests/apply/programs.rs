//! libc's own calls in real programs stay right while these are linked and unlinked under load.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_tests::bed::python::{self, Python};
use relocator_tests::bed::server::Server;
use relocator_tests::bed::{Bed, Restored, old_vdso};
use relocator_tests::stock;
use relocator_tests::trials::{ensure, trial};
use tempfile::TempDir;

use crate::linker::Linker;

const SERVER: &str = env!("CARGO_BIN_EXE_server");

/// How often each program is linked and unlinked.
const TIMES: usize = 20;

/// How long a program is left alone in each state.
const WHILE: Duration = Duration::from_millis(20);

/// How long it is watched when it is linked for good.
const LONG: Duration = Duration::from_millis(500);

/// A kernel without `getrandom` in its vDSO, and one with it.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// What is tried with a vDSO.
type Check = fn(&Spec) -> Result<(), String>;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let python = python::interpreter().map(drop);
    let compiler = static_program().map(drop);
    let always = Ok(());
    let checks: [(&str, &Result<(), String>, Check); 6] = [
        ("python", &python, python_is_right),
        ("server", &always, server_is_right),
        ("static", &compiler, static_program_is_right),
        ("sleep", &always, sleep_is_not_cut_short),
        ("shell", &always, shell_forks),
        ("children", &python, children_are_linked_too),
    ];
    let mut trials = Vec::new();
    for version in KERNELS {
        let fetched = stock::can_be_had(version, listing);
        for (name, possible, check) in &checks {
            let possible = fetched.clone().and((*possible).clone());
            let (spec, check) = (Spec::Kernel(version.to_owned()), *check);
            let name = format!("programs::{version}::{name}");
            trials.push(trial(name, &possible, move || check(&spec)));
        }
    }
    trials
}

fn bed(spec: &Spec) -> Result<Bed, String> {
    let mut bed = Bed::new(old_vdso(spec)?);
    bed.gives_way = true;
    Ok(bed)
}

/// Links a process and unlinks it again, a number of times.
fn cycles(linker: &Linker, pid: i32) -> Result<(), String> {
    for cycle in 0..TIMES {
        let at = |error: String| format!("cycle {cycle}: {error}");
        is(ApplyState::Linked, linker.apply(pid).map_err(at)?.state)?;
        thread::sleep(WHILE);
        is(
            ApplyState::RolledBack,
            linker.roll_back(pid).map_err(at)?.state,
        )?;
        thread::sleep(WHILE);
    }
    Ok(())
}

fn is(expected: ApplyState, found: ApplyState) -> Result<(), String> {
    ensure(expected == found, || {
        format!("{found:?} instead of {expected:?}")
    })
}

/// Python's threads hold each of their calls against the system call.
fn python_is_right(spec: &Spec) -> Result<(), String> {
    let linker = Linker::new(spec)?;
    let mut python = Python::start(&bed(spec)?, &python::interpreter()?)?;
    let pid = python.restored.pid();
    cycles(&linker, pid)?;
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    python.linked()?;
    thread::sleep(LONG);
    let count = python.finish()?;
    ensure(count > 10, || format!("only {count}"))
}

/// Clients hold what the threads of a server say against their own clocks.
fn server_is_right(spec: &Spec) -> Result<(), String> {
    let linker = Linker::new(spec)?;
    let server = Server::start(&bed(spec)?, Path::new(SERVER), 8)?;
    let pid = server.restored.pid();
    cycles(&linker, pid)?;
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    let before = server.requests();
    thread::sleep(LONG);
    let linked = server.requests() - before;
    ensure(linked > 10, || format!("only {linked} when it was linked"))?;
    server.finish().map(drop)
}

/// Its standard output, line by line.
struct Lines(BufReader<std::process::ChildStdout>);

impl Lines {
    fn of(restored: &mut Restored) -> Result<Self, String> {
        let output = restored.child.stdout.take();
        Ok(Self(BufReader::new(output.ok_or("no standard output")?)))
    }

    fn next(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line);
        read.map_err(|error| error.to_string())?;
        Ok(line.trim().to_owned())
    }
}

fn say(restored: &mut Restored, line: &str) -> Result<(), String> {
    let input = restored.child.stdin.as_mut().ok_or("no standard input")?;
    writeln!(input, "{line}").map_err(|error| error.to_string())
}

/// The program that asks for the time without any shared library, or why there is none.
fn static_program() -> Result<&'static [u8], String> {
    const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/static"));
    let failure = option_env!("RELOCATOR_TESTS_NO_STATIC");
    failure.map_or(Ok(PROGRAM), |failure| Err(failure.to_owned()))
}

/// A static program looks for the vDSO itself. It says what was wrong, or how often it has asked.
fn static_program_is_right(spec: &Spec) -> Result<(), String> {
    let linker = Linker::new(spec)?;
    let directory = TempDir::new().map_err(|error| error.to_string())?;
    let path = directory.path().join("static");
    fs::write(&path, static_program()?).map_err(|error| error.to_string())?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&path, mode).map_err(|error| error.to_string())?;
    let mut command = Command::new(path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut restored = bed(spec)?.launch(command)?;
    let mut lines = Lines::of(&mut restored)?;
    let ready = lines.next()?;
    ensure(ready == "ready", || ready)?;
    cycles(&linker, restored.pid())?;
    is(ApplyState::Linked, linker.apply(restored.pid())?.state)?;
    say(&mut restored, "linked")?;
    thread::sleep(LONG);
    drop(restored.child.stdin.take());
    counted(&lines.next()?)
}

/// A process that sleeps in one long system call sleeps as long as it was to. Where a link takes
/// long, it must be one that sleeps longer.
fn sleep_is_not_cut_short(spec: &Spec) -> Result<(), String> {
    let linker = Linker::new(spec)?;
    for seconds in [3, 15, 60, 240] {
        if sleeps(&bed(spec)?, &linker, Duration::from_secs(seconds))? {
            return Ok(());
        }
    }
    Err("it has always ended before it was linked for good".to_owned())
}

/// Links and unlinks a process that sleeps so long: whether it was linked for good before it ended.
fn sleeps(bed: &Bed, linker: &Linker, length: Duration) -> Result<bool, String> {
    let mut command = Command::new("sleep");
    let length_in_words = length.as_secs().to_string();
    command.arg(length_in_words).stdin(Stdio::null());
    let begun = Instant::now();
    let mut restored = bed.launch(command)?;
    let pid = restored.pid();
    let cycles = || -> Result<(), String> {
        while begun.elapsed() < length * 2 / 3 {
            is(ApplyState::Linked, linker.apply(pid)?.state)?;
            is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
        }
        is(ApplyState::Linked, linker.apply(pid)?.state)
    };
    let linked = cycles();
    if let Err(error) = &linked
        && begun.elapsed() < length
    {
        return Err(error.clone());
    }
    let ended = restored.child.wait().map_err(|error| error.to_string())?;
    let took = begun.elapsed();
    ensure(ended.success() && took >= length, || {
        format!("{ended} after {took:?}")
    })?;
    Ok(linked.is_ok())
}

/// A shell that begins children all the time: none is lost, and none fails.
fn shell_forks(spec: &Spec) -> Result<(), String> {
    const LOOP: &str = "trap 'end=1' TERM; n=0; echo ready; while [ -z \"$end\" ]; do
        m=$( ( exit $((n % 7)) ); echo $?$n )
        [ \"$m\" = \"$((n % 7))$n\" ] || { echo \"wrong: $m\"; exit 1; }
        n=$((n + 1)); [ $n != 100 ] || echo enough
    done; echo \"right $n\"";
    let linker = Linker::new(spec)?;
    let mut command = Command::new("sh");
    command.args(["-c", LOOP]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut restored = bed(spec)?.launch(command)?;
    let mut lines = Lines::of(&mut restored)?;
    let ready = lines.next()?;
    ensure(ready == "ready", || ready)?;
    cycles(&linker, restored.pid())?;
    is(ApplyState::Linked, linker.apply(restored.pid())?.state)?;
    let enough = lines.next()?;
    ensure(enough == "enough", || enough)?;
    let pid = Pid::from_raw(restored.pid());
    kill(pid, Signal::SIGTERM).map_err(|errno| errno.to_string())?;
    counted(&lines.next()?)
}

/// What a program says that was right, and how often it looked.
fn counted(said: &str) -> Result<(), String> {
    let count = said.strip_prefix("right ").map(str::parse::<u64>);
    ensure(matches!(count, Some(Ok(100..))), || said.to_owned())
}

/// Parent and child, which forks when it is told to; each holds its clocks against the system call
/// when it is told to.
struct Family {
    parent: Restored,
    lines: Lines,
}

impl Family {
    fn start(bed: &Bed) -> Result<Self, String> {
        const PROGRAM: &str = include_str!("fork.py");
        let mut command = Command::new(python::interpreter()?);
        command.args(["-c", PROGRAM]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut parent = bed.launch(command)?;
        let lines = Lines::of(&mut parent)?;
        Ok(Self { parent, lines })
    }

    fn ask(&mut self, what: &str) -> Result<String, String> {
        say(&mut self.parent, what)?;
        self.lines.next()
    }

    fn fork(&mut self) -> Result<i32, String> {
        let said = self.ask("fork")?;
        said.parse().map_err(|_| format!("{said:?} is no process"))
    }

    /// Both are right; `all` functions, or those that CRIU's jumps cover.
    fn check(&mut self, parent: &str, child: &str) -> Result<(), String> {
        for (who, what) in [("parent", parent), ("child", child)] {
            let said = self.ask(&format!("{who} {what}"))?;
            ensure(said == "right", || format!("{who}, {what}: {said}"))?;
        }
        Ok(())
    }
}

/// A child that a linked process forks is linked, and each of them can be unlinked and linked
/// without the other.
fn children_are_linked_too(spec: &Spec) -> Result<(), String> {
    let linker = Linker::new(spec)?;
    let mut family = Family::start(&bed(spec)?)?;
    let parent = family.parent.pid();
    is(ApplyState::Linked, linker.apply(parent)?.state)?;
    let child = family.fork()?;
    family.check("all", "all")?;
    is(ApplyState::AlreadyLinked, linker.apply(child)?.state)?;
    is(ApplyState::RolledBack, linker.roll_back(child)?.state)?;
    family.check("all", "covered")?;
    let said = family.ask("child all")?;
    ensure(said.contains("clock_getres"), || {
        format!("a child that is linked no more: {said}")
    })?;
    is(ApplyState::RolledBack, linker.roll_back(parent)?.state)?;
    family.check("covered", "covered")?;
    cycles(&linker, child)?;
    is(ApplyState::Linked, linker.apply(child)?.state)?;
    family.check("covered", "all")?;
    is(ApplyState::Linked, linker.apply(parent)?.state)?;
    family.check("all", "all")
}
