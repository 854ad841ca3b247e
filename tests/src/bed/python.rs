//! A Python interpreter that asks for the time.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

use super::{Bed, Restored};

/// What it runs.
const PROGRAM: &str = include_str!("time.py");

/// The interpreter itself, or why there is none. What is called `python3` may be a script that
/// executes it.
pub fn interpreter() -> Result<PathBuf, String> {
    let asked = Command::new("python3")
        .args(["-c", "import sys, ctypes; print(sys.executable)"])
        .stdin(Stdio::null())
        .output();
    let asked = asked.map_err(|error| format!("python3: {error}"))?;
    let said = String::from_utf8_lossy(&asked.stdout);
    match asked.status.success() && !said.trim().is_empty() {
        true => Ok(PathBuf::from(said.trim())),
        false => Err(format!("python3: {}", asked.status)),
    }
}

/// An interpreter on a bed. It is killed when this is dropped.
#[derive(Debug)]
pub struct Python {
    /// Its process.
    pub restored: Restored,
    output: BufReader<ChildStdout>,
}

impl Python {
    /// Starts one, which asks for the time when this returns. What CRIU's jumps cover has to be
    /// right.
    pub fn start(bed: &Bed, interpreter: &Path) -> Result<Self, String> {
        let mut command = Command::new(interpreter);
        command
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut restored = bed.launch(command)?;
        let output = restored.child.stdout.take().ok_or("no standard output")?;
        let mut python = Self {
            restored,
            output: BufReader::new(output),
        };
        match python.line()?.as_str() {
            "ready" => Ok(python),
            other => Err(format!("python says {other:?}")),
        }
    }

    /// From now on every function has to be right, until the end.
    pub fn linked(&mut self) -> Result<(), String> {
        let input = self.restored.child.stdin.as_mut();
        let told = input.ok_or("no standard input")?.write_all(b"linked\n");
        told.map_err(|error| format!("python: {error}"))
    }

    /// Ends it, and says how often it has asked for everything; or what was wrong.
    pub fn finish(mut self) -> Result<u64, String> {
        drop(self.restored.child.stdin.take());
        let said = self.line()?;
        let ended = self.restored.child.wait();
        let status = ended.map_err(|error| error.to_string())?;
        let count = said
            .strip_prefix("right ")
            .and_then(|count| count.parse().ok());
        match count {
            Some(count) if status.success() => Ok(count),
            _ => Err(format!("python: {status}: {said}")),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        read.map_err(|error| format!("python: {error}"))?;
        Ok(line.trim().to_owned())
    }
}
