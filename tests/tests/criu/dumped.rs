//! A process that stands still, what it was, and its dump.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::{ProcState, Process};
use relocator::threads::Thread;
use relocator_criu::Images as Read;
use relocator_criu::task::Task;
use relocator_process::maps;
use relocator_process::targets::live::Live;
use relocator_process::targets::{Mapping, StoppedTarget};
use relocator_tests::criu::{Criu, Images, await_end, dumpable};
use relocator_tests::running::in_words;
use relocator_tests::trials::ensure;

use crate::victim;

/// How long a process may take to get ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is to be dumped. It ends when this is dropped.
pub(crate) struct Victim {
    child: Option<Child>,
    pub(crate) pid: i32,
}

impl Victim {
    /// Starts one, and waits until it is ready.
    pub(crate) fn start(what: &str) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| in_words(&error))?;
        let mut command = dumpable(own.as_os_str());
        command.args([victim::ARGUMENT, what]);
        // The kernel writes the number of the processor into registered memory, whenever it likes.
        command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
        let child = command.spawn().map_err(|error| in_words(&error))?;
        let pid = child.id().cast_signed();
        let victim = Self {
            child: Some(child),
            pid,
        };
        let begun = Instant::now();
        while victim.word(victim::MEMORY).unwrap_or(0) == 0 {
            ensure(begun.elapsed() < PATIENCE, || {
                "it does not get ready".to_owned()
            })?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(victim)
    }

    /// A word of its memory.
    pub(crate) fn word(&self, at: usize) -> Result<u64, String> {
        let mut bytes = [0; 8];
        read(self.pid, Avma(at as u64), &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The numbers of its threads, its own first.
    pub(crate) fn threads(&self) -> Result<Vec<i32>, String> {
        threads(self.pid)
    }

    /// Stops it by a signal, and waits until all threads have stopped.
    pub(crate) fn stop(&self) -> Result<(), String> {
        kill(Pid::from_raw(self.pid), Signal::SIGSTOP).map_err(|errno| in_words(&errno))?;
        await_stopped(self.pid)
    }

    /// Dumps it, which ends it.
    pub(crate) fn dump(mut self, criu: &Criu, arguments: &[&OsStr]) -> Result<Images, String> {
        let images = Images::new()?;
        criu.dump_with(self.pid, &images, "dump", arguments)?;
        await_end(self.pid, self.child.take().as_mut())?;
        Ok(images)
    }

    /// Dumps its memory, and lets it go on.
    pub(crate) fn pre_dump(&self, criu: &Criu, arguments: &[&OsStr]) -> Result<Images, String> {
        let images = Images::new()?;
        criu.dump_with(self.pid, &images, "pre-dump", arguments)?;
        Ok(images)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.child.is_some() {
            for pid in tree(self.pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = await_end(self.pid, self.child.take().as_mut());
        }
    }
}

fn threads(pid: i32) -> Result<Vec<i32>, String> {
    let process = Process::new(pid).map_err(|error| in_words(&error))?;
    let tasks = process.tasks().map_err(|error| in_words(&error))?;
    Ok(tasks.flatten().map(|task| task.tid).collect())
}

/// A process and its children.
pub(crate) fn tree(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().flat_map(str::parse);
    [pid].into_iter().chain(children).collect()
}

/// Waits until all threads of a process have stopped.
pub(crate) fn await_stopped(pid: i32) -> Result<(), String> {
    let begun = Instant::now();
    let is_stopped = |thread: &i32| {
        let task = Process::new(pid).and_then(|process| process.task_from_tid(*thread));
        let state = task
            .and_then(|task| task.stat())
            .and_then(|stat| stat.state());
        matches!(state, Ok(ProcState::Stopped))
    };
    while !threads(pid)?.iter().all(is_stopped) {
        ensure(begun.elapsed() < PATIENCE, || "it does not stop".to_owned())?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Memory of a process as a debugger reads it.
pub(crate) fn read(pid: i32, at: Avma, bytes: &mut [u8]) -> Result<(), String> {
    let path = format!("/proc/{pid}/mem");
    let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
    let read = file.read_exact_at(bytes, at.0);
    read.map_err(|error| format!("memory at {at}: {error}"))
}

/// What a stopped process was, by `/proc` and `ptrace`.
pub(crate) struct Before {
    pub(crate) pid: i32,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) threads: Vec<Thread>,
    /// What private memory held that could be read, by its first address.
    pub(crate) memory: Vec<(Avma, Vec<u8>)>,
}

impl Before {
    pub(crate) fn of(pid: i32) -> Result<Self, String> {
        let mappings = maps::of(pid).map_err(|error| in_words(&error))?;
        let live = Live::stop(pid, PATIENCE).map_err(|error| in_words(&error))?;
        let threads = live.threads().map_err(|error| in_words(&error))?;
        drop(live);
        await_stopped(pid)?;
        let private = mappings.iter().filter(|one| {
            let protection = one.protection;
            protection.read && !protection.shared && one.size() < 16 << 20
        });
        let memory = private.filter_map(|one| {
            let mut bytes = vec![0; one.size() as usize];
            read(pid, one.range.start, &mut bytes).ok()?;
            Some((one.range.start, bytes))
        });
        Ok(Self {
            pid,
            memory: memory.collect(),
            mappings,
            threads,
        })
    }
}

/// The tasks of images.
pub(crate) fn tasks(path: &Path) -> Result<Vec<Task>, String> {
    let images = Read::open(path).map_err(|error| in_words(&error))?;
    let tasks: relocator_criu::Result<_> = images.tasks().collect();
    tasks.map_err(|error| in_words(&error))
}
