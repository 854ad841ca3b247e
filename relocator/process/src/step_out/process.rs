//! The process whose threads leave: where they can be, and in which state the tool leaves it.

use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};

use crate::tracing::{Seized, TraceableProcess, proc_error};
use crate::{Error, Result};

/// How long a process may take to stop once its threads have the signal.
const STOPPING: Duration = Duration::from_secs(5);

impl TraceableProcess {
    /// Whether it was stopped by a signal. It may be about to be, so that only some of its threads
    /// are.
    pub(crate) fn is_stopped(&self) -> Result<bool> {
        Ok(self.states()?.contains(&'T'))
    }

    /// Lets all threads go, stopped unless they are to go on; whether they are stopped.
    ///
    /// The signal waits in the process while they stand still, so that the first one that is let go
    /// takes it, and all of them take part before they execute anything.
    pub(super) fn part(&self, seized: Seized, was_stopped: bool, resume: bool) -> Result<bool> {
        if !resume && !was_stopped {
            kill(self.pid(), Signal::SIGSTOP).map_err(|errno| match errno {
                Errno::ESRCH => self.ended(),
                errno => Error::io(format!("stopping process {}", self.pid()))(errno.into()),
            })?;
        }
        drop(seized);
        let stops = was_stopped || !resume;
        let started = Instant::now();
        while stops && !self.all_stopped()? && started.elapsed() < STOPPING {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(stops && self.all_stopped()?)
    }

    /// Whether no thread executes anything. Those in the kernel that cannot be interrupted stop
    /// when they return.
    fn all_stopped(&self) -> Result<bool> {
        let stands = |state| matches!(state, 'T' | 'D' | 'Z' | 'X' | 'x');
        Ok(self.states()?.into_iter().all(stands))
    }

    /// The states of its threads.
    fn states(&self) -> Result<Vec<char>> {
        let tasks = self.process().tasks();
        let tasks = tasks.map_err(|error| proc_error(self.pid(), error))?;
        let states = tasks.filter_map(|task| Some(task.ok()?.stat().ok()?.state));
        Ok(states.collect())
    }
}
