//! Dumps and restores, one after the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::image::{self, Process};
use super::job::{Act, Answer, By, Dumped, Fate, IMAGES, OUT, Restore, Restored, Subject, TABLES};
use super::program;
use crate::checker::{Observed, Page, THREADS};

/// The command that links, in a guest.
pub(crate) const RELOCATOR: &str = "/lab/relocator";

/// How the relocator is told where tables are.
const VARIABLE: &str = "RELOCATOR_TABLES";
const KEPT: (&str, &str) = (VARIABLE, TABLES);

/// How long all threads of a restored process may take to come on.
const PATIENCE: Duration = Duration::from_secs(20);

/// Does what a job lists.
pub(super) fn perform(acts: &[Act], say: &mut dyn FnMut(&Answer) -> Result<()>) -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("subreaper")?;
    say(&kernel())?;
    for act in acts {
        let answer = match act {
            Act::Describe => Answer::Described(describe().map_err(|error| format!("{error:#}"))),
            Act::Dump(subject) => Answer::Dumped(dump(subject)),
            Act::Restore(restore) => Answer::Restored(Box::new(self::restore(restore))),
        };
        say(&answer)?;
    }
    say(&Answer::Done)
}

fn kernel() -> Answer {
    let read = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    Answer::Kernel {
        release: read("/proc/sys/kernel/osrelease"),
        clock: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    }
}

/// Leaves the vDSO and its tables. The result is how long that took, in seconds.
fn describe() -> Result<f64> {
    let began = Instant::now();
    let (vdso, tables) = (format!("{OUT}/vdso.so"), format!("{OUT}/tables"));
    let kept = [(VARIABLE, tables.as_str())];
    for words in [&["dump-vdso", "self", "-o", &vdso][..], &["derive", "self"]] {
        let ran = program::run(RELOCATOR, words, &kept);
        if !ran.is_success {
            bail!("relocator {}: {}", words[0], ran.failure);
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

fn dump(subject: &Subject) -> Dumped {
    let began = Instant::now();
    let dumped = image::start(subject).and_then(|(mut child, processes)| {
        let wrong = wrong(&processes);
        let dumped = image::dump(&subject.criu, &processes, &dumped_to(&subject.image));
        if dumped.is_err() {
            let _ = image::end(&processes);
        }
        // CRIU's dump kills; the number of a dead child stays taken until it is waited for.
        let _ = child.wait();
        dumped.map(|()| wrong)
    });
    finished(&subject.image, dumped, began)
}

fn dumped_to(image: &str) -> PathBuf {
    Path::new(OUT).join("images").join(image)
}

/// Wrong answers up to now.
fn wrong(processes: &[Process]) -> u64 {
    let pages = processes.iter().filter_map(|process| process.read().ok());
    pages.map(|page| page.wrong.iter().sum::<u64>()).sum()
}

fn finished(image: &str, dumped: Result<u64>, began: Instant) -> Dumped {
    if dumped.is_err() {
        let _ = fs::remove_dir_all(dumped_to(image));
    }
    Dumped {
        image: image.to_owned(),
        wrong_before: *dumped.as_ref().unwrap_or(&0),
        failure: dumped.err().map(|error| format!("{error:#}")),
        seconds: began.elapsed().as_secs_f64(),
    }
}

fn restore(act: &Restore) -> Restored {
    let mut restored = Restored {
        image: act.image.clone(),
        by: act.by,
        fate: Fate::Runs,
        observed: Observed::default(),
        reports: Vec::new(),
        seconds: 0.0,
        dumped: None,
    };
    let directory = Path::new(IMAGES).join(&act.image);
    match image::lay_out(&directory, &act.image, act.epoch) {
        Ok(laid_out) => {
            let (processes, pages): (Vec<_>, Vec<_>) = laid_out.into_iter().unzip();
            restored.fate = go_on(act, &directory, &processes, &pages, &mut restored);
            if act.dump && restored.fate == Fate::Runs {
                restored.dumped = Some(dump_again(&processes, act));
            }
            let _ = image::end(&processes);
        }
        Err(error) => restored.fate = Fate::NotRestored(format!("{error:#}")),
    }
    restored
}

/// Restores, links and watches.
fn go_on(
    act: &Restore,
    directory: &Path,
    processes: &[Process],
    pages: &[Page],
    restored: &mut Restored,
) -> Fate {
    let began = Instant::now();
    let is_stopped = act.by == By::Relocator;
    if let Err(error) = image::restore(&act.criu, directory, is_stopped, act.fault) {
        return Fate::NotRestored(format!("{error:#}"));
    }
    if is_stopped {
        for process in processes {
            let ran = apply(process.pid, act);
            restored
                .reports
                .extend(serde_json::from_str(&ran.stdout).ok());
            if !ran.is_success {
                return Fate::Refused(ran.failure);
            }
        }
        for process in processes {
            // Nothing happens to a process that died meanwhile; that shows next.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGCONT);
        }
    }
    restored.seconds = began.elapsed().as_secs_f64();
    let time = Duration::from_millis(act.observe_ms);
    for ((process, before), number) in processes.iter().zip(pages).zip(0..) {
        match watch(process, before, time) {
            Ok((fate, observed)) => {
                restored.observed.merge(observed, number);
                if fate != Fate::Runs {
                    return fate;
                }
            }
            Err(error) => return Fate::Lost(format!("{error:#}")),
        }
    }
    Fate::Runs
}

fn apply(pid: i32, act: &Restore) -> program::Ran {
    let mut words = vec!["apply".to_owned(), "--json".to_owned()];
    words.extend(["--pid".to_owned(), pid.to_string()]);
    for old in &act.old {
        words.extend(["--old".to_owned(), old.display().to_string()]);
    }
    program::run(RELOCATOR, words, &[KEPT])
}

/// Watches a process for that long, and longer if a thread has not come on yet.
fn watch(process: &Process, before: &Page, time: Duration) -> Result<(Fate, Observed)> {
    let began = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(20).min(time));
        let observed = process.read()?.since(before);
        if let Some(end) = ended(process.pid) {
            return Ok((Fate::Lost(end), observed));
        }
        let elapsed = began.elapsed();
        if elapsed >= time && observed.still.is_empty() {
            return Ok((Fate::Runs, observed));
        }
        if elapsed > time + PATIENCE {
            let still = format!("threads {:?} do not come on", observed.still);
            return Ok((Fate::Lost(still), observed));
        }
    }
}

/// Why a process no longer runs, if it does not.
fn ended(pid: i32) -> Option<String> {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return Some("it is gone".to_owned());
    };
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name).map(str::trim))
    };
    let state = field("State:").unwrap_or_default();
    if state.starts_with(['Z', 'X']) {
        let end = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
        return Some(match end {
            Ok(nix::sys::wait::WaitStatus::Signaled(_, signal, _)) => format!("{signal}"),
            other => format!("{other:?}"),
        });
    }
    let threads = field("Threads:").and_then(|count| count.parse::<usize>().ok());
    match threads {
        Some(THREADS) => None,
        other => Some(format!("{other:?} threads are left")),
    }
}

/// Dumps processes that run here, prepared for it where the relocator knows how.
fn dump_again(processes: &[Process], act: &Restore) -> Dumped {
    let began = Instant::now();
    let wrong = wrong(processes);
    let prepared = processes
        .iter()
        .try_for_each(|process| prepare(process.pid, act.by));
    let dumped = prepared.and_then(|()| image::dump(&act.criu, processes, &dumped_to(&act.image)));
    finished(&act.image, dumped.map(|()| wrong), began)
}

/// A linked process is prepared for a dump.
fn prepare(pid: i32, by: By) -> Result<()> {
    if by != By::Relocator {
        return Ok(());
    }
    let ran = program::run(RELOCATOR, ["prepare", "--pid", &pid.to_string()], &[KEPT]);
    match ran.is_success {
        true => Ok(()),
        false => bail!("relocator prepare: {}", ran.failure),
    }
}
