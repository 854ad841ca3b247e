//! Which answers count, and what is said about one that is wrong.

use std::fmt;

use relocator_tests::bed::control::{Control, Function};

use crate::vdso::Time;

/// How often a bracket around something that may change by itself is tried before it counts, as `verify` does: somebody
/// may set the clock, and a thread may come to another processor, between two of three calls.
const ATTEMPTS: u32 = 4;

/// An answer that is wrong. It is made without memory, because handlers make it as well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrong {
    pub(crate) what: &'static str,
    pub(crate) found: (i64, Time),
    pub(crate) before: (i64, Time),
    pub(crate) after: (i64, Time),
}

impl Wrong {
    /// Something that is no time.
    pub(crate) fn number(what: &'static str, found: i64, before: i64, after: i64) -> Self {
        let time = Time::default();
        Self {
            what,
            found: (found, time),
            before: (before, time),
            after: (after, time),
        }
    }
}

struct Answer((i64, Time));

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, time) = self.0;
        write!(f, "{code} ({}, {})", time.seconds, time.fraction)
    }
}

/// Whether something changes by nothing but the passing of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steady {
    Yes,
    No,
}

/// A thread's judge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judge {
    pub(crate) control: Control,
    pub(crate) thread: usize,
    /// `""`, or `" in a handler"`.
    pub(crate) place: &'static str,
}

impl Judge {
    /// Has `attempt` call a function, and judges what it says: whether all was right and had to be.
    pub(crate) fn check(
        &self,
        function: Function,
        case: i32,
        steady: Steady,
        mut attempt: impl FnMut() -> Result<(), Wrong>,
    ) -> bool {
        self.many(function, case, steady, 1, |_| attempt())
    }

    /// The same for several calls at a time.
    pub(crate) fn many(
        &self,
        function: Function,
        case: i32,
        steady: Steady,
        calls: u64,
        mut attempt: impl FnMut(u64) -> Result<(), Wrong>,
    ) -> bool {
        let attempts = if steady == Steady::Yes { 1 } else { ATTEMPTS };
        let mut wrong = None;
        for _ in 0..attempts {
            let began = self.control.right();
            let found = attempt(calls);
            if !self.control.judge(function, began, calls) {
                return false;
            }
            match found {
                Ok(()) => return true,
                Err(found) => wrong = Some(found),
            }
        }
        if let Some(wrong) = wrong {
            self.say(function, case, &wrong);
        }
        false
    }

    fn say(&self, function: Function, case: i32, wrong: &Wrong) {
        let name = function.symbol();
        let (found, before) = (Answer(wrong.found), Answer(wrong.before));
        let (after, what) = (Answer(wrong.after), wrong.what);
        let (thread, place) = (self.thread, self.place);
        self.control.fail(format_args!(
            "{name}, case {case}, thread {thread}{place}: {what}: {found}, and the system call's are {before} and {after}"
        ));
    }
}
