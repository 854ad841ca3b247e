//! What a dry run says comes true, and it changes nothing.

use kernel_source::Cache;
use libtest_mimic::Trial;
use nix::unistd::Pid;
use relocator::threads::Memory;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::{ApplyOutcome, ApplyState, ApplyTimes};
use relocator_process::maps;
use relocator_process::tracing::ProcessMemory;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::linker::{Linker, check, hammer};
use crate::look::Usual;
use crate::odd::{FILTERED, PLAIN};
use crate::places::is;
use crate::refused::{Odd, Snapshot};

const OLD: &str = "6.1";

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let fetched = match listing {
        true => Ok(()),
        false => Cache::locate().fetch(OLD).map(drop),
    };
    let possible = &fetched.map_err(|error| in_words(&error));
    let test = |name: &str, run: fn() -> Result<(), String>| {
        trial(format!("dry_run::{name}"), possible, run)
    };
    vec![
        test("of_a_process_that_rests", at_rest),
        test("of_a_process_under_load", under_load),
        test("of_a_process_that_is_refused", refused),
    ]
}

fn linkers() -> Result<(Linker, Linker), String> {
    let spec = Spec::Kernel(OLD.to_owned());
    Ok((Linker::dry(&spec)?, Linker::new(&spec)?))
}

/// All that a process has: mappings, registers and signals of threads, and every byte that can be
/// read.
#[derive(PartialEq, Eq)]
struct Whole {
    seen: Snapshot,
    memory: Vec<Option<Vec<u8>>>,
}

impl Whole {
    fn of(pid: i32) -> Result<Self, String> {
        let mappings = maps::of(pid).map_err(|error| in_words(&error))?;
        let memory = ProcessMemory::of(Pid::from_raw(pid));
        let content = |mapping: &relocator_process::targets::Mapping| {
            let mut bytes = vec![0; mapping.size() as usize];
            memory
                .read(mapping.range.start, &mut bytes)
                .then_some(bytes)
        };
        // The kernel's own data change all the time.
        let is_kept = |mapping: &&relocator_process::targets::Mapping| {
            mapping.protection.read && !mapping.name.starts_with("[vv")
        };
        Ok(Self {
            memory: mappings.iter().filter(is_kept).map(content).collect(),
            seen: Snapshot::of(pid)?,
        })
    }

    fn is_unchanged(&self, pid: i32) -> Result<(), String> {
        let now = Self::of(pid)?;
        ensure(self.seen == now.seen, || {
            format!("{:?} became {:?}", self.seen, now.seen)
        })?;
        ensure(self.memory == now.memory, || {
            "its memory has changed".to_owned()
        })
    }
}

/// Threads were not stopped, and all of them were seen.
fn is_dry(outcome: &ApplyOutcome, threads: usize) -> Result<(), String> {
    let seen = outcome.seen.as_ref().map(|seen| seen.threads);
    let is_it = seen == Some(threads) && outcome.times == ApplyTimes::default();
    ensure(is_it, || format!("{outcome:?}"))
}

/// Every function has the same fate, and the kernel's mappings the same place.
fn comes_true(planned: &ApplyOutcome, done: &ApplyOutcome) -> Result<(), String> {
    let fates = |outcome: &ApplyOutcome| {
        let functions = outcome.texts.iter().flat_map(|text| text.functions.clone());
        let fates = functions.map(|one| (one.entry, one.strategy, one.reason.to_string()));
        fates.collect::<Vec<_>>()
    };
    let is_it = fates(planned) == fates(done) && planned.kernel == done.kernel;
    ensure(is_it, || format!("{planned:?} became {done:?}"))
}

fn at_rest() -> Result<(), String> {
    let (dry, linker) = linkers()?;
    let odd = Odd::start(PLAIN)?;
    let pid = odd.pid();
    odd.snapshot()?;
    let before = Whole::of(pid)?;
    let nothing = dry.roll_back(pid)?;
    is(ApplyState::Untouched, nothing.state)?;
    let planned = dry.apply(pid)?;
    is(ApplyState::WouldBeLinked, planned.state)?;
    is_dry(&planned, 1)?;
    let has_all = !planned.kernel.is_empty() && !planned.texts[0].functions.is_empty();
    ensure(has_all, || format!("{planned:?}"))?;
    before.is_unchanged(pid)?;
    let done = linker.apply(pid)?;
    is(ApplyState::Linked, done.state)?;
    comes_true(&planned, &done)?;

    odd.snapshot()?;
    let linked = Whole::of(pid)?;
    is(ApplyState::AlreadyLinked, dry.apply(pid)?.state)?;
    let planned = dry.roll_back(pid)?;
    is(ApplyState::WouldBeRolledBack, planned.state)?;
    is_dry(&planned, 1)?;
    linked.is_unchanged(pid)?;
    let done = linker.roll_back(pid)?;
    is(ApplyState::RolledBack, done.state)?;
    comes_true(&planned, &done)
}

/// Threads that call all the time are not stopped, and their calls stay right.
fn under_load() -> Result<(), String> {
    let (dry, linker) = linkers()?;
    let mut hammer = hammer(&Spec::Kernel(OLD.to_owned()), 2, 2)?;
    let pid = hammer.restored.pid();
    let usual = Usual::of(pid)?;
    let before = maps::of(pid).map_err(|error| in_words(&error))?;
    for _ in 0..20 {
        let planned = dry.apply(pid)?;
        is(ApplyState::WouldBeLinked, planned.state)?;
        let seen = planned.seen.as_ref().ok_or("no threads were seen")?;
        ensure(seen.threads > 2 && seen.unknown <= seen.threads, || {
            format!("{seen:?}")
        })?;
    }
    let after = maps::of(pid).map_err(|error| in_words(&error))?;
    ensure(before == after, || "its mappings have changed".to_owned())?;
    usual.await_all()?;
    check(&mut hammer)?;
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    is(ApplyState::WouldBeRolledBack, dry.roll_back(pid)?.state)?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    check(&mut hammer)?;
    hammer.finish().map(drop)
}

/// What would be refused is.
fn refused() -> Result<(), String> {
    let (dry, linker) = linkers()?;
    let odd = Odd::start(FILTERED)?;
    let planned = dry.apply(odd.pid()).err();
    let done = linker.apply(odd.pid()).err();
    ensure(planned.is_some() && planned == done, || {
        format!("{planned:?}, {done:?}")
    })
}
