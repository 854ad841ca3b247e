//! Reads the memory of a process that goes on meanwhile, and gives up in time.
//!
//! Some pages are there only when somebody brings them: a `userfaultfd` fills memory. That may be
//! the process itself, and it may never happen. The kernel lets a reader wait without an end, and no
//! signal but a deadly one wakes it. So a thread reads, which this module leaves behind if it does
//! not answer: it ends when the page comes, or with the tool. (Not even that is so of pages that a
//! file server brings, which are not read: [`super::served`].)
//!
//! A thread that is left behind has asked for its pages. If the process brings them later, they are
//! there at the next attempt.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Instant;

use elf_tools::Avma;
use nix::unistd::Pid;
use relocator::placement::PAGE;
use relocator::threads::Memory;

use super::ProcessMemory;

/// How much is read at once.
const PART: u64 = 64 << 10;

/// Reads, until a deadline.
#[derive(Debug)]
pub(crate) struct Reader {
    pid: Pid,
    deadline: Instant,
    thread: RefCell<Option<Reading>>,
    unanswered: Cell<Option<Avma>>,
}

/// A thread that reads. It ends when this is dropped and it has done what it was asked for.
#[derive(Debug)]
struct Reading {
    questions: Sender<Question>,
}

/// What is to be done; it passes its answer on by itself.
type Question = Box<dyn FnOnce() + Send>;

impl Reader {
    /// Of a process. The thread begins now, not when it is needed.
    pub(crate) fn until(pid: Pid, deadline: Instant) -> Self {
        Self {
            pid,
            deadline,
            thread: RefCell::new(Reading::begin()),
            unanswered: Cell::new(None),
        }
    }

    /// Fills `bytes`; whether all of it could be read in time.
    pub(crate) fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let (memory, size) = (ProcessMemory::of(self.pid), bytes.len());
        let read = move || {
            let mut bytes = vec![0; size];
            memory.read(at, &mut bytes).then_some(bytes)
        };
        match self.ask(at, read).flatten() {
            Some(found) => {
                bytes.copy_from_slice(&found);
                true
            }
            None => false,
        }
    }

    /// Has pages brought, as far as they can be read; whether that has ended in time.
    pub(crate) fn bring(&self, ranges: &[Range<Avma>]) -> bool {
        let Some(first) = ranges.first() else {
            return true;
        };
        let (memory, ranges) = (ProcessMemory::of(self.pid), ranges.to_vec());
        let bring = move || ranges.into_iter().for_each(|range| memory.touch(range));
        self.ask(first.start, bring).is_some()
    }

    /// Where it has waited in vain, if it has.
    pub(crate) fn unanswered(&self) -> Option<Avma> {
        self.unanswered.get()
    }

    /// What `work` returns, if it returns before the deadline.
    pub(crate) fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answers) = channel();
        let question: Question = Box::new(move || drop(answer.send(work())));
        let mut thread = self.thread.borrow_mut();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let answer = thread.as_ref().and_then(|thread| {
            thread.questions.send(question).ok()?;
            answers.recv_timeout(left).ok()
        });
        if answer.is_none() {
            // It still waits, and there is no time for another one.
            *thread = None;
        }
        answer
    }

    fn ask<T: Send + 'static>(
        &self,
        at: Avma,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let answer = self.within(work);
        if answer.is_none() {
            self.unanswered.set(Some(at));
        }
        answer
    }
}

impl Reading {
    /// `None` if there can be no more threads.
    fn begin() -> Option<Self> {
        let (questions, asked) = channel::<Question>();
        let work = move || asked.into_iter().for_each(|question| question());
        thread::Builder::new().spawn(work).ok()?;
        Some(Self { questions })
    }
}

impl ProcessMemory {
    fn touch(self, range: Range<Avma>) {
        let mut bytes = vec![0; PART as usize];
        let mut at = range.start.0;
        while at < range.end.0 {
            let size = (range.end.0 - at).min(PART);
            let part = Avma(at)..Avma(at + size);
            let read = self.read_ranges(&[part], &mut bytes[..size as usize]) as u64;
            // Behind a page that cannot be read it goes on with the next one.
            at += match read == size {
                true => size,
                false => (at + read) / PAGE * PAGE + PAGE - at,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn own(deadline: Duration) -> Reader {
        Reader::until(Pid::this(), Instant::now() + deadline)
    }

    #[test]
    fn what_is_there_is_read() {
        let known = [7u8; 100];
        let at = Avma(known.as_ptr().addr() as u64);
        let reader = own(Duration::from_secs(60));
        let mut bytes = [0; 100];
        assert!(reader.read(at, &mut bytes) && bytes == known);
        assert!(reader.bring(&[at..at.offset(100)]));
        // Nothing is mapped there, which is an answer as well.
        assert!(!reader.read(Avma(0), &mut bytes));
        assert!(reader.bring(&[Avma(0)..Avma(0x3000)]));
        assert_eq!(reader.unanswered(), None);
    }

    #[test]
    fn it_gives_up_in_time() {
        let known = [7u8; 1];
        let at = Avma(known.as_ptr().addr() as u64);
        let reader = own(Duration::from_millis(10));
        let (questions, asked) = channel();
        let silent = Reading { questions };
        *reader.thread.borrow_mut() = Some(silent);
        assert!(!reader.read(at, &mut [0]));
        assert_eq!(reader.unanswered(), Some(at));
        drop(asked);
    }
}
