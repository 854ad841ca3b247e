//! Subjects, their pages, and CRIU, in a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::container::{self, Root};
use super::job::{By, Criu, PLUGINS, Restore, Subject};
use super::program::{self, Ran};
use super::status::Status;
use super::{PAGES, page};
use crate::arch;
use crate::checker::{self, Page};

/// The numbers of the processes, beside their image: each one's own number of it, and how many
/// threads it has.
const KEPT_PIDS: &str = "processes";

/// Where CRIU says what number the first process has, beside the image.
const FIRST: &str = "first";

/// What CRIU remembers about a kernel, which is another one's after a restore of a whole machine.
const REMEMBERED: [&str; 2] = ["/run/criu.kdat", "/run/criu.kdat.6"];

/// How long CRIU's dump may wait for a process to stop, in seconds: longer than usual, since the
/// process may have to wait for a processor itself.
const CRIU_TIMEOUT: &str = "60";

/// Lines of CRIU's log that are shown when it fails.
const SHOWN: usize = 8;

/// What CRIU calls an error and goes on without.
const HARMLESS: &str = "binfmt_misc";

/// How long a subject may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the first thread of a subject wakes before the subject is dumped: all others have been
/// running by then.
const TICKS: u64 = 12;

/// One process of an image.
#[derive(Debug, Clone)]
pub(super) struct Process {
    /// Its number for the guest.
    pub(super) pid: i32,
    /// Its own number of it: another one in a container.
    pub(super) own: i32,
    /// How many threads it has at least.
    pub(super) threads: usize,
    /// Its page.
    page: PathBuf,
}

impl Process {
    /// What its page says now.
    pub(super) fn read(&self) -> Result<Page> {
        let bytes = fs::read(&self.page).with_context(|| self.page.display().to_string())?;
        Page::parse(&bytes).with_context(|| format!("{}: too short", self.page.display()))
    }
}

/// The copy of a page beside an image.
fn kept_page(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number}.page"))
}

/// Starts a subject and waits until all its threads have begun.
pub(super) fn start(subject: &Subject) -> Result<Vec<Process>> {
    fs::create_dir_all(PAGES)?;
    for page in &subject.pages {
        fs::write(page, vec![0; checker::SIZE])?;
    }
    let first = match subject.container {
        Some(_) => container::start(subject)?,
        None => start_alone(subject)?,
    };
    let began = wait_for(first, subject);
    let processes = began.and_then(|()| {
        if let Some(container) = subject.container {
            container::check(first, container)?;
        }
        processes(first, &subject.pages)
    });
    if processes.is_err() {
        // Its children end by themselves when the guest does.
        let _ = kill(Pid::from_raw(first), Signal::SIGKILL);
        let _ = waitpid(Pid::from_raw(first), None);
    }
    processes
}

/// Starts a subject that leads a session. The result is its number.
fn start_alone(subject: &Subject) -> Result<i32> {
    let last = (subject.pid - 1).to_string();
    fs::write("/proc/sys/kernel/ns_last_pid", last).context("ns_last_pid")?;
    let environment = subject.environment.iter();
    let child = Command::new("setsid")
        .args(&subject.command)
        .args(&subject.pages)
        .envs(environment.map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("setsid")?;
    Ok(i32::try_from(child.id())?)
}

/// The processes of a subject, in the order of their pages.
fn processes(first: i32, pages: &[PathBuf]) -> Result<Vec<Process>> {
    let found = family(first)?;
    if found.len() != pages.len() {
        let numbers: Vec<i32> = found.iter().map(|(pid, _)| *pid).collect();
        bail!("there are processes {numbers:?} instead of {}", pages.len());
    }
    let pairs = found.into_iter().zip(pages);
    let processes = pairs.map(|((pid, status), page)| Process {
        pid,
        own: status.own,
        threads: status.threads,
        page: page.clone(),
    });
    Ok(processes.collect())
}

/// A process and its children, with what the kernel says about them.
fn family(first: i32) -> Result<Vec<(i32, Status)>> {
    let children = format!("/proc/{first}/task/{first}/children");
    let children = fs::read_to_string(&children).context(children)?;
    let numbers = children.split_whitespace().map(str::parse);
    let mut pids = vec![first];
    pids.extend(numbers.collect::<Result<Vec<i32>, _>>()?);
    let found = pids.into_iter().map(|pid| Ok((pid, Status::read(pid)?)));
    found.collect()
}

fn wait_for(first: i32, subject: &Subject) -> Result<()> {
    let began = Instant::now();
    let runs = |page: &PathBuf| {
        let now = Page::parse(&fs::read(page)?).context("too short")?;
        let all = now.progress.iter().all(|&steps| steps > 0);
        anyhow::Ok(now.is_ready && now.ticks >= TICKS && all)
    };
    loop {
        let mut all = true;
        for page in &subject.pages {
            all &= runs(page)?;
        }
        if all {
            return Ok(());
        }
        let state = waitpid(Pid::from_raw(first), Some(WaitPidFlag::WNOHANG));
        if state != Ok(WaitStatus::StillAlive) {
            let why = match subject.container {
                Some(_) => container::why(&subject.image),
                None => String::new(),
            };
            bail!("the subject ended: {state:?} {why}");
        }
        if began.elapsed() > PATIENCE {
            bail!("the subject did not begin");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Dumps processes to a directory, with their pages. They are gone then.
pub(super) fn dump(
    criu: &Criu,
    processes: &[Process],
    is_contained: bool,
    directory: &Path,
) -> Result<()> {
    fs::create_dir_all(directory)?;
    let first = processes.first().context("no process")?;
    let number = first.pid.to_string();
    let arguments = ["-t", &number, "--timeout", CRIU_TIMEOUT];
    let mut arguments = arguments.map(str::to_owned).to_vec();
    if is_contained {
        arguments.extend(container::dump_arguments());
    }
    // Some programs begin more threads as they go on.
    let now = processes.iter().map(|process| Status::read(process.pid));
    let now = now.collect::<Result<Vec<Status>>>()?;
    let ran = call(criu, "dump", directory, &arguments, false);
    if !ran.is_success {
        bail!("{}", failure(&ran, &directory.join("dump.log")));
    }
    let mut numbers = String::new();
    for ((process, status), number) in processes.iter().zip(now).zip(0..) {
        gone(process.pid)?;
        fs::copy(&process.page, kept_page(directory, number))?;
        numbers.push_str(&format!("{} {}\n", status.own, status.threads));
    }
    fs::write(directory.join(KEPT_PIDS), numbers)?;
    Ok(())
}

/// A process of an image that is not restored yet.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its own number of it.
    own: i32,
    /// How many threads it has at least.
    threads: usize,
    /// Its page.
    page: PathBuf,
    /// What the page says.
    pub(super) before: Page,
}

/// Lays out the pages of an image as they were at the dump, in the restore's own epoch.
pub(super) fn lay_out(directory: &Path, image: &str, epoch: u64) -> Result<Vec<Kept>> {
    let pids = fs::read_to_string(directory.join(KEPT_PIDS)).context("no process numbers")?;
    fs::create_dir_all(PAGES)?;
    let mut all = Vec::new();
    for (line, number) in pids.lines().zip(0..) {
        let (own, threads) = line.split_once(' ').context("the process numbers")?;
        let mut bytes = fs::read(kept_page(directory, number)).context("no page")?;
        let place = bytes.get_mut(checker::EPOCH..checker::EPOCH + 8);
        place
            .context("the page")?
            .copy_from_slice(&epoch.to_le_bytes());
        let page = page(image, number);
        // The process has mapped the file of that name.
        fs::write(&page, &bytes)?;
        all.push(Kept {
            own: own.parse().context("the process number")?,
            threads: threads.parse().context("the number of threads")?,
            page,
            before: Page::parse(&bytes).context("the page")?,
        });
    }
    Ok(all)
}

/// Restores an image, into the root of a container if there is one, and finds its processes. Those
/// that the relocator links do not run yet.
pub(super) fn restore(
    act: &Restore,
    directory: &Path,
    root: Option<&Root>,
    kept: &[Kept],
) -> Result<Vec<Process>> {
    let first = directory.join(FIRST);
    let _ = fs::remove_file(&first);
    let mut arguments = vec!["-d".to_owned()];
    arguments.extend((act.by == By::Relocator).then(|| "-s".to_owned()));
    arguments.extend(["--pidfile".to_owned(), first.display().to_string()]);
    if let Some(root) = root {
        arguments.extend(container::restore_arguments(root.path()));
    }
    let ran = call(&act.criu, "restore", directory, &arguments, act.fault);
    if !ran.is_success {
        if root.is_none() {
            // The next restore needs the same numbers.
            kept.iter().try_for_each(|process| gone(process.own))?;
        }
        bail!("{}", failure(&ran, &directory.join("restore.log")));
    }
    let first = fs::read_to_string(&first).context("the first process")?;
    let first = first.trim().parse().context("the first process")?;
    if let Some(container) = act.container {
        container::check(first, container)?;
    }
    let found = family(first)?;
    let processes = kept.iter().map(|process| {
        let own = process.own;
        let outside = found.iter().find(|(_, status)| status.own == own);
        let (pid, _) = outside.with_context(|| format!("there is no process {own}"))?;
        Ok(Process {
            pid: *pid,
            own,
            threads: process.threads,
            page: process.page.clone(),
        })
    });
    processes.collect()
}

/// Kills processes, and waits until their numbers are free.
pub(super) fn end(processes: &[Process]) -> Result<()> {
    for process in processes {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    processes.iter().try_for_each(|process| gone(process.pid))
}

/// Waits until there is no such process any more.
fn gone(pid: i32) -> Result<()> {
    let began = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        // Restored processes become children of this one when CRIU ends.
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        if began.elapsed() > PATIENCE {
            bail!("process {pid} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn call(criu: &Criu, action: &str, directory: &Path, arguments: &[String], fault: bool) -> Ran {
    for remembered in REMEMBERED {
        let _ = fs::remove_file(remembered);
    }
    let linker = criu.directory.join(arch::DYNAMIC_LINKER_NAME);
    let log = format!("{action}.log");
    let mut words: Vec<&std::ffi::OsStr> = vec!["--library-path".as_ref()];
    let program = criu.directory.join("criu");
    words.extend([criu.directory.as_os_str(), program.as_os_str()]);
    words.extend([action, "-v4", "-o", &log].map(AsRef::<std::ffi::OsStr>::as_ref));
    words.extend(["-D".as_ref(), directory.as_os_str()]);
    if criu.has_plugin {
        words.extend(["--libdir", PLUGINS].map(AsRef::<std::ffi::OsStr>::as_ref));
    }
    words.extend(arguments.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    let environment: &[(&str, &str)] = if fault { &[("CRIU_FAULT", "127")] } else { &[] };
    program::run(linker, words, environment)
}

/// Why CRIU failed: its log's errors, or else how it ended.
fn failure(ran: &Ran, log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // Nothing that the lab takes for an answer: `--verbose` shows it.
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| is_error(line));
    let end = first
        .map_or(lines.len(), |first| first + 3)
        .min(lines.len());
    for line in &lines[end.saturating_sub(SHOWN)..end] {
        eprintln!("{line}");
    }
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| is_error(line))
        .map(|line| line.split_once("Error (").map_or(line, |(_, error)| error))
        .take(4)
        .collect();
    match errors.is_empty() {
        true => format!("CRIU: {}", ran.failure),
        false => format!("CRIU: {}", errors.join("; ")),
    }
}

fn is_error(line: &str) -> bool {
    line.contains("Error (") && !line.contains(HARMLESS)
}
