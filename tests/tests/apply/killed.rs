//! The tool is killed before and after each of its system calls, from the moment at which it first
//! touches the process. The process goes on with right answers each time, and the next tool does
//! its work.

use std::time::SystemTime;

use kernel_source::Cache;
use libtest_mimic::Trial;
use nix::unistd::Pid;
use relocator::threads::Memory;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_process::tracing::ProcessMemory;
use relocator_tests::bed::control::{COVERED, Counts, EVERYTHING, Function};
use relocator_tests::bed::hammer::Hammer;
use relocator_tests::command;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};
use tempfile::TempDir;

use crate::linker::{Linker, check, hammer};
use crate::look::{Usual, maps, nothing_is_writable_and_executable};
use crate::odd::SLEEPING;
use crate::refused::Odd;
use crate::tool::{Ended, Moment, Tool};

/// The old kernels of processes whose tools are killed: one whose record finds room in the image's
/// last page, and one with `getrandom`, whose record takes another page.
const SMALL: &str = "6.1";
const LARGE: &str = "7.2";

/// With this variable every n-th moment is taken: 1 for all of them, which takes a quarter of an
/// hour.
const STRIDE: &str = "RELOCATOR_KILL_STRIDE";

/// The first moment, where a failure is to be repeated.
const FIRST: &str = "RELOCATOR_KILL_FIRST";

/// How many of the last moments are told.
const TOLD: usize = 8;

/// Every how many moments are taken, for a process with one thread and with many. The first one is
/// another every day, so that all of them are taken in two weeks.
const OF_ONE: usize = 7;
const OF_MANY: usize = 13;

/// The same where the command is killed, which takes longer to begin.
const OF_COMMAND: usize = 47;

/// How many tools have to come to their end in a row for all moments to have been seen: each takes
/// another number of calls.
const ENDS: usize = 3;

/// How much larger a process may be in the end. A tool that is killed leaves behind what it has not
/// put in place yet.
const LEFT_BEHIND: u64 = 32 << 20;

/// What the tool is killed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Apply,
    RollBack,
    Prepare,
}

/// Who calls in the process.
#[derive(Debug, Clone, Copy)]
struct Crew {
    old: &'static str,
    threads: usize,
    idle: usize,
}

const MANY: Crew = Crew {
    old: LARGE,
    threads: 4,
    idle: 6,
};

/// The only thread has to be the one that makes system calls for the tool.
const ONE: Crew = Crew {
    old: SMALL,
    threads: 0,
    idle: 0,
};

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let fetched = match listing {
        true => Ok(()),
        false => [SMALL, LARGE]
            .into_iter()
            .try_for_each(|old| Cache::locate().fetch(old).map(drop)),
    };
    let possible = &fetched.map_err(|error| in_words(&error));
    let mut trials = Vec::new();
    for (verb, work) in [
        ("apply", Work::Apply),
        ("rollback", Work::RollBack),
        ("prepare", Work::Prepare),
    ] {
        let mut add = |name: &str, run: Box<dyn FnOnce() -> Result<(), String> + Send>| {
            trials.push(trial(format!("killed::{verb}_of_{name}"), possible, run));
        };
        add("a_sleeper", Box::new(move || sleeper(work)));
        add("one_thread", Box::new(move || library(ONE, work, OF_ONE)));
        add("threads", Box::new(move || library(MANY, work, OF_MANY)));
        add("threads_by_command", Box::new(move || the_command(work)));
    }
    trials.push(trial("killed::again_and_again", possible, again_and_again));
    trials
}

impl Crew {
    fn spec(self) -> Spec {
        Spec::Kernel(self.old.to_owned())
    }
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

pub(crate) fn stride(usual: usize) -> usize {
    number(STRIDE).filter(|&stride| stride > 0).unwrap_or(usual)
}

/// The first moment that is taken.
pub(crate) fn first() -> usize {
    number(FIRST).unwrap_or(0)
}

/// The first moment of a run that takes every `stride`-th.
fn first_today(stride: usize) -> usize {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let days = now.map_or(0, |since| since.as_secs() / (24 * 60 * 60));
    number(FIRST).unwrap_or(days as usize % stride)
}

/// Kills forks of this process, at all moments.
fn library(crew: Crew, work: Work, usual: usize) -> Result<(), String> {
    let victim = Victim::start(crew)?;
    let linker = Linker::new(&crew.spec())?;
    victim.kill_at_all(work, &linker, stride(usual), &|pid| {
        start(&linker, work, pid)
    })
}

/// A fork of this process that does the work.
pub(crate) fn start(linker: &Linker, work: Work, pid: i32) -> Result<Tool, String> {
    Tool::fork(|| {
        let outcome = match work {
            Work::Apply => linker.apply(pid),
            Work::RollBack => linker.roll_back(pid),
            Work::Prepare => linker.prepare(pid),
        };
        outcome.map(|outcome| format!("{:?}", outcome.state))
    })
}

/// Kills forks of this process one after the other, each of which finds what the one before has
/// left, at moments that are spread over all. Only the last one comes to its end.
fn again_and_again() -> Result<(), String> {
    /// How many are killed, and how many where few moments are taken.
    const USUAL: usize = 120;
    const FEWEST: usize = 20;
    /// How far their moments are from each other: a prime number, so that all are taken in the end.
    const DISTANCE: usize = 211;
    /// As many as a tool has.
    const MOMENTS: usize = 500;
    let kills = (USUAL * OF_MANY / stride(OF_MANY)).max(FEWEST);
    let mut victim = Victim::start(MANY)?;
    let linker = Linker::new(&MANY.spec())?;
    let mut killed = 0;
    for turn in 0..kills {
        let work = match turn % 4 {
            2 => Work::RollBack,
            3 => Work::Prepare,
            _ => Work::Apply,
        };
        let number = (first() + turn * DISTANCE) % MOMENTS;
        let tool = start(&linker, work, victim.pid())?;
        let (what, ended) = kill_at(tool, number)?;
        let at = |error: String| {
            format!("turn {turn}, {work:?}, moment {number}: {error}; the last were {what}")
        };
        match ended {
            None => killed += 1,
            Some(ended) => ensure(ended.status == 0, || at(format!("{ended:?}")))?,
        }
        victim.goes_on().map_err(at)?;
    }
    ensure(killed > kills / 3, || format!("only {killed} were killed"))?;
    victim.mend(Work::Apply, 0, &linker)?;
    victim.hammer.finish().map(drop)
}

/// Kills the command, at some moments.
fn the_command(work: Work) -> Result<(), String> {
    let victim = Victim::start(MANY)?;
    let linker = Linker::new(&MANY.spec())?;
    let directory = TempDir::new().map_err(|error| error.to_string())?;
    let tables = directory.path().join("tables");
    // Each command would unpack the kernel to find the same in it.
    let (kernel, file) = (MANY.spec().to_string(), directory.path().join("old.so"));
    let dump = [
        "dump-vdso".as_ref(),
        kernel.as_ref(),
        "-o".as_ref(),
        file.as_os_str(),
    ];
    for words in [&dump[..], &["derive".as_ref(), kernel.as_ref()]] {
        let ran = command::run_with_cache(&tables, words);
        ensure(ran.status == Some(0), || format!("{ran:?}"))?;
    }
    let start = |pid: i32| {
        let mut command = command::relocator();
        command.env(relocator_cli::cache::VARIABLE, &tables);
        command.arg(match work {
            Work::Apply => "apply",
            Work::RollBack => "rollback",
            Work::Prepare => "prepare",
        });
        command.args(["--json", "--deadline", "60", "--pid", &pid.to_string()]);
        command.arg("--old").arg(&file);
        Tool::execute(command)
    };
    victim.kill_at_all(work, &linker, stride(OF_COMMAND), &start)
}

/// Kills forks of this process that work on one whose only thread sleeps. It would end if it did
/// not sleep long enough.
fn sleeper(work: Work) -> Result<(), String> {
    let linker = Linker::new(&ONE.spec())?;
    let mut odd = Odd::start(SLEEPING)?;
    let pid = odd.pid();
    let usual = Usual::of(pid)?;
    let step = stride(OF_ONE);
    let (mut ends, mut number) = (0, first_today(step));
    while ends < ENDS {
        if work != Work::Apply {
            linker.apply(pid)?;
        }
        let (what, ended) = kill_at(start(&linker, work, pid)?, number)?;
        let at =
            |error: String| format!("{work:?}, moment {number}: {error}; the last were {what}");
        match ended {
            None => ends = 0,
            Some(ended) => {
                ends += 1;
                ensure(ended.status == 0, || at(format!("{ended:?}")))?;
            }
        }
        usual.await_all().map_err(at)?;
        linker.apply(pid).map_err(at)?;
        linker.roll_back(pid).map_err(at)?;
        let gone = odd.restored.child.try_wait();
        let gone = gone.map_err(|error| in_words(&error))?;
        ensure(gone.is_none(), || at(format!("it has ended: {gone:?}")))?;
        number += step;
    }
    ensure(number > 200, || format!("only {number} moments"))?;
    usual.await_all()
}

/// A process whose tools are killed.
struct Victim {
    hammer: Hammer,
    usual: Usual,
    /// The old text as it was.
    text: Vec<u8>,
    maps: Vec<String>,
    size: u64,
}

impl Victim {
    fn start(crew: Crew) -> Result<Self, String> {
        let hammer = hammer(&crew.spec(), crew.threads, crew.idle)?;
        let pid = hammer.restored.pid();
        let mut victim = Self {
            usual: Usual::of(pid)?,
            text: Vec::new(),
            maps: Vec::new(),
            size: size(pid)?,
            hammer,
        };
        victim.text = victim.read_text()?;
        victim.maps = victim.constant_maps()?;
        Ok(victim)
    }

    fn pid(&self) -> i32 {
        self.hammer.restored.pid()
    }

    fn kill_at_all(
        mut self,
        work: Work,
        linker: &Linker,
        stride: usize,
        start: &dyn Fn(i32) -> Result<Tool, String>,
    ) -> Result<(), String> {
        let mut ends = 0;
        let mut kills = 0;
        let mut number = first_today(stride);
        while ends < ENDS {
            if work != Work::Apply {
                self.link(linker)?;
            }
            let tool = start(self.pid())?;
            let (what, ended) = kill_at(tool, number)?;
            let at =
                |error: String| format!("{work:?}, moment {number}: {error}; the last were {what}");
            match ended {
                None => {
                    (kills, ends) = (kills + 1, 0);
                    self.goes_on().map_err(at)?;
                }
                Some(ended) => {
                    ends += 1;
                    ensure(ended.status == 0, || at(format!("{ended:?}")))?;
                }
            }
            self.mend(work, number, linker).map_err(|error| {
                let now = self.constant_maps().unwrap_or_default();
                let now: Vec<_> = now.iter().filter(|line| !line.contains('/')).collect();
                at(format!("then {error}; mapped without a file: {now:#?}"))
            })?;
            number += stride;
        }
        let growth = size(self.pid())?.saturating_sub(self.size);
        ensure(growth <= LEFT_BEHIND, || {
            format!("{growth:#x} bytes are left behind by {kills} tools")
        })?;
        let counts = self.hammer.finish()?;
        let begun_late = self::number(FIRST).is_some();
        ensure(begun_late || kills > 200 / stride, || {
            format!("only {kills} were killed")
        })?;
        eprintln!("{work:?}: {kills} tools were killed, {growth:#x} bytes more; {counts:?}");
        Ok(())
    }

    /// The process goes on by itself.
    fn goes_on(&mut self) -> Result<(), String> {
        nothing_is_writable_and_executable(self.pid())?;
        let all = self.usual.await_all();
        check(&mut self.hammer)?;
        all?;
        self.called()?;
        check(&mut self.hammer)
    }

    /// The next tool does its work, and all is right.
    fn mend(&mut self, work: Work, number: usize, linker: &Linker) -> Result<(), String> {
        let is_odd = number % 2 == 1;
        if work == Work::Apply || is_odd {
            self.link(linker)?;
        }
        let undone = linker.roll_back(self.pid())?;
        let expected: &[ApplyState] = match work == Work::Apply || is_odd {
            true => &[ApplyState::RolledBack],
            false => &[ApplyState::RolledBack, ApplyState::Untouched],
        };
        ensure(expected.contains(&undone.state), || {
            format!("the next rollback: {:?}", undone.state)
        })?;
        check(&mut self.hammer)?;
        if undone.state == ApplyState::Untouched {
            // What was left behind is taken away by the next tool that has something to do.
            return Ok(());
        }
        let text = self.read_text()?;
        ensure(text == self.text, || {
            let pairs = text.iter().zip(&self.text).enumerate();
            let differing = pairs.filter(|(_, (now, then))| now != then);
            let places =
                differing.map(|(at, (now, then))| format!("{at:#x}: {now:#x}, was {then:#x}"));
            format!("the old text is another: {:?}", places.collect::<Vec<_>>())
        })?;
        let maps = self.constant_maps()?;
        ensure(maps == self.maps, || {
            format!("mappings are {maps:#?} and were {:#?}", self.maps)
        })
    }

    /// Links it, and has everything be right for a while.
    fn link(&mut self, linker: &Linker) -> Result<(), String> {
        let linked = linker.apply(self.pid())?;
        let expected = [
            ApplyState::Linked,
            ApplyState::Completed,
            ApplyState::AlreadyLinked,
        ];
        ensure(expected.contains(&linked.state), || {
            format!("the next apply: {:?}", linked.state)
        })?;
        self.hammer.control.set_right(EVERYTHING);
        let judged = self.judged();
        self.hammer.control.set_right(COVERED);
        judged.map_err(|error| format!("linked ({:?}): {error}", linked.state))?;
        check(&mut self.hammer)
    }

    /// Each function is called again.
    fn called(&mut self) -> Result<(), String> {
        let before = self.hammer.control.counts();
        self.all_advance("call", |counts| counts.called, &before)
    }

    /// An answer of each function has had to be right.
    fn judged(&mut self) -> Result<(), String> {
        let before = self.hammer.control.counts();
        self.all_advance("judge", |counts| counts.judged, &before)
    }

    fn all_advance(
        &mut self,
        what: &str,
        counters: fn(&Counts) -> [u64; Function::ALL.len()],
        before: &Counts,
    ) -> Result<(), String> {
        let old = counters(before);
        let advanced = |counts: &Counts| {
            let new = counters(counts);
            counts.failures > 0 || old.iter().zip(new).all(|(&old, new)| new > old)
        };
        self.hammer.wait_until(what, advanced).map(drop)
    }

    fn read_text(&self) -> Result<Vec<u8>, String> {
        let text = &self.hammer.restored.text;
        let mut bytes = vec![0; (text.end.0 - text.start.0) as usize];
        let read = ProcessMemory::of(Pid::from_raw(self.pid())).read(text.start, &mut bytes);
        ensure(read, || format!("{} cannot be read", text.start)).map(|()| bytes)
    }

    /// Mappings that cannot be written.
    fn constant_maps(&self) -> Result<Vec<String>, String> {
        let maps = maps(self.pid())?;
        let is_constant = |line: &&str| !line.contains(" rw-");
        Ok(maps
            .lines()
            .filter(is_constant)
            .map(str::to_owned)
            .collect())
    }
}

/// Kills a tool at its n-th moment, and says which that was; or how it has ended before.
pub(crate) fn kill_at(mut tool: Tool, number: usize) -> Result<(String, Option<Ended>), String> {
    let mut last = Vec::new();
    loop {
        let moment = tool.next_of_interest()?;
        let is_last = last.len() == number || moment.is_err();
        let told = |last: &[Moment]| {
            let told: Vec<String> = last.iter().map(Moment::to_string).collect();
            // A tool that waits makes the same call many times.
            let pairs = told.iter().enumerate();
            let new = pairs.filter(|&(at, one)| at < 2 || *one != told[at - 2]);
            let new: Vec<&str> = new.map(|(_, one)| one.as_str()).collect();
            new[new.len().saturating_sub(TOLD)..].join(", ")
        };
        match moment {
            Ok(moment) => last.push(moment),
            Err(ended) => return Ok((told(&last), Some(ended))),
        }
        if is_last {
            drop(tool);
            return Ok((told(&last), None));
        }
    }
}

/// Bytes of address space.
fn size(pid: i32) -> Result<u64, String> {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
    stat.map(|stat| stat.vsize)
        .map_err(|error| error.to_string())
}
