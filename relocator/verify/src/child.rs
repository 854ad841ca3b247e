//! Running something that may crash, hang or destroy memory: in a child process, with a deadline.
//!
//! The child sends lines of JSON through a pipe: where it is, and at the end what came out. It may
//! be forked from a process with other threads. So it only uses what works then (glibc keeps
//! `malloc` usable), inherits no descriptor, and leaves through `_exit`.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::TIME_NAMESPACE;
use super::process;
use super::time_namespace::{self, Offsets, Refused};
use crate::{Error, Result};
use relocator::in_words;

/// Most bytes that a child may send. A complete answer has a few kilobytes.
const MAX_OUTPUT: usize = 16 << 20;

/// How long the pipe is listened to before the child is looked at. It only matters where another
/// process, forked at the same moment, holds the pipe open.
const GLANCE: Duration = Duration::from_millis(50);

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
enum Message<T> {
    /// It is about to do this.
    At(String),
    /// It could not enter a time namespace.
    NoTimeNamespace {
        step: String,
        errno: i32,
        reason: String,
    },
    /// A kernel and an image do not go together: [`Error::Unlinkable`].
    Refused { what: String, reason: String },
    /// It stopped with an error.
    Failed(String),
    /// It is done.
    Done(T),
}

/// The circumstances of a child.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    /// Whether it runs in a time namespace with shifted clocks.
    pub(crate) time_namespace: bool,
    /// When it is taken to hang.
    pub(crate) deadline: Duration,
    /// After how much processor time it is taken to hang, if that is limited.
    pub(crate) processor_time: Option<Duration>,
}

/// How a child says where it is.
#[derive(Debug)]
pub(crate) struct Progress {
    pipe: PipeWriter,
}

impl Progress {
    /// States what is done next. If the process dies, this is where it was last seen.
    pub(crate) fn at(&mut self, what: impl Into<String>) {
        self.send(&Message::<()>::At(what.into()));
    }

    /// Ignores errors: they mean that the parent has stopped listening.
    fn send<T: Serialize>(&mut self, message: &Message<T>) {
        let line = serde_json::to_vec(message).map(|mut line| {
            line.push(b'\n');
            line
        });
        let _ = line.map(|line| self.pipe.write_all(&line));
    }
}

/// Why a child has come to no result.
#[derive(Debug)]
pub(crate) enum Lost {
    /// A signal has killed it, in the middle of `doing`.
    Killed {
        /// Which.
        signal: Signal,
        /// What it said last that it was about to do.
        doing: String,
    },
    /// It did not finish in time.
    Hung {
        /// How long it was given.
        deadline: Duration,
        /// What it said last that it was about to do.
        doing: String,
    },
    /// It has used up its processor time.
    Spun {
        /// How much it was given.
        processor_time: Duration,
        /// What it said last that it was about to do.
        doing: String,
    },
    /// It has stopped with an error, or said nothing that could be understood. In words that follow
    /// `the process`.
    Failed(String),
    /// The system has refused something, or the answer is no.
    Error(Error),
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        match error {
            Error::Child { what } => Self::Failed(what),
            error => Self::Error(error),
        }
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        let what = match lost {
            Lost::Killed { signal, doing } => format!("was killed by {signal}, {doing}"),
            Lost::Hung { deadline, doing } => {
                format!("did not finish within {deadline:?}, {doing}")
            }
            Lost::Spun {
                processor_time,
                doing,
            } => format!("did not finish within {processor_time:?} of processor time, {doing}"),
            Lost::Failed(what) => what,
            Lost::Error(error) => return error,
        };
        Self::Child { what }
    }
}

/// Runs `work` in a child process and returns what it returns.
pub(crate) fn run<T>(
    conditions: Conditions,
    work: impl FnOnce(&mut Progress) -> Result<T>,
) -> Result<T>
where
    T: Serialize + DeserializeOwned,
{
    Ok(try_run(conditions, work)?)
}

/// The same, where the caller wants to know in which way the child was lost.
pub(crate) fn try_run<T>(
    conditions: Conditions,
    work: impl FnOnce(&mut Progress) -> Result<T>,
) -> Result<T, Lost>
where
    T: Serialize + DeserializeOwned,
{
    let (reader, writer) = std::io::pipe().map_err(Error::io("a pipe"))?;
    // SAFETY: the child keeps to what works after a fork of a process with threads, and never
    // returns from here.
    let forked = unsafe { nix::unistd::fork() };
    match forked.map_err(|errno| Error::io("a child process")(errno.into()))? {
        ForkResult::Child => {
            drop(reader);
            live(conditions, Progress { pipe: writer }, work)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            Watch {
                pid: child,
                reaped: false,
                deadline: conditions.deadline,
                processor_time: conditions.processor_time,
            }
            .finish(reader)
        }
    }
}

/// The life of a child.
fn live<T: Serialize>(
    conditions: Conditions,
    mut progress: Progress,
    work: impl FnOnce(&mut Progress) -> Result<T>,
) -> ! {
    let worked = catch_unwind(AssertUnwindSafe(|| -> Message<T> {
        if let Err(error) = process::isolate(&progress.pipe) {
            return Message::Failed(format!("could not be set apart: {error}"));
        }
        if let Some(limit) = conditions.processor_time
            && let Err(error) = process::limit_processor_time(limit)
        {
            return Message::Failed(format!("could not limit its processor time: {error}"));
        }
        if conditions.time_namespace {
            progress.at("entering a time namespace");
            if let Err(Refused { step, source }) = time_namespace::enter(Offsets::USUAL) {
                let errno = source.raw_os_error().unwrap_or(0);
                return Message::NoTimeNamespace {
                    step: step.to_owned(),
                    errno,
                    reason: source.to_string(),
                };
            }
        }
        match work(&mut progress) {
            Ok(result) => Message::Done(result),
            // The words of `Error::Child` are to be said once.
            Err(Error::Child { what }) => Message::Failed(what),
            Err(Error::Unlinkable { what, reason }) => Message::Refused { what, reason },
            Err(error) => Message::Failed(format!("failed: {}", in_words(&error))),
        }
    }));
    progress.send(&worked.unwrap_or_else(|_| Message::Failed("panicked".to_owned())));
    process::exit()
}

/// A child that is waited for. Dropping it ends it.
struct Watch {
    pid: Pid,
    reaped: bool,
    deadline: Duration,
    processor_time: Option<Duration>,
}

/// How a child came to its end.
enum End {
    Exited(i32),
    Killed(Signal),
    /// It was ended because its time was up.
    Late(Duration),
    /// It ended because its processor time was used up.
    Spun(Duration),
    /// It was ended because of this.
    Ended(String),
}

impl Watch {
    fn finish<T: DeserializeOwned>(mut self, pipe: PipeReader) -> Result<T, Lost> {
        let mut output = Vec::new();
        let end = self.listen(pipe, &mut output)?;
        conclude(&output, end)
    }

    /// Collects what the child says until it is gone.
    fn listen(&mut self, mut pipe: PipeReader, output: &mut Vec<u8>) -> Result<End> {
        let started = Instant::now();
        let mut open = true;
        let mut end = None;
        loop {
            let left = self.deadline.saturating_sub(started.elapsed());
            if end.is_none() && left.is_zero() {
                return Ok(self.end(End::Late(self.deadline)));
            }
            if output.len() > MAX_OUTPUT {
                let reason = format!("sent more than {MAX_OUTPUT} bytes");
                return Ok(self.end(End::Ended(reason)));
            }
            let patience = if end.is_some() {
                Duration::ZERO
            } else {
                left.min(GLANCE)
            };
            if open && process::readable(&pipe, patience).map_err(Error::io("a pipe"))? {
                open = read(&mut pipe, output)?;
                continue;
            }
            // What it said before it went was read above, so nothing is lost.
            if let Some(end) = end {
                return Ok(end);
            }
            end = self.look()?;
            if end.is_none() && !open {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// How the child ended, if it has.
    fn look(&mut self) -> Result<Option<End>> {
        let status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        let end = match status {
            Ok(WaitStatus::Exited(_, code)) => End::Exited(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => match self.processor_time {
                Some(limit) if signal == process::TIME_IS_UP => End::Spun(limit),
                _ => End::Killed(signal),
            },
            Ok(_) | Err(Errno::EINTR) => return Ok(None),
            // Where the process ignores SIGCHLD, how it ended cannot be known; what it said can.
            Err(Errno::ECHILD) => End::Exited(0),
            Err(errno) => return Err(Error::io("the verifying process")(errno.into())),
        };
        self.reaped = true;
        Ok(Some(end))
    }

    fn end(&mut self, end: End) -> End {
        self.kill();
        end
    }

    fn kill(&mut self) {
        if !self.reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            while waitpid(self.pid, None) == Err(Errno::EINTR) {}
            self.reaped = true;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads what is there; `false` at the end.
fn read(pipe: &mut PipeReader, output: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 4096];
    match pipe.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            output.extend(&buffer[..count]);
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(Error::io("a pipe")(error)),
    }
}

/// Makes sense of what the child said and how it ended.
fn conclude<T: DeserializeOwned>(output: &[u8], end: End) -> Result<T, Lost> {
    let mut seen = "before it began".to_owned();
    let mut result = None;
    let mut garbage = false;
    for line in output
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        match serde_json::from_slice(line) {
            Ok(Message::At(what)) => seen = format!("in {what}"),
            Ok(Message::NoTimeNamespace {
                step,
                errno,
                reason,
            }) => return Err(refused(&step, errno, reason).into()),
            Ok(Message::Refused { what, reason }) => {
                return Err(Error::Unlinkable { what, reason }.into());
            }
            Ok(Message::Failed(what)) => return Err(Lost::Failed(what)),
            Ok(Message::Done(value)) => result = Some(value),
            Err(_) => garbage = true,
        }
    }
    let what = match (end, result) {
        (End::Killed(signal), _) => {
            return Err(Lost::Killed {
                signal,
                doing: seen,
            });
        }
        (End::Late(deadline), _) => {
            return Err(Lost::Hung {
                deadline,
                doing: seen,
            });
        }
        (End::Spun(processor_time), _) => {
            return Err(Lost::Spun {
                processor_time,
                doing: seen,
            });
        }
        (End::Ended(reason), _) => format!("{reason}, {seen}"),
        (End::Exited(_), _) if garbage => format!("sent something that is no message, {seen}"),
        (End::Exited(0), Some(result)) => return Ok(result),
        (End::Exited(code), _) => format!("exited with status {code} and no result, {seen}"),
    };
    Err(Lost::Failed(what))
}

fn refused(step: &str, errno: i32, reason: String) -> Error {
    let kind = match errno {
        0 => std::io::ErrorKind::Other,
        errno => std::io::Error::from_raw_os_error(errno).kind(),
    };
    Error::io(TIME_NAMESPACE)(std::io::Error::new(kind, format!("{step}: {reason}")))
}

#[cfg(test)]
mod tests;
