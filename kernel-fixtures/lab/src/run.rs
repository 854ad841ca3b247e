//! A command or a shell in a guest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_source::Tree;

use crate::arguments::Run;
use crate::guest::Job;
use crate::initramfs::Archive;
use crate::kind::Kind;
use crate::lab::{self, Lab};
use crate::machine::{self, Channel};
use crate::packages;

/// How long a person may use a shell.
const SHELL: Duration = Duration::from_secs(24 * 3600);

/// Where kernels are in a guest, and how programs are told.
const KERNELS: &str = "/lab/kernel-cache";
const KERNELS_VARIABLE: &str = "RELOCATOR_KERNEL_FIXTURES";

/// What guests get of the lab's own environment: variables that begin so.
const PASSED: [&str; 3] = ["RELOCATOR_", "RUST_", "PROPTEST_"];

/// Runs a command of this machine in a guest, and ends with its status.
pub(crate) fn command(lab: &Lab, asked: &Run) -> Result<u8> {
    let usual = ["busybox", "uname", "-a"].map(str::to_owned);
    let words = if asked.command.is_empty() {
        &usual[..]
    } else {
        &asked.command
    };
    let mut guest = Guest::default();
    let mut words = words.to_vec();
    if let Some(program) = find(&words[0]) {
        guest.program(&program)?;
        words[0] = program.display().to_string();
    }
    for path in &asked.with {
        guest.files(path)?;
    }
    guest.kernels(lab, &asked.with_kernels)?;
    let limit = Duration::from_secs(asked.limit);
    let mut show = machine::show;
    let channel = Channel::Output(&mut show);
    guest.pack()?.run(lab, &asked.kernel, words, limit, channel)
}

/// What a guest gets to run a command of this machine.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    archive: Archive,
    environment: Vec<(String, String)>,
}

impl Guest {
    /// A program at the path that it has here, with its libraries.
    pub(crate) fn program(&mut self, program: &Path) -> Result<()> {
        lab::add_program(&mut self.archive, program, program)
    }

    /// A file or a directory at the path that it has here.
    pub(crate) fn files(&mut self, path: &Path) -> Result<()> {
        let path = std::path::absolute(path)?;
        match path.is_dir() {
            true => self.archive.copy_tree(&path, &path),
            false => self.archive.copy(&path, &path),
        }
    }

    /// A file with that content.
    pub(crate) fn text(&mut self, at: &Path, text: &str) -> Result<()> {
        self.archive.file(at, 0o755, text.as_bytes())
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, at: &Path, target: &Path) -> Result<()> {
        self.archive.link(at, &target.to_string_lossy())
    }

    /// A variable of the environment.
    pub(crate) fn variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Kernels from the cache, as a cache of the guest's own.
    pub(crate) fn kernels(&mut self, lab: &Lab, versions: &[String]) -> Result<()> {
        for version in versions {
            let kernel = lab.kernel(version)?;
            let directory = kernel.path.parent().context("a kernel's directory")?;
            let place = Path::new(KERNELS).join("kernels").join(version);
            self.archive.copy_tree(directory, &place)?;
        }
        self.variable(KERNELS_VARIABLE, KERNELS);
        Ok(())
    }

    /// Unpacked packages from the cache, for the same cache. It has to have kernels.
    pub(crate) fn tree(&mut self, tree: &Tree) -> Result<()> {
        let directory = tree.root.parent().context("a tree's directory")?;
        let name = directory.file_name().context("a tree's name")?;
        let place = Path::new(KERNELS).join("trees").join(name);
        self.archive.copy_tree(directory, &place)
    }

    /// Everything put together, for one guest or several.
    pub(crate) fn pack(mut self) -> Result<Packed> {
        let directory = std::env::current_dir()?;
        self.archive.directory(&directory)?;
        let passed = std::env::vars().filter(|(name, _)| {
            let is_passed = PASSED.iter().any(|begin| name.starts_with(begin));
            is_passed && !self.environment.iter().any(|(own, _)| own == name)
        });
        let passed: Vec<(String, String)> = passed.collect();
        self.environment.extend(passed);
        Ok(Packed {
            files: self.archive.finish()?,
            environment: self.environment,
            directory,
        })
    }
}

/// The files and the environment of guests that run commands of this machine.
pub(crate) struct Packed {
    files: Vec<u8>,
    environment: Vec<(String, String)>,
    directory: PathBuf,
}

impl Packed {
    /// Boots, runs the command in this directory, and ends with its status.
    pub(crate) fn run(
        &self,
        lab: &Lab,
        version: &str,
        words: Vec<String>,
        limit: Duration,
        channel: Channel<'_>,
    ) -> Result<u8> {
        let job = Job::Command {
            words,
            environment: self.environment.clone(),
            directory: self.directory.clone(),
        };
        let kernel = lab.kernel(version)?;
        let ended = lab.boot(&kernel, &job, &[&self.files], limit, channel)?;
        Ok(u8::try_from(ended.status).unwrap_or(1))
    }
}

/// The program that a word names here, as a shell would find it.
fn find(word: &str) -> Option<PathBuf> {
    if word.contains('/') {
        let path = std::path::absolute(word).ok()?;
        return path.is_file().then_some(path);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(word))
        .find(|path| path.is_file())
}

/// A shell in a guest.
pub(crate) fn shell(lab: &Lab, version: &str) -> Result<u8> {
    let kernel = lab.kernel(version)?;
    let (criu, _) = lab.criu(packages::USUAL_CRIU, false)?;
    let kind = Kind::usual(packages::USUAL_CRIU, packages::USUAL_LIBC);
    let (checker, _) = lab.checker(&kind)?;
    let relocator = lab.relocator()?;
    let layers: [&[u8]; 3] = [&criu, &checker, &relocator];
    let ended = lab.boot(&kernel, &Job::Shell, &layers, SHELL, Channel::Terminal)?;
    Ok(u8::try_from(ended.status).unwrap_or(1))
}
