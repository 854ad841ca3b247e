//! The checker in Python, and the interpreter that a guest runs it with: the distribution's, with the
//! part of its library that the checker imports.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kernel_source::Tree;
use nix::libc;

use crate::arch;
use crate::initramfs::Archive;
use crate::libraries;

const SOURCE: &str = include_str!("checker.py");

/// The line of the source that is replaced.
const PLACE: &str = "SYSTEM_CALLS = {}";

/// Packages of Python's library that the checker imports, with what these import.
const PACKAGES: [&str; 6] = [
    "collections",
    "ctypes",
    "encodings",
    "importlib",
    "re",
    "sysconfig",
];

/// Modules that are shared libraries.
const MODULES: [&str; 2] = ["_ctypes", "mmap"];

/// An interpreter in an unpacked tree.
#[derive(Debug)]
pub(crate) struct Interpreter {
    /// The directory of its library: "python3.11".
    name: String,
    root: PathBuf,
}

impl Interpreter {
    /// The interpreter of a tree.
    pub(crate) fn of(tree: &Tree) -> Result<Self> {
        let programs = tree.root.join("usr/bin");
        // A symbolic link to the program of a version.
        let program =
            fs::read_link(programs.join("python3")).context("no Python in its package")?;
        let name = program.file_name().context("python3")?;
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            root: tree.root.clone(),
        })
    }

    /// Adds the interpreter and the checker, all in one directory of the guest.
    pub(crate) fn add(&self, archive: &mut Archive, directory: &Path) -> Result<()> {
        let program = self.root.join("usr/bin").join(&self.name);
        archive.copy(&program, directory.join("bin/python3"))?;
        archive.libraries(&program, &self.root, &directory.join("libraries"))?;
        let own = self.root.join("usr/lib").join(&self.name);
        let library = directory.join("lib").join(&self.name);
        for entry in fs::read_dir(&own).with_context(|| own.display().to_string())? {
            let path = entry?.path();
            let is_module = path.extension().is_some_and(|kind| kind == "py");
            // Some are links to files that only an installed package has.
            if is_module && path.is_file() {
                archive.copy(&path, library.join(path.file_name().unwrap_or_default()))?;
            }
        }
        for package in PACKAGES {
            let from = own.join(package);
            // Older versions have some as modules.
            if from.is_dir() {
                archive.copy_tree(&from, &library.join(package))?;
            }
        }
        self.add_modules(archive, directory, &own.join("lib-dynload"))?;
        archive.file(directory.join("checker.py"), 0o644, script().as_bytes())
    }

    fn add_modules(&self, archive: &mut Archive, directory: &Path, from: &Path) -> Result<()> {
        let to = directory.join("lib").join(&self.name).join("lib-dynload");
        for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !MODULES
                .iter()
                .any(|module| name.starts_with(&format!("{module}.")))
            {
                continue;
            }
            archive.copy(&path, to.join(&*name))?;
            let needed = libraries::closure(&path, &libraries::directories(&self.root))?;
            for (name, path) in needed {
                archive.copy(&path, directory.join("libraries").join(name))?;
            }
        }
        Ok(())
    }

    /// How a guest runs the checker in that directory: the interpreter with its own C library,
    /// without anything from outside.
    pub(crate) fn words(&self, directory: &Path) -> Vec<String> {
        let linker = directory.join("libraries").join(arch::DYNAMIC_LINKER_NAME);
        let word = |path: PathBuf| path.display().to_string();
        let option = |text: &str| text.to_owned();
        vec![
            word(linker),
            option("--library-path"),
            word(directory.join("libraries")),
            word(directory.join("bin/python3")),
            option("-S"),
            option("-B"),
            word(directory.join("checker.py")),
        ]
    }

    /// What the interpreter needs in its environment: where its library is.
    pub(crate) fn environment(directory: &Path) -> Vec<(String, String)> {
        let home = directory.display().to_string();
        vec![("PYTHONHOME".to_owned(), home)]
    }
}

/// The checker with the numbers of system calls.
fn script() -> String {
    let numbers = [
        ("clock_gettime", libc::SYS_clock_gettime),
        ("clock_getres", libc::SYS_clock_getres),
        ("gettimeofday", libc::SYS_gettimeofday),
        ("getcpu", libc::SYS_getcpu),
    ];
    let numbers: Vec<String> = numbers
        .iter()
        .map(|(name, number)| format!("\"{name}\": {number}"))
        .collect();
    SOURCE.replace(PLACE, &format!("SYSTEM_CALLS = {{{}}}", numbers.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::checker::{Observed, Page, SIZE};

    #[test]
    fn the_script_has_the_numbers() {
        let script = script();
        assert!(!script.contains(PLACE), "{PLACE}");
        let line = format!("\"clock_gettime\": {},", libc::SYS_clock_gettime);
        assert!(script.contains(&line), "{line}");
    }

    /// Runs the checker with this machine's interpreter until each thread has come on twice.
    fn run(script: &str) -> Result<(Observed, Vec<String>), String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let page = directory.path().join("page");
        fs::write(&page, vec![0; SIZE]).map_err(|error| error.to_string())?;
        let mut child = Command::new("python3")
            .args(["-S", "-B", "-c", script])
            .arg(&page)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("python3: {error}"))?;
        let began = Instant::now();
        let read = || Page::parse(&fs::read(&page).unwrap_or_default()).unwrap_or_default();
        let comes_on =
            |page: &Page| !page.progress.is_empty() && page.progress.iter().all(|&n| n > 1);
        while !(read().is_ready && comes_on(&read())) && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let now = read();
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        match now.is_ready && comes_on(&now) {
            true => Ok((now.since(&Page::default()), now.messages)),
            false => Err(format!("{now:?}")),
        }
    }

    /// The checker finds nothing wrong where nothing is, and notices what is.
    #[test]
    fn it_finds_what_is_wrong_and_nothing_else() {
        if Command::new("python3").arg("--version").output().is_err() {
            eprintln!("ignored: there is no python3");
            return;
        }
        let (observed, messages) = run(&script()).unwrap();
        assert_eq!((observed.all_wrong(), messages), (0, Vec::new()));
        assert!(
            observed.calls.iter().all(|&calls| calls > 0),
            "{observed:?}"
        );
        // A clock that stands still is wrong in every burst.
        let broken = script().replace(
            "time.clock_gettime_ns(clock),",
            "first.setdefault(clock, 1),",
        );
        let broken = broken.replacen("MAGIC =", "first = {}\nMAGIC =", 1);
        let (observed, messages) = run(&broken).unwrap();
        assert!(observed.all_wrong() > 0 && !messages.is_empty());
    }
}
