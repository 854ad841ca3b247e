//! One run of a virtual machine: a kernel boots, the guest program does its job, the machine ends.
//!
//! Two serial lines lead out of it. The first one is the kernel's console, which ends up in a file
//! and shows a panic. The second one is the guest program's: lines with results, the output of a
//! command, or a terminal. Files come in with the initial file system, and go out as a tar archive
//! on an empty disk.
//!
//! The machine has a time limit. However a run ends, the emulator is gone and its files are
//! removed: also when the lab is interrupted, and the emulator does not outlive a killed lab.

mod console;
mod error;
mod settings;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kernel_source::Tree;
use tempfile::TempDir;

pub(crate) use error::MachineError;
pub(crate) use settings::Settings;

use crate::{arch, interrupt, scratch};

/// How often the emulator is looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// What boots.
pub(crate) struct Boot<'a> {
    /// The kernel file.
    pub(crate) kernel: &'a Path,
    /// The archives of the initial file system.
    pub(crate) layers: Vec<&'a [u8]>,
    /// How much time the guest has.
    pub(crate) limit: Duration,
    /// Memory that it needs beyond the usual.
    pub(crate) extra_mib: u64,
    /// Whether it restores what another guest has dumped.
    pub(crate) restores: bool,
}

/// What becomes of what the guest program says.
pub(crate) enum Channel<'a> {
    /// Each line is passed on.
    Lines(&'a mut (dyn FnMut(&str) + Send)),
    /// Bytes are passed on as they come.
    Output(&'a mut (dyn FnMut(&[u8]) -> io::Result<()> + Send)),
    /// It is connected to this program's terminal.
    Terminal,
}

/// How a run ended. The files are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Ended {
    directory: TempDir,
    /// What the guest's first program said about the guest program's end.
    pub(crate) status: i32,
}

impl Ended {
    /// The directory with the files that the guest left.
    pub(crate) fn files(&self) -> PathBuf {
        self.directory.path().join("out")
    }
}

/// An emulator and how it is to be set up.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    emulator: Tree,
    settings: Settings,
}

impl Machine {
    pub(crate) fn new(emulator: Tree, settings: Settings) -> Self {
        Self { emulator, settings }
    }

    /// How it is set up.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Boots, and waits until the machine has ended.
    pub(crate) fn run(&self, boot: &Boot<'_>, channel: Channel<'_>) -> Result<Ended> {
        let directory = scratch::directory()?;
        let path = |name: &str| directory.path().join(name);
        let mut initrd = File::create(path("initrd"))?;
        for layer in &boot.layers {
            initrd
                .write_all(layer)
                .context("no room for the guest's files")?;
        }
        drop(initrd);
        let disk = File::create(path("disk"))?;
        disk.set_len(self.settings.disk_mib << 20)?;
        let began = Instant::now();
        let mut command = self.command(boot, directory.path());
        let is_terminal = matches!(channel, Channel::Terminal);
        if !is_terminal {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        command.stderr(File::create(path("errors"))?);
        let mut child = Running(command.spawn().context("the emulator")?);
        let output = child.0.stdout.take();
        let (status, passed) = std::thread::scope(|scope| {
            let passing =
                scope.spawn(move || output.map_or(Ok(()), |output| pass(output, channel)));
            let status = wait(&mut child.0, boot.limit, began);
            drop(child);
            (status, passing.join())
        });
        let console = fs::read(path("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let errors = fs::read_to_string(path("errors")).unwrap_or_default();
        let limit = boot.limit;
        if let Some(line) = console::panic(&console) {
            return Err(MachineError::Panicked { line }.into());
        }
        let console = console::end(&console);
        match status? {
            Wait::Interrupted => return Err(MachineError::Interrupted.into()),
            Wait::TimedOut => return Err(MachineError::TimedOut { limit, console }.into()),
            Wait::Ended(status) if !status.success() => {
                let reason = format!("{status}: {}", errors.trim());
                return Err(MachineError::Emulator { reason }.into());
            }
            Wait::Ended(_) => {}
        }
        if let Ok(passed) = passed {
            passed?;
        }
        let status = unpack(&path("disk"), &path("out"));
        let status = status.map_err(|error| MachineError::NoResult {
            reason: format!("{error:#}"),
            console,
        })?;
        fs::remove_file(path("disk"))?;
        fs::remove_file(path("initrd"))?;
        Ok(Ended { directory, status })
    }

    fn command(&self, boot: &Boot<'_>, directory: &Path) -> Command {
        let settings = &self.settings;
        let root = &self.emulator.root;
        let path = |name: &str| directory.join(name).display().to_string();
        // Should the lab be killed, the emulator ends as well.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        command.arg(
            root.join(arch::LIBRARY_DIRECTORIES[0])
                .join(arch::DYNAMIC_LINKER_NAME),
        );
        let libraries: Vec<String> = arch::LIBRARY_DIRECTORIES
            .iter()
            .map(|below| root.join(below).display().to_string())
            .collect();
        command.args(["--library-path", &libraries.join(":")]);
        command.arg(root.join(arch::EMULATOR));
        command.env("QEMU_MODULE_DIR", root.join(arch::EMULATOR_MODULES));
        for below in arch::FIRMWARE_DIRECTORIES {
            command.arg("-L").arg(root.join(below));
        }
        command.args(arch::MACHINE).args(["-monitor", "none"]);
        command.args(settings.arguments(boot.extra_mib, boot.restores));
        command.args(["-serial", &format!("file:{}", path("console"))]);
        command.args([
            "-chardev",
            "stdio,id=guest,signal=off",
            "-serial",
            "chardev:guest",
        ]);
        command.arg("-kernel").arg(boot.kernel);
        command.args(["-initrd", &path("initrd")]);
        command.args(["-append", &settings.kernel_arguments()]);
        let disk = format!("file={},format=raw,if=virtio,cache=unsafe", path("disk"));
        command.args(["-drive", &disk]);
        command
    }
}

/// An emulator, which ends at the latest when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

enum Wait {
    Ended(ExitStatus),
    TimedOut,
    Interrupted,
}

fn wait(child: &mut Child, limit: Duration, began: Instant) -> Result<Wait> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Wait::Ended(status));
        }
        if interrupt::is_wanted() {
            return Ok(Wait::Interrupted);
        }
        if began.elapsed() > limit {
            return Ok(Wait::TimedOut);
        }
        std::thread::sleep(PERIOD);
    }
}

/// Shows what a guest says on the standard output, at once.
pub(crate) fn show(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Passes on what the guest program says, until the emulator ends.
fn pass(mut output: impl Read, channel: Channel<'_>) -> Result<()> {
    match channel {
        Channel::Lines(line) => {
            for text in BufReader::new(output).split(b'\n') {
                line(String::from_utf8_lossy(&text?).trim_end_matches('\r'));
            }
        }
        Channel::Output(take) => {
            let mut bytes = [0; 4096];
            loop {
                let length = output.read(&mut bytes)?;
                if length == 0 {
                    break;
                }
                take(&bytes[..length])?;
            }
        }
        Channel::Terminal => {}
    }
    Ok(())
}

/// Unpacks the archive that the guest has written to its disk. The result is the guest program's
/// status, which the guest writes last but one, before it packs.
fn unpack(disk: &Path, into: &Path) -> Result<i32> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(disk)?));
    archive.set_preserve_mtime(false);
    archive
        .unpack(into)
        .context("its disk has no whole archive; it may be full")?;
    let status = fs::read_to_string(into.join("status")).context("no status")?;
    status.trim().parse().context("its status is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder
                .append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Result<i32> {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        fs::write(&disk, bytes).unwrap();
        unpack(&disk, &directory.path().join("out"))
    }

    #[test]
    fn a_result_has_a_status() {
        let whole = archive(&[("status", "7\n"), ("images/x", "y")]);
        assert_eq!(unpacked(&whole).unwrap(), 7);
        // A disk is larger than the archive on it.
        let mut disk = whole.clone();
        disk.resize(1 << 16, 0);
        assert_eq!(unpacked(&disk).unwrap(), 7);
    }

    #[test]
    fn an_empty_disk_and_a_full_one_are_no_results() {
        let error = |bytes: &[u8]| format!("{:#}", unpacked(bytes).unwrap_err());
        assert!(error(&[0; 4096]).contains("no status"));
        let content = "x".repeat(4096);
        let whole = archive(&[("images/x", &content), ("status", "0")]);
        assert!(error(&whole[..2048]).contains("may be full"));
    }

    #[test]
    fn lines_are_passed_on_as_they_are() {
        let mut lines = Vec::new();
        let mut keep = |line: &str| lines.push(line.to_owned());
        pass(b"one\r\ntwo\n\nthree".as_slice(), Channel::Lines(&mut keep)).unwrap();
        assert_eq!(lines, ["one", "two", "", "three"]);
    }

    #[test]
    fn a_child_that_takes_too_long_is_noticed() {
        let mut child = Running(Command::new("sleep").arg("60").spawn().unwrap());
        let waited = wait(&mut child.0, Duration::from_millis(50), Instant::now()).unwrap();
        assert!(matches!(waited, Wait::TimedOut));
    }
}
