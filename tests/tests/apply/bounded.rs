//! Commands end in time whatever a process does, with the right result or with the cause; and the
//! process goes on.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use relocator_cli::source::Spec;
use relocator_tests::bed::old_vdso;
use relocator_tests::command::relocator;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::hostile::{
    self, FILE_STACK_SERVED, FILE_STACK_UNSERVED, FILES_SERVED, FILES_UNSERVED, STACK_SERVED,
    STACK_UNSERVED, TEXT_SERVED, TEXT_UNSERVED,
};
use crate::places::{OLD, fetched};
use crate::refused::Odd;
use crate::served;

/// What a command is told.
const DEADLINE: &str = "2";

/// How long it may take, with its work before and after. This machine may be slow; what is tested
/// is that it ends at all.
const AT_MOST: Duration = Duration::from_secs(60);

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = fetched(listing);
    let served = possible.clone().and_then(|()| has_userfaultfd());
    let mut trials = Vec::new();
    let files = possible.clone().and_then(|()| served::can_be());
    for (what, linked, possible) in [
        (STACK_UNSERVED, false, &served),
        (STACK_SERVED, true, &served),
        (TEXT_UNSERVED, false, &served),
        (TEXT_SERVED, true, &served),
        (FILES_SERVED, true, &files),
        (FILES_UNSERVED, true, &files),
        (FILE_STACK_SERVED, true, &files),
        (FILE_STACK_UNSERVED, true, &files),
    ] {
        let name = format!("bounded::{what}");
        trials.push(trial(name, possible, move || match linked {
            true => links(what),
            false => gives_up(what, "a userfaultfd fills it"),
        }));
        let name = format!("bounded::step_out_{what}");
        trials.push(trial(name, possible, move || steps_out(what)));
    }
    trials
}

/// Whether a `userfaultfd` may wait for faults of the kernel.
fn has_userfaultfd() -> Result<(), String> {
    let opened = hostile::userfaultfd().map(drop);
    opened.map_err(|error| format!("userfaultfd: {error}"))
}

/// A process on a bed.
pub(crate) fn start(what: &str) -> Result<Odd, String> {
    let old = old_vdso(&Spec::Kernel(OLD.to_owned()))?;
    Odd::with(old, what)
}

/// How a command has ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) said: String,
    pub(crate) output: String,
    #[allow(dead_code, reason = "shown where a test fails")]
    pub(crate) took: Duration,
}

/// Runs a command for as long as it may take.
pub(crate) fn run(arguments: &[&str]) -> Result<Ended, String> {
    let mut command = relocator();
    command.args(arguments);
    bounded_output(command)
}

/// The same of one that is about to be run.
pub(crate) fn bounded_output(mut command: Command) -> Result<Ended, String> {
    let failed = |error: std::io::Error| in_words(&error);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().map_err(failed)?;
    let said = collect(child.stderr.take())?;
    let output = collect(child.stdout.take())?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if started.elapsed() > AT_MOST {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{command:?} does not end"));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let took = started.elapsed();
    let joined =
        |text: thread::JoinHandle<String>| text.join().map_err(|_| "a reader has panicked");
    let (said, output) = (joined(said)?, joined(output)?);
    Ok(Ended {
        output,
        status: status.code(),
        said,
        took,
    })
}

fn collect(
    output: Option<impl Read + Send + 'static>,
) -> Result<thread::JoinHandle<String>, String> {
    let mut output = output.ok_or("no output")?;
    Ok(thread::spawn(move || {
        let mut said = String::new();
        let _ = output.read_to_string(&mut said);
        said
    }))
}

pub(crate) fn apply(odd: &Odd) -> Result<Ended, String> {
    let pid = odd.pid().to_string();
    let old = format!("kernel:{OLD}");
    run(&[
        "apply",
        "--json",
        "--pid",
        &pid,
        "--old",
        &old,
        "--deadline",
        DEADLINE,
    ])
}

pub(crate) fn links(what: &str) -> Result<(), String> {
    let mut odd = start(what)?;
    let ended = apply(&odd)?;
    let is_linked = ended.output.contains("\"state\": \"linked\"");
    ensure(ended.status == Some(0) && is_linked, || {
        format!("{ended:?}")
    })?;
    goes_on(&mut odd)
}

pub(crate) fn gives_up(what: &str, words: &str) -> Result<(), String> {
    let mut odd = start(what)?;
    let ended = apply(&odd)?;
    let is_clear = ended.said.trim_end().lines().count() == 1 && ended.said.contains(words);
    ensure(ended.status == Some(1) && is_clear, || format!("{ended:?}"))?;
    goes_on(&mut odd)
}

/// It says what it could not see, or has seen it.
fn steps_out(what: &str) -> Result<(), String> {
    let mut odd = start(what)?;
    let pid = odd.pid().to_string();
    let ended = run(&[
        "step-out",
        "--pid",
        &pid,
        "--resume",
        "--deadline",
        DEADLINE,
    ])?;
    let is_clear = ended.status == Some(0) || ended.said.contains("userfaultfd");
    ensure(matches!(ended.status, Some(0 | 1)) && is_clear, || {
        format!("{ended:?}")
    })?;
    goes_on(&mut odd)
}

/// The process lives, and no thread of it is stopped or traced.
pub(crate) fn goes_on(odd: &mut Odd) -> Result<(), String> {
    let gone = odd.restored.child.try_wait();
    let gone = gone.map_err(|error| in_words(&error))?;
    ensure(gone.is_none(), || {
        format!("the process has ended: {gone:?}")
    })?;
    let path = format!("/proc/{}/task", odd.pid());
    let tasks = std::fs::read_dir(&path).map_err(|error| in_words(&error))?;
    for task in tasks {
        let task = task.map_err(|error| in_words(&error))?;
        // One that has ended since goes on nowhere.
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let stands = status.contains("\nState:\tt") || status.contains("\nState:\tT");
        let is_free = status.contains("\nTracerPid:\t0\n") && !stands;
        ensure(is_free, || format!("it stands still: {status}"))?;
    }
    Ok(())
}
