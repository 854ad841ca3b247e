//! Whether a process goes on, or ends.
//!
//! A process that is killed ends a little later, one thread after the other, and its first thread
//! may be gone before the others. Meanwhile `/proc` shows something that looks like other reasons:
//! a process without its first thread, without memory, or one that may not be traced. A single look
//! cannot tell them apart where a thread runs. So the tool looks again, until a thread waits and
//! nothing ends it, or until all are ending.
//!
//! How the kernel shows that a thread is ending, in this order (`kernel/signal.c`,
//! `kernel/exit.c`): `SIGKILL` is pending; it has taken that (`PF_SIGNALED`); it has left a core
//! dump behind (`PF_POSTCOREDUMP`); it executes nothing any more (`PF_EXITING`); it has ended.

use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use procfs::process::{Process, StatFlags, Task};

/// How long a thread that runs may take to show whether it ends.
pub(super) const FAREWELL: Duration = Duration::from_millis(200);

/// A core dump no longer waits for the thread (before 5.5: no futex waits for it).
const POST_CORE_DUMP: u32 = 1 << 3;

/// `SIGKILL` in a mask of signals.
const KILL: u64 = 1 << (libc::SIGKILL - 1);

/// Whether threads go on, as one look shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Life {
    /// It has ended.
    Ended,
    /// It is ending, and executes nothing of its program any more.
    Ending,
    /// It runs. That may be its way to its end.
    Runs,
    /// It waits or stands, and nothing ends it.
    Waits,
}

impl Life {
    /// Of a thread, by its state, the signals that are pending, and its flags. The signals have to be
    /// read before the flags: a thread shows the next sign before the last one goes.
    fn of(state: char, pending: u64, flags: u32) -> Self {
        let is_exiting = flags & StatFlags::PF_EXITING.bits() != 0;
        let is_killed = flags & (StatFlags::PF_SIGNALED.bits() | POST_CORE_DUMP) != 0;
        match state {
            'Z' | 'X' | 'x' => Self::Ended,
            _ if is_exiting || is_killed || pending & KILL != 0 => Self::Ending,
            'S' | 'T' | 't' | 'I' => Self::Waits,
            _ => Self::Runs,
        }
    }

    /// Of a thread; `None` if it is no longer there.
    fn of_task(task: &Task) -> Option<Self> {
        let status = task.status().ok()?;
        let stat = task.stat().ok()?;
        Some(Self::of(
            stat.state,
            status.sigpnd | status.shdpnd,
            stat.flags,
        ))
    }

    /// Whether it executes something of its program, as far as one can see.
    pub(super) fn goes_on(self) -> bool {
        self >= Self::Runs
    }
}

/// Whether the first thread of a process goes on, as one look shows it.
pub(super) fn first_goes_on(process: &Process) -> bool {
    let first = process.task_from_tid(process.pid).ok();
    let life = first.and_then(|first| Life::of_task(&first));
    life.is_some_and(Life::goes_on)
}

/// Whether a process goes on, as one look shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lives {
    /// Its first thread, by way of which its memory is seen.
    pub(super) first: Life,
    /// The one of its threads that is farthest from its end.
    pub(super) any: Life,
}

impl Lives {
    /// Those of a process. One that is no longer there has ended.
    pub(super) fn of(process: &Process) -> Self {
        const GONE: Lives = Lives {
            first: Life::Ended,
            any: Life::Ended,
        };
        let Ok(tasks) = process.tasks() else {
            return GONE;
        };
        let lives = tasks.filter_map(|task| {
            let task = task.ok()?;
            Some((task.tid, Life::of_task(&task)?))
        });
        lives.fold(GONE, |all, (thread, life)| Self {
            first: if thread == process.pid {
                life
            } else {
                all.first
            },
            any: all.any.max(life),
        })
    }

    /// Looks until it is certain whether the process goes on, but no longer than `patience`.
    pub(super) fn settled(process: &Process, patience: Duration) -> Self {
        let started = Instant::now();
        loop {
            let lives = Self::of(process);
            if lives.any != Life::Runs || started.elapsed() >= patience {
                return lives;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sign_of_an_end_counts() {
        let exiting = StatFlags::PF_EXITING.bits();
        let signaled = StatFlags::PF_SIGNALED.bits();
        let cases = [
            ('Z', 0, exiting, Life::Ended),
            ('X', KILL, 0, Life::Ended),
            ('R', KILL, 0, Life::Ending),
            ('S', KILL, 0, Life::Ending),
            ('D', 0, signaled, Life::Ending),
            ('t', 0, signaled, Life::Ending),
            ('D', 0, POST_CORE_DUMP, Life::Ending),
            ('R', 0, exiting, Life::Ending),
            ('R', 0, 0, Life::Runs),
            (
                'D',
                !KILL,
                !(exiting | signaled | POST_CORE_DUMP),
                Life::Runs,
            ),
            ('S', 0, 0, Life::Waits),
            ('T', !KILL, 0, Life::Waits),
        ];
        for (state, pending, flags, expected) in cases {
            let life = Life::of(state, pending, flags);
            assert_eq!(life, expected, "{state} {pending:#x} {flags:#x}");
        }
    }

    #[test]
    fn this_process_goes_on() {
        let lives = Lives::of(&Process::myself().unwrap());
        assert!(lives.first.goes_on() && lives.any.goes_on());
    }

    #[test]
    fn one_that_nobody_has_waited_for_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process::new(child.id().cast_signed()).unwrap();
        while Lives::of(&process).any != Life::Ended {
            thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert_eq!(Lives::of(&process).any, Life::Ended);
    }
}
