//! `eu-stack` of elfutils, from the distribution's packages and without being installed. It reads
//! call frame information by the library that profilers use (`libdw`).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use kernel_source::{Cache, TreeRequest};

use crate::running::in_words;

/// The packages.
const ELFUTILS: TreeRequest<'static> = TreeRequest {
    name: "elfutils",
    suites: &["trixie"],
    packages: &["elfutils"],
};

/// Where packages have libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// One that works on this machine.
#[derive(Debug, Clone)]
pub struct Stacks {
    root: PathBuf,
}

impl Stacks {
    /// Finds it, or says why it cannot be used.
    pub fn new() -> Result<Self, String> {
        let tree = Cache::locate().tree(&ELFUTILS);
        let root = tree.map_err(|error| in_words(&error))?.root;
        let stacks = Self { root };
        stacks.run(&["--version"]).map(|_| stacks)
    }

    /// What it says about the threads of a process, which it stops for that.
    pub fn of(&self, pid: i32) -> Result<String, String> {
        self.run(&["-p", &pid.to_string()])
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let libraries = self.root.join(LIBRARIES);
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(libraries);
        command.arg(self.root.join("usr/bin/eu-stack"));
        let said = command.args(arguments).stdin(Stdio::null()).output();
        let said = said.map_err(|error| format!("eu-stack: {error}"))?;
        // It counts as a failure that it finds no frames of the kernel.
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        match text.is_empty() {
            true => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
            false => Ok(text),
        }
    }
}
