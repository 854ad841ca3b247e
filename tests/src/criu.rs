//! CRIU, from the distribution's packages and without being installed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kernel_source::{CRIU, Cache, TreeRequest};
use nix::libc;
use nix::unistd::{geteuid, setsid};
use tempfile::TempDir;

use crate::running::in_words;

/// Where packages have libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Files that a test may have open: the usual limit of a process.
const FILES: i32 = 1024;

/// With this CRIU takes its own vDSO for another one when it restores: `FI_VDSO_TRAMPOLINES` in its
/// `include/fault-injection.h`.
const TRAMPOLINES: (&str, &str) = ("CRIU_FAULT", "127");

/// How a process is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restore {
    /// On the kernel that it was dumped on: CRIU puts the vDSO of that in place.
    Home,
    /// As on another kernel: CRIU writes its jumps.
    Away,
    /// The same as at home, and stopped.
    HomeStopped,
    /// The same as on another kernel, and stopped.
    AwayStopped,
}

impl Restore {
    fn is_away(self) -> bool {
        matches!(self, Self::Away | Self::AwayStopped)
    }

    fn is_stopped(self) -> bool {
        matches!(self, Self::HomeStopped | Self::AwayStopped)
    }
}

/// CRIU 4.1, the last version that does not know droppable memory (`MAP_DROPPABLE`): its
/// `criu/proc_parse.c` has it from 4.2 on.
pub const CRIU_4_1: TreeRequest<'static> = TreeRequest {
    name: "criu-4.1",
    suites: &["trixie"],
    packages: &["criu"],
};

/// CRIU 3.17.1, in the packages of an older release.
pub const CRIU_3_17: TreeRequest<'static> = TreeRequest {
    name: "criu-3.17",
    suites: &["bookworm"],
    packages: &["criu"],
};

/// Where packages have libraries that were made before `/lib` was a link.
const OLDER_LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// CRIU that works on this machine.
#[derive(Debug, Clone)]
pub struct Criu {
    root: PathBuf,
    /// Where its plugins are; the usual directory, of which a test knows nothing, if not given.
    plugins: Option<PathBuf>,
    /// What its environment has besides that of the test.
    environment: Vec<(String, String)>,
}

impl Criu {
    /// Finds it, and tries it on a process that sleeps; or says why it cannot be used.
    pub fn new() -> Result<Self, String> {
        Self::of(&CRIU)
    }

    /// The same of a version.
    pub fn of(request: &TreeRequest<'_>) -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err("CRIU needs root".to_owned());
        }
        let tree = Cache::locate().tree(request);
        let root = tree.map_err(|error| in_words(&error))?.root;
        let criu = Self {
            root,
            plugins: None,
            environment: Vec::new(),
        };
        let sleeper = dumpable(OsStr::new("sleep")).arg("1000").spawn();
        let mut sleeper = sleeper.map_err(|error| in_words(&error))?;
        let images = Images::new()?;
        let tried = criu.dump(sleeper.id().cast_signed(), &images);
        let tried = tried.map_err(|error| format!("CRIU does not work here: {error}"));
        if tried.is_err() {
            let _ = sleeper.kill();
        }
        let _ = sleeper.wait();
        tried.map(|()| criu)
    }

    /// The same with the plugins in a directory.
    #[must_use]
    pub fn with_plugins(self, directory: &Path) -> Self {
        let plugins = Some(directory.to_owned());
        Self { plugins, ..self }
    }

    /// The same with a variable in its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, action: &str) -> Command {
        const LINKER: &str = "ld-linux-x86-64.so.2";
        let libraries = self.root.join(LIBRARIES);
        let older = self.root.join(OLDER_LIBRARIES);
        let linker = [&libraries, &older].map(|directory| directory.join(LINKER));
        let is_older = !linker[0].exists();
        let mut command = Command::new(&linker[usize::from(is_older)]);
        let systemd = libraries.join("systemd");
        let mut path = libraries.into_os_string();
        for directory in [systemd, older] {
            path.push(OsStr::new(":"));
            path.push(directory);
        }
        command.arg("--library-path").arg(path);
        command.arg(self.root.join("usr/sbin/criu")).arg(action);
        if let Some(plugins) = &self.plugins {
            command.arg("--libdir").arg(plugins);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Dumps a process, which ends.
    pub fn dump(&self, pid: i32, images: &Images) -> Result<(), String> {
        self.dump_with(pid, images, "dump", &[])
    }

    /// The same by another command of CRIU's than `dump`, and with more arguments.
    pub fn dump_with(
        &self,
        pid: i32,
        images: &Images,
        how: &str,
        arguments: &[&OsStr],
    ) -> Result<(), String> {
        let mut command = self.command(how);
        command.args(["-v4", "-o", "dump.log"]);
        command.args(["--tree", &pid.to_string()]);
        if how == "dump" {
            command.arg("--shell-job");
        }
        command.arg("--images-dir").arg(images.path());
        command.args(arguments);
        images.run(command, "dump.log")
    }

    /// Writes what the processors have to images that there are.
    pub fn write_processors(&self, images: &Images) -> Result<(), String> {
        let mut command = self.command("cpuinfo");
        command.args(["dump", "-v4", "-o", "dump.log"]);
        command.arg("--images-dir").arg(images.path());
        images.run(command, "dump.log")
    }

    /// Whether CRIU has a feature (`criu check --feature`).
    pub fn has(&self, feature: &str) -> bool {
        let mut command = self.command("check");
        let status = command.args(["--feature", feature]).status();
        status.is_ok_and(|status| status.success())
    }

    /// Restores it. What CRIU says about its vDSO.
    pub fn restore(&self, images: &Images, how: Restore) -> Result<String, String> {
        let mut command = self.command("restore");
        command.args([
            "--shell-job",
            "--restore-detached",
            "-v4",
            "-o",
            "restore.log",
        ]);
        if how.is_stopped() {
            command.arg("--leave-stopped");
        }
        if how.is_away() {
            command.env(TRAMPOLINES.0, TRAMPOLINES.1);
        }
        command.arg("--images-dir").arg(images.path());
        images.run(command, "restore.log")?;
        let log = images.log("restore.log");
        let said = log
            .lines()
            .filter_map(|line| line.split_once("vdso: Runtime vdso"));
        Ok(said
            .map(|(_, said)| said.trim().to_owned())
            .collect::<Vec<_>>()
            .join("; "))
    }
}

/// A command that starts a program which CRIU can dump wherever these tests run: as the leader of a
/// session of its own, since another may have begun outside of its PID namespace, and without files
/// that somebody else has left open.
pub fn dumpable(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    if !has_rseq_configuration() {
        command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
    }
    leave_nothing_behind(&mut command);
    command
}

/// Whether this kernel says which restartable sequences a thread has registered, which CRIU asks
/// for: from Linux 5.13 on.
fn has_rseq_configuration() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 13),
        _ => true,
    }
}

#[allow(unsafe_code, reason = "code that runs between fork and execution")]
fn leave_nothing_behind(command: &mut Command) {
    let leave = || {
        setsid()?;
        let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
        // SAFETY: a plain system call with numbers.
        match unsafe { libc::close_range(3, libc::c_uint::MAX, flags) } {
            0 => return Ok(()),
            _ => match std::io::Error::last_os_error() {
                // The flag is there from Linux 5.11 on.
                error if error.raw_os_error() == Some(libc::EINVAL) => {}
                error => return Err(error),
            },
        }
        for file in 3..FILES {
            // SAFETY: as above. It fails where there is no file.
            unsafe { libc::fcntl(file, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        Ok(())
    };
    // SAFETY: it makes system calls and nothing else.
    unsafe { command.pre_exec(leave) };
}

/// A directory of images.
#[derive(Debug)]
pub struct Images(TempDir);

impl Images {
    /// An empty one.
    pub fn new() -> Result<Self, String> {
        TempDir::new().map(Self).map_err(|error| in_words(&error))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What CRIU has said: the file `dump.log` or `restore.log`.
    pub fn log(&self, name: &str) -> String {
        let log = fs::read(self.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn run(&self, mut command: Command, log: &str) -> Result<(), String> {
        let status = command.status().map_err(|error| in_words(&error))?;
        if status.success() {
            return Ok(());
        }
        let log = self.log(log);
        let errors = log.lines().filter(|line| line.contains("Error"));
        let last: Vec<&str> = errors.collect();
        Err(format!("{status}: {}", last.join("; ")))
    }
}

/// Waits until a process that was dumped is gone.
pub fn await_end(pid: i32, child: Option<&mut Child>) -> Result<(), String> {
    if let Some(child) = child {
        child.wait().map_err(|error| in_words(&error))?;
    }
    let begun = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("process {pid} does not end"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
