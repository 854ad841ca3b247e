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
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

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
    deadline: Instant,
    thread: RefCell<Option<Reading>>,
    unanswered: Cell<Option<Avma>>,
}

/// A thread that reads. It ends when this is dropped and it has read what it was asked for.
#[derive(Debug)]
struct Reading {
    questions: Sender<Question>,
    answers: Receiver<Vec<u8>>,
}

#[derive(Debug)]
enum Question {
    /// What is there; nothing if not all of it can be read.
    Bytes(Range<Avma>),
    /// Touch the pages, as far as they can be read.
    Bring(Vec<Range<Avma>>),
}

impl Reader {
    /// Of a process. The thread begins now, not when it is needed.
    pub(crate) fn until(pid: Pid, deadline: Instant) -> Self {
        Self {
            deadline,
            thread: RefCell::new(Reading::begin(pid)),
            unanswered: Cell::new(None),
        }
    }

    /// Fills `bytes`; whether all of it could be read in time.
    pub(crate) fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let range = at..Avma(at.0.saturating_add(bytes.len() as u64));
        match self.ask(at, Question::Bytes(range)) {
            Some(found) if found.len() == bytes.len() => {
                bytes.copy_from_slice(&found);
                true
            }
            _ => false,
        }
    }

    /// Has pages brought, as far as they can be read; whether that has ended in time.
    pub(crate) fn bring(&self, ranges: &[Range<Avma>]) -> bool {
        let Some(first) = ranges.first() else {
            return true;
        };
        let question = Question::Bring(ranges.to_vec());
        self.ask(first.start, question).is_some()
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
        within(
            self.deadline.saturating_duration_since(Instant::now()),
            work,
        )
    }

    fn ask(&self, at: Avma, question: Question) -> Option<Vec<u8>> {
        let mut thread = self.thread.borrow_mut();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let answer = thread.as_ref().and_then(|thread| {
            thread.questions.send(question).ok()?;
            thread.answers.recv_timeout(left).ok()
        });
        if answer.is_none() {
            self.unanswered.set(Some(at));
            // It still waits, and there is no time for another one.
            *thread = None;
        }
        answer
    }
}

impl Reading {
    /// `None` if there can be no more threads.
    fn begin(pid: Pid) -> Option<Self> {
        let (questions, asked) = channel();
        let (answer, answers) = channel();
        let work = move || {
            let memory = ProcessMemory::of(pid);
            for question in asked {
                if answer.send(memory.answer(question)).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().spawn(work).ok()?;
        Some(Self { questions, answers })
    }
}

/// What `work` returns, if it returns in time. It is left behind otherwise.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (answer, answers) = channel();
    let work = move || drop(answer.send(work()));
    thread::Builder::new().spawn(work).ok()?;
    answers.recv_timeout(limit).ok()
}

impl ProcessMemory {
    fn answer(self, question: Question) -> Vec<u8> {
        match question {
            Question::Bytes(range) => {
                let mut bytes = vec![0; (range.end.0 - range.start.0) as usize];
                let read = self.read(range.start, &mut bytes);
                bytes.truncate(if read { bytes.len() } else { 0 });
                bytes
            }
            Question::Bring(ranges) => {
                ranges.into_iter().for_each(|range| self.touch(range));
                Vec::new()
            }
        }
    }

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
        let (answer, answers) = channel();
        let (questions, asked) = channel();
        let silent = Reading { questions, answers };
        *reader.thread.borrow_mut() = Some(silent);
        assert!(!reader.read(at, &mut [0]));
        assert_eq!(reader.unanswered(), Some(at));
        drop((answer, asked));
    }
}
