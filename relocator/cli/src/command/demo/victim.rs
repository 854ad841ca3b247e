//! A process with the demonstration's program, as a restore leaves it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use elf_tools::Avma;
use relocator_verify::bed::{Bed, OldVdso, Restored};
use serde::de::DeserializeOwned;

use super::clocks::CALLS;
use super::program::Question;
use crate::json::demo::{Count, Look};

/// The program, running. It is killed when this is dropped.
pub(super) struct Victim {
    restored: Restored,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What of a process a link changes: its old text, and where the kernel's mappings and the placeholder of the old vvar
/// are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    mappings: Vec<String>,
    text: Vec<u8>,
}

impl Victim {
    /// Starts the program with that many threads; with CRIU's jumps at the entries that CRIU knows, or without.
    pub(super) fn start(old: &OldVdso, jumps: bool, threads: u8) -> Result<Self> {
        let bed = Bed {
            patched: jumps,
            ..Bed::new(old.clone())
        };
        // The very file that runs, even if another one has taken its path.
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["demo-program", "--threads", &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut restored = bed.launch(command)?;
        let pipes = restored
            .child
            .stdin
            .take()
            .zip(restored.child.stdout.take());
        let (questions, answers) = pipes.context("the program has no pipes")?;
        Ok(Self {
            restored,
            questions,
            answers: BufReader::new(answers),
        })
    }

    /// Its process.
    pub(super) fn pid(&self) -> i32 {
        self.restored.pid()
    }

    /// Where the old text is.
    pub(super) fn text(&self) -> &Range<Avma> {
        &self.restored.text
    }

    /// What each call says now.
    pub(super) fn look(&mut self) -> Result<[Look; CALLS.len()]> {
        self.ask(Question::Look)
    }

    /// What its threads have counted since the last time.
    pub(super) fn count(&mut self) -> Result<Count> {
        self.ask(Question::Count)
    }

    fn ask<T: DeserializeOwned>(&mut self, question: Question) -> Result<T> {
        let gone = || format!("process {} does not answer", self.restored.child.id());
        let question = serde_json::to_string(&question)?;
        writeln!(self.questions, "{question}").with_context(gone)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).with_context(gone)?;
        serde_json::from_str(&answer).with_context(gone)
    }

    /// What a link would change.
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/maps");
        let maps = fs::read_to_string(&path).with_context(|| path.clone())?;
        let area = self.restored.zeros.start..self.restored.text.end;
        let matters = |line: &&str| {
            let is_kernels = ["[vvar]", "[vvar_vclock]", "[vdso]"]
                .iter()
                .any(|name| line.ends_with(name));
            let start = line.split('-').next();
            let start = start.and_then(|start| u64::from_str_radix(start, 16).ok());
            is_kernels || start.is_some_and(|start| area.contains(&Avma(start)))
        };
        let mappings = maps.lines().filter(matters).map(str::to_owned).collect();
        let path = format!("/proc/{pid}/mem");
        let memory = File::open(&path).with_context(|| path.clone())?;
        let text = self.text();
        let mut bytes = vec![0; (text.end.0 - text.start.0) as usize];
        memory
            .read_exact_at(&mut bytes, text.start.0)
            .context(path)?;
        Ok(Snapshot {
            mappings,
            text: bytes,
        })
    }
}
