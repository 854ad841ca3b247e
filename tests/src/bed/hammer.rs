//! The `hammer`, as a tester sees it.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::control::{self, Control, Counts};
use super::{Bed, Restored};

/// How long the next thread may take to begin, and the program to end. A slow machine with one
/// processor needs some time for each thread.
const PATIENCE: Duration = Duration::from_secs(60);

/// A hammer that runs on a bed. It is killed when this is dropped.
#[derive(Debug)]
pub struct Hammer {
    /// Its process.
    pub restored: Restored,
    /// What it is told, and what it counts.
    pub control: Control,
    /// The page is named by this file while the program begins.
    _file: File,
}

impl Hammer {
    /// Starts `program`, which is the hammer, with that many threads that call (0: the main thread
    /// does), and that many that sleep in system calls. All have begun when this returns; nothing
    /// has to be right yet.
    pub fn start(bed: &Bed, program: &Path, threads: usize, idle: usize) -> Result<Self, String> {
        Self::start_on(bed, program, threads, idle, None)
    }

    /// The same with all stacks in one mapping of that many bytes, if they are given.
    pub fn start_on(
        bed: &Bed,
        program: &Path,
        threads: usize,
        idle: usize,
        stacks: Option<usize>,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("the control page: {error}");
        let file = memfd_create("control", MFdFlags::MFD_CLOEXEC);
        let file = File::from(file.map_err(|errno| failed(errno.into()))?);
        file.set_len(control::SIZE as u64).map_err(failed)?;
        let control = Control::map(&file).map_err(failed)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let mut command = Command::new(program);
        command
            .args(["--control", &path])
            .args(["--threads", &threads.to_string()])
            .args(["--idle", &idle.to_string()])
            .args(stacks.map(|bytes| format!("--shared-stacks={bytes}")))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut hammer = Self {
            restored: bed.launch(command)?,
            control,
            _file: file,
        };
        let all = (threads.max(1) + idle) as u64;
        hammer.wait_until("begin", |counts| counts.ready >= all)?;
        Ok(hammer)
    }

    /// Waits until the counts say so, or a reason why that will not be.
    pub fn wait_until(
        &mut self,
        what: &str,
        is_so: impl Fn(&Counts) -> bool,
    ) -> Result<Counts, String> {
        let mut started = Instant::now();
        let mut ready = 0;
        loop {
            let counts = self.control.counts();
            if is_so(&counts) {
                return Ok(counts);
            }
            if counts.ready > ready {
                (ready, started) = (counts.ready, Instant::now());
            }
            self.check_alive()?;
            if started.elapsed() > PATIENCE {
                return Err(format!("the hammer does not {what}: {counts:?}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Fails with what it has said if it has ended.
    pub fn check_alive(&mut self) -> Result<(), String> {
        let child = &mut self.restored.child;
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        let Some(status) = ended else {
            return Ok(());
        };
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        let counts = self.control.counts();
        Err(format!("the hammer: {status}: {said}{counts:?}"))
    }

    /// Tells it to end, and how it has ended: an error if anything was wrong.
    pub fn finish(mut self) -> Result<Counts, String> {
        self.control.stop();
        let started = Instant::now();
        loop {
            let ended = self.restored.child.try_wait();
            let counts = self.control.counts();
            match ended.map_err(|error| error.to_string())? {
                Some(status) if status.success() && counts.failures == 0 => return Ok(counts),
                Some(status) => return Err(format!("the hammer: {status}: {counts:?}")),
                None if started.elapsed() > PATIENCE => {
                    return Err(format!("the hammer hangs: {counts:?}"));
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}
