//! Dumps and restores, one after the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::container::{self, Root};
use super::image::{self, Kept, Process};
use super::job::{
    Act, Answer, By, Container, Dumped, Fate, IMAGES, OUT, Restore, Restored, Subject, TABLES,
};
use super::program;
use super::status::Status;
use crate::checker::{Observed, Page};

/// The command that links, in a guest.
pub(crate) const RELOCATOR: &str = "/lab/relocator";

/// How the relocator is told where tables are.
const VARIABLE: &str = "RELOCATOR_TABLES";
const KEPT: (&str, &str) = (VARIABLE, TABLES);

/// How long the relocator may wait for threads, in seconds: longer than usual, since they may have to
/// wait for the one processor.
const DEADLINE: &str = "60";

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
    let dumped = image::start(subject).and_then(|processes| {
        let wrong = wrong(&processes);
        let is_contained = subject.container.is_some();
        let to = dumped_to(&subject.image);
        let dumped = image::dump(&subject.criu, &processes, is_contained, &to);
        if dumped.is_err() {
            let _ = image::end(&processes);
        }
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
    let root = act.container.map(|_| Root::lay_out(&act.image)).transpose();
    let laid_out = root.and_then(|root| {
        let laid_out = image::lay_out(&directory, &act.image, act.epoch)?;
        Ok((root, laid_out))
    });
    match laid_out {
        Ok((root, kept)) => {
            restore_kept(act, &directory, root.as_ref(), &kept, &mut restored);
        }
        Err(error) => restored.fate = Fate::NotRestored(format!("{error:#}")),
    }
    restored
}

/// Restores, goes on with the processes, dumps them again if that is wanted, and ends them.
fn restore_kept(
    act: &Restore,
    directory: &Path,
    root: Option<&Root>,
    kept: &[Kept],
    restored: &mut Restored,
) {
    let began = Instant::now();
    let processes = match image::restore(act, directory, root, kept) {
        Ok(processes) => processes,
        Err(error) => {
            restored.fate = Fate::NotRestored(format!("{error:#}"));
            return;
        }
    };
    restored.fate = go_on(act, &processes, kept, began, restored);
    if act.dump && restored.fate == Fate::Runs {
        restored.dumped = Some(dump_again(&processes, act));
    }
    let _ = image::end(&processes);
}

/// Links what was restored, and watches it. `began` is when the restore began.
fn go_on(
    act: &Restore,
    processes: &[Process],
    kept: &[Kept],
    began: Instant,
    restored: &mut Restored,
) -> Fate {
    if act.by == By::Plugin {
        let lines = plugin_lines(act);
        let is_right = |line: &&String| {
            let said = [": linked", "has no old vDSO", "is linked already"];
            said.iter().any(|words| line.contains(words))
        };
        let linked = lines.iter().filter(is_right).count();
        restored
            .reports
            .extend(lines.iter().cloned().map(Into::into));
        if linked < processes.len() {
            return Fate::Refused(lines.join("; "));
        }
    }
    if act.by == By::Relocator {
        let first = processes.first().map_or(0, |process| process.pid);
        for process in processes {
            let ran = apply(process, first, act);
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
    for ((process, kept), number) in processes.iter().zip(kept).zip(0..) {
        match watch(process, &kept.before, time) {
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

/// What the plugin has said in the log of a restore.
fn plugin_lines(act: &Restore) -> Vec<String> {
    let log = Path::new(IMAGES).join(&act.image).join("restore.log");
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines = log.lines();
    let lines = lines.filter_map(|line| Some(line.split_once("relocator_plugin: ")?.1.to_owned()));
    lines.collect()
}

fn apply(process: &Process, first: i32, act: &Restore) -> program::Ran {
    let mut words = vec!["apply".to_owned(), "--json".to_owned()];
    for old in &act.old {
        words.extend(["--old".to_owned(), old.display().to_string()]);
    }
    relocator(words, process, first, act)
}

/// Runs the relocator on a process: outside of its container, or inside.
fn relocator(mut words: Vec<String>, process: &Process, first: i32, act: &Restore) -> program::Ran {
    let is_inside = act.container == Some(Container::Inside);
    let pid = if is_inside { process.own } else { process.pid };
    words.extend(["--pid".to_owned(), pid.to_string()]);
    words.extend(["--deadline", DEADLINE].map(str::to_owned));
    match is_inside {
        true => container::run_inside(first, RELOCATOR, &words, &[KEPT]),
        false => program::run(RELOCATOR, words, &[KEPT]),
    }
}

/// Watches a process for that long, and longer if a thread has not come on yet.
fn watch(process: &Process, before: &Page, time: Duration) -> Result<(Fate, Observed)> {
    let began = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(20).min(time));
        let observed = process.read()?.since(before);
        if let Some(end) = ended(process) {
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
fn ended(process: &Process) -> Option<String> {
    let Ok(status) = Status::read(process.pid) else {
        return Some("it is gone".to_owned());
    };
    if status.is_dead {
        let end = nix::sys::wait::waitpid(Pid::from_raw(process.pid), None);
        return Some(match end {
            Ok(nix::sys::wait::WaitStatus::Signaled(_, signal, _)) => format!("{signal}"),
            other => format!("{other:?}"),
        });
    }
    let (now, before) = (status.threads, process.threads);
    (now < before).then(|| format!("{now} of {before} threads are left"))
}

/// Dumps processes that run here, prepared for it where the relocator knows how.
fn dump_again(processes: &[Process], act: &Restore) -> Dumped {
    let began = Instant::now();
    let wrong = wrong(processes);
    let first = processes.first().map_or(0, |process| process.pid);
    let prepared = processes
        .iter()
        .try_for_each(|process| prepare(process, first, act));
    let is_contained = act.container.is_some();
    let to = dumped_to(&act.image);
    let dumped = prepared.and_then(|()| image::dump(&act.criu, processes, is_contained, &to));
    finished(&act.image, dumped.map(|()| wrong), began)
}

/// A linked process is prepared for a dump.
fn prepare(process: &Process, first: i32, act: &Restore) -> Result<()> {
    if act.by != By::Relocator {
        return Ok(());
    }
    let ran = relocator(vec!["prepare".to_owned()], process, first, act);
    match ran.is_success {
        true => Ok(()),
        false => bail!("relocator prepare: {}", ran.failure),
    }
}
