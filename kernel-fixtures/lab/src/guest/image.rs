//! Subjects, their pages, and CRIU, in a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::job::{Criu, Subject};
use super::program::{self, Ran};
use crate::arch;
use crate::checker::{self, Page};

/// Where subjects have their pages.
const PAGES: &str = "/run/lab";

/// The numbers of the processes, beside their image.
const KEPT_PIDS: &str = "processes";

/// What CRIU remembers about a kernel, which is another one's after a restore of a whole machine.
const REMEMBERED: [&str; 2] = ["/run/criu.kdat", "/run/criu.kdat.6"];

/// How long CRIU's dump may wait for a process to stop, in seconds: longer than usual, since the
/// process may have to wait for a processor itself.
const CRIU_TIMEOUT: &str = "60";

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
    /// Its number.
    pub(super) pid: i32,
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

/// The page of a process of an image.
fn page(image: &str, number: usize) -> PathBuf {
    Path::new(PAGES).join(format!("{image}.{number}.page"))
}

/// The copy of a page beside an image.
fn kept_page(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number}.page"))
}

/// Starts a subject and waits until all its threads have begun.
pub(super) fn start(subject: &Subject) -> Result<(Child, Vec<Process>)> {
    fs::create_dir_all(PAGES)?;
    let pages = (0..subject.processes).map(|number| page(&subject.image, number));
    let pages: Vec<PathBuf> = pages.collect();
    for page in &pages {
        fs::write(page, vec![0; checker::SIZE])?;
    }
    let last = (subject.pid - 1).to_string();
    fs::write("/proc/sys/kernel/ns_last_pid", last).context("ns_last_pid")?;
    let mut child = Command::new("setsid")
        .arg(&subject.program)
        .args(&pages)
        .envs(
            subject
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("setsid")?;
    let began = wait_for(&mut child, &pages);
    let processes = began.and_then(|()| processes(child.id(), pages));
    if processes.is_err() {
        // Its children end by themselves when the guest does.
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok((child, processes?))
}

/// The processes of a subject, in the order of their pages.
fn processes(first: u32, pages: Vec<PathBuf>) -> Result<Vec<Process>> {
    let children = format!("/proc/{first}/task/{first}/children");
    let children = fs::read_to_string(&children).context(children)?;
    let numbers = children.split_whitespace().map(str::parse);
    let mut pids = vec![i32::try_from(first)?];
    pids.extend(numbers.collect::<Result<Vec<i32>, _>>()?);
    if pids.len() != pages.len() {
        bail!("there are processes {pids:?} instead of {}", pages.len());
    }
    let pairs = pids.into_iter().zip(pages);
    Ok(pairs.map(|(pid, page)| Process { pid, page }).collect())
}

fn wait_for(child: &mut Child, pages: &[PathBuf]) -> Result<()> {
    let began = Instant::now();
    let runs = |page: &PathBuf| {
        let now = Page::parse(&fs::read(page)?).context("too short")?;
        let all = now.progress.iter().all(|&steps| steps > 0);
        anyhow::Ok(now.is_ready && now.ticks >= TICKS && all)
    };
    loop {
        let mut all = true;
        for page in pages {
            all &= runs(page)?;
        }
        if all {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("the subject ended: {status}");
        }
        if began.elapsed() > PATIENCE {
            bail!("the subject did not begin");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Dumps processes to a directory, with their pages. They are gone then.
pub(super) fn dump(criu: &Criu, processes: &[Process], directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let first = processes.first().context("no process")?;
    let number = first.pid.to_string();
    let arguments = ["-t", &number, "--timeout", CRIU_TIMEOUT];
    let ran = call(criu, "dump", directory, &arguments, false);
    if !ran.is_success {
        bail!("{}", failure(&ran, &directory.join("dump.log")));
    }
    let mut numbers = String::new();
    for (process, number) in processes.iter().zip(0..) {
        gone(process.pid)?;
        fs::copy(&process.page, kept_page(directory, number))?;
        numbers.push_str(&format!("{}\n", process.pid));
    }
    fs::write(directory.join(KEPT_PIDS), numbers)?;
    Ok(())
}

/// Lays out the pages of an image as they were at the dump, in the restore's own epoch.
pub(super) fn lay_out(directory: &Path, image: &str, epoch: u64) -> Result<Vec<(Process, Page)>> {
    let pids = fs::read_to_string(directory.join(KEPT_PIDS)).context("no process numbers")?;
    fs::create_dir_all(PAGES)?;
    let mut all = Vec::new();
    for (pid, number) in pids.lines().zip(0..) {
        let mut bytes = fs::read(kept_page(directory, number)).context("no page")?;
        let place = bytes.get_mut(checker::EPOCH..checker::EPOCH + 8);
        place
            .context("the page")?
            .copy_from_slice(&epoch.to_le_bytes());
        let page = page(image, number);
        // The process has mapped the file of that name.
        fs::write(&page, &bytes)?;
        let before = Page::parse(&bytes).context("the page")?;
        let pid = pid.parse().context("the process number")?;
        all.push((Process { pid, page }, before));
    }
    Ok(all)
}

/// Restores an image. With `stopped` its threads do not run yet.
pub(super) fn restore(criu: &Criu, directory: &Path, stopped: bool, fault: bool) -> Result<()> {
    let arguments: &[&str] = if stopped { &["-d", "-s"] } else { &["-d"] };
    let ran = call(criu, "restore", directory, arguments, fault);
    match ran.is_success {
        true => Ok(()),
        false => bail!("{}", failure(&ran, &directory.join("restore.log"))),
    }
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

fn call(criu: &Criu, action: &str, directory: &Path, arguments: &[&str], fault: bool) -> Ran {
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
    words.extend(arguments.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    let environment: &[(&str, &str)] = if fault { &[("CRIU_FAULT", "127")] } else { &[] };
    program::run(linker, words, environment)
}

/// Why CRIU failed: its log's errors, or else how it ended.
fn failure(ran: &Ran, log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("Error (") && !line.contains(HARMLESS))
        .map(|line| line.split_once("Error (").map_or(line, |(_, error)| error))
        .take(4)
        .collect();
    match errors.is_empty() {
        true => format!("CRIU: {}", ran.failure),
        false => format!("CRIU: {}", errors.join("; ")),
    }
}
