//! Subjects, their pages, and CRIU, in a guest.

use std::fs;
use std::io::Write as _;
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

/// The copy of a subject's page beside its image.
const KEPT_PAGE: &str = "checker.page";

/// The number of the process, beside its image.
const KEPT_PID: &str = "checker.pid";

/// What CRIU remembers about a kernel, which is another one's after a restore of a whole machine.
const REMEMBERED: [&str; 2] = ["/run/criu.kdat", "/run/criu.kdat.6"];

/// What CRIU calls an error and goes on without.
const HARMLESS: &str = "binfmt_misc";

/// How long a subject may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the first thread of a subject wakes before the subject is dumped: all others have been
/// running by then.
const TICKS: u64 = 12;

/// The page of the subject with that image.
pub(super) fn page(image: &str) -> PathBuf {
    Path::new(PAGES).join(format!("{image}.page"))
}

/// What a page says now.
pub(super) fn read(page: &Path) -> Result<Page> {
    let bytes = fs::read(page).with_context(|| page.display().to_string())?;
    Page::parse(&bytes).with_context(|| format!("{}: too short", page.display()))
}

/// Starts a subject and waits until all its threads have begun.
pub(super) fn start(subject: &Subject) -> Result<Child> {
    let page = page(&subject.image);
    fs::create_dir_all(PAGES)?;
    fs::write(&page, vec![0; checker::SIZE])?;
    let last = (subject.pid - 1).to_string();
    fs::write("/proc/sys/kernel/ns_last_pid", last).context("ns_last_pid")?;
    let mut child = Command::new("setsid")
        .arg(&subject.program)
        .arg(&page)
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
    let began = Instant::now();
    loop {
        let now = read(&page)?;
        let runs = now.progress.iter().all(|&steps| steps > 0);
        if now.is_ready && now.ticks >= TICKS && runs {
            return Ok(child);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the subject ended: {status}");
        }
        if began.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("the subject did not begin: {now:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Dumps a process to a directory, with its page. It is gone then.
pub(super) fn dump(criu: &Criu, pid: i32, page: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let number = pid.to_string();
    let ran = call(criu, "dump", directory, &["-t", &number], false);
    if !ran.is_success {
        bail!("{}", failure(&ran, &directory.join("dump.log")));
    }
    gone(pid)?;
    fs::copy(page, directory.join(KEPT_PAGE))?;
    fs::write(directory.join(KEPT_PID), number)?;
    Ok(())
}

/// Lays out the page of an image as it was at the dump, in the restore's own epoch.
pub(super) fn lay_out(directory: &Path, page: &Path, epoch: u64) -> Result<(i32, Page)> {
    let mut bytes = fs::read(directory.join(KEPT_PAGE)).context("no page")?;
    let pid = fs::read_to_string(directory.join(KEPT_PID)).context("no process number")?;
    let place = bytes.get_mut(checker::EPOCH..checker::EPOCH + 8);
    place
        .context("the page")?
        .copy_from_slice(&epoch.to_le_bytes());
    fs::create_dir_all(PAGES)?;
    // CRIU maps the file of that name; another one would have another number, not another content.
    let mut file = fs::File::create(page)?;
    file.write_all(&bytes)?;
    let before = Page::parse(&bytes).context("the page")?;
    Ok((pid.trim().parse().context("the process number")?, before))
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

/// Kills a process, and waits until its number is free.
pub(super) fn end(pid: i32) -> Result<()> {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    gone(pid)
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
