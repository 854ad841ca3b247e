//! Where the kernel's mappings and the link record go, and what a process is like before, during
//! and after.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name::{VDSO, VVAR, VVAR_VCLOCK};
use kernel_source::Cache;
use libtest_mimic::Trial;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator::criu::Mark;
use relocator::placement::PAGE;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::{ApplyOutcome, ApplyState};
use relocator_process::apply::place::REACH;
use relocator_process::targets::live::Live;
use relocator_tests::bed::control::{COVERED, EVERYTHING};
use relocator_tests::bed::hammer::Hammer;
use relocator_tests::bed::remote::Remote;
use relocator_tests::bed::{Bed, PARK, Restored, old_vdso};
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};
use relocator_verify::bed;

use crate::linker::{Linker, check};
use crate::snapshot::{self, Snapshot, mappings, memory, named};

const HAMMER: &str = env!("CARGO_BIN_EXE_hammer");

/// What all processes here were checkpointed with.
pub(crate) const OLD: &str = "6.1";

/// One whose link record takes another page.
const LARGE: &str = "7.2";

/// An address for the old text with nothing near it.
const TEXT: Avma = Avma(0x7e12_3456_7000);

/// How long functions are called in each state.
pub(crate) const WHILE: Duration = Duration::from_millis(100);

/// How long threads are given to stand still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What is tried.
type Check = fn() -> Result<(), String>;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = fetched(listing);
    let checks: [(&str, Check); 12] = [
        ("parked_anywhere", parked_anywhere),
        ("little_room", little_room),
        ("nothing_in_reach", nothing_in_reach),
        ("names_that_lie", names_that_lie),
        ("named_text", named_text),
        ("stopped_before", || stopped_before(8, 10)),
        ("stopped_before_alone", || stopped_before(0, 40)),
        ("stopped_before_many", || stopped_before(64, 10)),
        ("stopped_meanwhile", stopped_meanwhile),
        ("applied_twice", applied_twice),
        ("memory", little_memory),
        ("mark", mark_is_kept),
    ];
    let trials = checks.into_iter();
    trials
        .map(|(name, check)| trial(format!("places::{name}"), &possible, check))
        .collect()
}

/// Whether there is the old kernel, or why not.
pub(crate) fn fetched(listing: bool) -> Result<(), String> {
    match listing {
        true => Ok(()),
        false => {
            let fetch = |old| Cache::locate().fetch(old).map(drop);
            let fetched = [OLD, LARGE].into_iter().try_for_each(fetch);
            fetched.map_err(|error| in_words(&error))
        }
    }
}

pub(crate) fn spec() -> Spec {
    Spec::Kernel(OLD.to_owned())
}

pub(crate) fn bed() -> Result<Bed, String> {
    bed_of(&spec())
}

fn bed_of(old: &Spec) -> Result<Bed, String> {
    let mut bed = Bed::new(old_vdso(old)?);
    bed.gives_way = true;
    Ok(bed)
}

/// A hammer that has got over its beginning, in which it maps memory.
pub(crate) fn start(bed: &Bed, threads: usize) -> Result<Hammer, String> {
    let mut hammer = Hammer::start(bed, Path::new(HAMMER), threads, 0)?;
    hammer.control.set_right(COVERED);
    thread::sleep(WHILE);
    check(&mut hammer)?;
    Ok(hammer)
}

/// Calls functions for a while, of which these have to be right.
pub(crate) fn hammered(hammer: &mut Hammer, right: u32) -> Result<(), String> {
    let before = hammer.control.counts().judged.iter().sum::<u64>();
    hammer.control.set_right(right);
    thread::sleep(WHILE);
    let ahead = |judged: &[u64]| judged.iter().sum::<u64>() > before;
    hammer.wait_until("call", |counts| {
        ahead(&counts.judged) || counts.first.is_some()
    })?;
    hammer.control.set_right(COVERED);
    check(hammer)
}

pub(crate) fn is(expected: ApplyState, found: ApplyState) -> Result<(), String> {
    ensure(expected == found, || {
        format!("{found:?} instead of {expected:?}")
    })
}

/// Links a process and unlinks it again: everything is right meanwhile, and as it was afterwards.
/// `linked` looks at it in between.
fn there_and_back(
    bed: &Bed,
    prepare: impl FnOnce(&Hammer) -> Result<(), String>,
    linked: impl FnOnce(&ApplyOutcome, &Hammer) -> Result<(), String>,
) -> Result<(), String> {
    there_and_back_with(&spec(), bed, prepare, linked)
}

fn there_and_back_with(
    old: &Spec,
    bed: &Bed,
    prepare: impl FnOnce(&Hammer) -> Result<(), String>,
    linked: impl FnOnce(&ApplyOutcome, &Hammer) -> Result<(), String>,
) -> Result<(), String> {
    let linker = Linker::new(old)?;
    let mut hammer = start(bed, 2)?;
    let pid = hammer.restored.pid();
    prepare(&hammer)?;
    hammered(&mut hammer, COVERED)?;
    let before = Snapshot::of(pid)?;
    let outcome = linker.apply(pid)?;
    is(ApplyState::Linked, outcome.state)?;
    hammered(&mut hammer, EVERYTHING)?;
    linked(&outcome, &hammer)?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    before.is(&Snapshot::of(pid)?)?;
    hammered(&mut hammer, COVERED)?;
    hammer.finish().map(drop)
}

/// The kernel's mappings are brought into reach, or stay where they are if they are in reach.
fn parked_anywhere() -> Result<(), String> {
    let near = Avma(TEXT.0 - REACH / 2 / PAGE * PAGE);
    let parks = [(PARK, true), (Avma(0x7a00_0000_0000), true), (near, false)];
    for (park, moves) in parks {
        let bed = Bed {
            park,
            text: Some(TEXT),
            ..bed()?
        };
        let is_right = |outcome: &ApplyOutcome, hammer: &Hammer| {
            let now = mappings(hammer.restored.pid())?;
            for placed in &outcome.kernel {
                let start = named(&now, &placed.name)?.start;
                ensure(start == placed.to, || format!("{start}: {placed:?}"))?;
                ensure((placed.from != placed.to) == moves, || {
                    format!("{placed:?}")
                })?;
            }
            ensure(outcome.kernel.len() >= 2, || format!("{outcome:?}"))?;
            ensure(outcome.unreachable.is_none(), || format!("{outcome:?}"))
        };
        let done = there_and_back(&bed, |_| Ok(()), is_right);
        done.map_err(|error| format!("parked at {park}: {error}"))?;
    }
    Ok(())
}

/// Other mappings are directly below the old vvar, directly behind the old text, or both.
fn little_room() -> Result<(), String> {
    let rooms = [
        (None, Some(0)),
        (Some(0), None),
        (Some(0), Some(0)),
        (Some(PAGE), Some(PAGE)),
    ];
    let olds = [OLD, LARGE].map(|old| Spec::Kernel(old.to_owned()));
    let all = olds.iter().flat_map(|old| rooms.map(|room| (old, room)));
    for (old, (room_below, room_behind)) in all {
        let bed = Bed {
            room_below,
            room_behind,
            ..bed_of(old)?
        };
        let is_right = |outcome: &ApplyOutcome, hammer: &Hammer| {
            ensure(outcome.unreachable.is_none(), || format!("{outcome:?}"))?;
            // A dump by CRIU finds it there.
            let text = hammer.restored.text.start;
            let mappings = mappings(hammer.restored.pid())?;
            let mut starts = mappings.iter().map(|mapping| mapping.range.start);
            ensure(starts.any(|start| start == text), || {
                format!("no mapping begins at {text}")
            })?;
            ensure(outcome.added() <= PAGE, || {
                format!("{} bytes are added", outcome.added())
            })
        };
        let done = there_and_back_with(old, &bed, |_| Ok(()), is_right);
        done.map_err(|error| format!("{old}, room {room_below:?} and {room_behind:?}: {error}"))?;
    }
    Ok(())
}

/// Has a process do something to itself.
pub(crate) fn remotely<T>(
    pid: i32,
    act: impl FnOnce(&mut Remote<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let vdso = named(&mappings(pid)?, VDSO)?;
    let mut live = Live::stop(pid, PATIENCE).map_err(|error| in_words(&error))?;
    let tracee = live.tracees().first_mut().ok_or("no thread")?;
    let mut remote = Remote::new(tracee, vdso.start, vdso.end.0 - vdso.start.0)?;
    let done = act(&mut remote);
    remote.finish()?;
    live.release();
    done
}

/// Has a process map private memory that belongs to no file.
pub(crate) fn map(
    remote: &mut Remote<'_>,
    range: &Range<Avma>,
    protection: i32,
) -> Result<(), String> {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
    let size = range.end.0 - range.start.0;
    let arguments = [
        range.start.0,
        size,
        protection as u64,
        flags as u64,
        u64::MAX,
        0,
    ];
    let what = format!("mapping {range:?}");
    Ok(remote.call(&what, libc::SYS_mmap, arguments).map(drop)?)
}

/// Parts of a range where nothing is mapped.
pub(crate) fn free(all: &[snapshot::Mapping], range: &Range<Avma>) -> Vec<Range<Avma>> {
    let mut free = Vec::new();
    let mut at = range.start;
    for mapping in all {
        let end = mapping.range.start.min(range.end);
        if at < end {
            free.push(at..end);
        }
        at = at.max(mapping.range.end);
    }
    if at < range.end {
        free.push(at..range.end);
    }
    free
}

/// A process has reserved everything that its old code reaches: functions jump to the new vDSO
/// where it is.
fn nothing_in_reach() -> Result<(), String> {
    let bed = Bed {
        text: Some(TEXT),
        ..bed()?
    };
    let reserve = |hammer: &Hammer| {
        let pid = hammer.restored.pid();
        let reach = Avma(TEXT.0 - (REACH + PAGE))..Avma(TEXT.0 + REACH + (1 << 20));
        let all = mappings(pid)?;
        remotely(pid, |remote| {
            let mut free = free(&all, &reach).into_iter();
            free.try_for_each(|range| map(remote, &range, libc::PROT_NONE))
        })
    };
    let is_right = |outcome: &ApplyOutcome, hammer: &Hammer| {
        let reason = outcome.unreachable.as_deref().unwrap_or_default();
        ensure(reason.contains("largest hole"), || format!("{outcome:?}"))?;
        let start = named(&mappings(hammer.restored.pid())?, VVAR)?.start;
        ensure(start == PARK, || format!("vvar is at {start}"))
    };
    there_and_back(&bed, reserve, is_right)
}

/// A file of the name of the kernel's vDSO that is mapped as code, and holds an old one: nobody
/// calls it, and it is left alone.
fn names_that_lie() -> Result<(), String> {
    const FILE: &str = "/memfd:[vdso] (deleted)";
    let prepare = |hammer: &Hammer| {
        memory_file(&hammer.restored)?;
        let all = mappings(hammer.restored.pid())?;
        let is_it =
            |mapping: &snapshot::Mapping| mapping.name == FILE && mapping.protection.contains('x');
        ensure(all.iter().any(is_it), || format!("not mapped: {all:x?}"))
    };
    let is_told = |outcome: &ApplyOutcome, _: &Hammer| {
        let names = &outcome.misleading_names;
        ensure(names.iter().any(|name| name.contains(FILE)), || {
            format!("{names:?}")
        })?;
        ensure(outcome.texts.len() == 1, || format!("{outcome:?}"))
    };
    there_and_back(&bed()?, prepare, is_told)
}

/// An old text that somebody has given a name. The name is lost.
fn named_text() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 2)?;
    let pid = hammer.restored.pid();
    let text = hammer.restored.text.clone();
    name_memory(pid, &text)?;
    let before = mappings(pid)?;
    let is_it = |mapping: &&snapshot::Mapping| mapping.range == text;
    let found = before.iter().find(is_it).map(|text| text.name.as_str());
    // Kernels are built with or without such names.
    ensure(matches!(found, Some("[anon:vdso]" | "")), || {
        format!("{found:?}")
    })?;
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    hammered(&mut hammer, EVERYTHING)?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    hammered(&mut hammer, COVERED)?;
    hammer.finish().map(drop)
}

/// Has a process name its own memory `vdso`, if the kernel can do that.
fn name_memory(pid: i32, range: &Range<Avma>) -> Result<(), String> {
    const NAME: &[u8] = b"vdso\0";
    remotely(pid, |remote| {
        with_scratch(remote, NAME, |remote, scratch| {
            let arguments = [
                libc::PR_SET_VMA as u64,
                libc::PR_SET_VMA_ANON_NAME as u64,
                range.start.0,
                range.end.0 - range.start.0,
                scratch.0,
                0,
            ];
            match remote.call("naming memory", libc::SYS_prctl, arguments) {
                Err(bed::Error::System { source, .. })
                    if source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    Ok(())
                }
                result => Ok(result.map(drop)?),
            }
        })
    })
}

/// Has bytes where a process does not use its stack.
fn with_scratch<T>(
    remote: &mut Remote<'_>,
    bytes: &[u8],
    act: impl FnOnce(&mut Remote<'_>, Avma) -> Result<T, String>,
) -> Result<T, String> {
    // Below the stack pointer, and below what functions may use there.
    let scratch = Avma(remote.registers().0.rsp).offset(-4096);
    let before = remote.read(scratch, bytes.len())?;
    remote.write(scratch, bytes)?;
    let done = act(remote, scratch);
    remote.write(scratch, &before)?;
    done
}

/// Has a process map a file in memory, called `[vdso]`, that holds what its old text does.
fn memory_file(restored: &Restored) -> Result<(), String> {
    const NAME: &[u8] = b"[vdso]\0";
    let pid = restored.pid();
    let bytes = memory(pid, &restored.text)?;
    remotely(pid, |remote| {
        let file = with_scratch(remote, NAME, |remote, scratch| {
            let arguments = [scratch.0, 0, 0, 0, 0, 0];
            Ok(remote.call("memfd_create", libc::SYS_memfd_create, arguments)?)
        })?;
        let path = format!("/proc/{pid}/fd/{file}");
        fs::write(&path, &bytes).map_err(|error| format!("{path}: {error}"))?;
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        let arguments = [
            0,
            bytes.len() as u64,
            protection as u64,
            libc::MAP_PRIVATE as u64,
            file,
            0,
        ];
        Ok(remote.call("mmap", libc::SYS_mmap, arguments).map(drop)?)
    })
}

pub(crate) fn send(pid: i32, signal: Signal) -> Result<(), String> {
    kill(Pid::from_raw(pid), signal).map_err(|errno| errno.to_string())
}

/// State of the first thread, such as `T`.
fn state(pid: i32) -> Result<char, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let behind = stat.rsplit_once(") ").map(|(_, behind)| behind);
    behind
        .and_then(|behind| behind.chars().next())
        .ok_or(stat.clone())
}

/// Stops a process, and waits until it has.
pub(crate) fn stop(pid: i32) -> Result<(), String> {
    send(pid, Signal::SIGSTOP)?;
    is_stopped(pid)
}

/// Waits until all threads are stopped, which each of them has to run for.
fn is_stopped(pid: i32) -> Result<(), String> {
    let mut states = String::new();
    for _ in 0..5000 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| in_words(&error))?;
        let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
        states = ids.map(state).collect::<Result<_, _>>()?;
        if states.chars().all(|state| state == 'T') {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(format!("it does not stop: {states}"))
}

/// Stops a process and does something to it. A thread that cannot be carried across where it is
/// does not get anywhere else while it is stopped, so it is tried at another moment then.
pub(crate) fn while_stopped<T>(
    pid: i32,
    mut act: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    const ATTEMPTS: usize = 20;
    for _ in 0..ATTEMPTS {
        stop(pid)?;
        match act() {
            // Its handler would have to return.
            Err(error) if error.contains("signal frame") => {
                send(pid, Signal::SIGCONT)?;
                thread::sleep(WHILE);
            }
            done => return done,
        }
    }
    Err("threads cannot be carried across wherever they are stopped".to_owned())
}

/// A process that a signal has stopped remains stopped.
fn stopped_before(threads: usize, cycles: usize) -> Result<(), String> {
    let linker = Linker::impatient(&spec())?;
    let mut hammer = start(&bed()?, threads)?;
    let pid = hammer.restored.pid();
    for _ in 0..cycles {
        for (linked, right) in [(true, EVERYTHING), (false, COVERED)] {
            while_stopped(pid, || match linked {
                true => is(ApplyState::Linked, linker.apply(pid)?.state),
                false => is(ApplyState::RolledBack, linker.roll_back(pid)?.state),
            })?;
            is_stopped(pid)?;
            let called = hammer.control.counts().called;
            thread::sleep(WHILE);
            ensure(called == hammer.control.counts().called, || {
                "it goes on".to_owned()
            })?;
            send(pid, Signal::SIGCONT)?;
            hammered(&mut hammer, right)?;
        }
    }
    hammer.finish().map(drop)
}

/// Somebody else stops the process and has it go on all the time.
fn stopped_meanwhile() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 8)?;
    let pid = hammer.restored.pid();
    let end = AtomicBool::new(false);
    let disturb = || {
        let mut pause = 0;
        while !end.load(SeqCst) {
            for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
                send(pid, signal)?;
                thread::sleep(Duration::from_micros(100 + pause % 700));
                pause += 37;
            }
        }
        Ok(())
    };
    let cycles = || {
        for cycle in 0..30 {
            let at = |error: String| format!("cycle {cycle}: {error}");
            is(ApplyState::Linked, linker.apply(pid).map_err(at)?.state)?;
            thread::sleep(WHILE / 10);
            is(
                ApplyState::RolledBack,
                linker.roll_back(pid).map_err(at)?.state,
            )?;
            thread::sleep(WHILE / 10);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let disturber = scope.spawn(disturb);
        let done = cycles();
        end.store(true, SeqCst);
        let disturbed: Result<(), String> =
            disturber.join().map_err(|_| "it panicked".to_owned())?;
        done.and(disturbed)
    })?;
    send(pid, Signal::SIGCONT)?;
    hammered(&mut hammer, COVERED)?;
    hammer.finish().map(drop)
}

/// The second time nothing is written.
fn applied_twice() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 2)?;
    let pid = hammer.restored.pid();
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    let once = Snapshot::of(pid)?;
    is(ApplyState::AlreadyLinked, linker.apply(pid)?.state)?;
    once.is(&Snapshot::of(pid)?)?;
    hammered(&mut hammer, EVERYTHING)?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    let back = Snapshot::of(pid)?;
    is(ApplyState::Untouched, linker.roll_back(pid)?.state)?;
    back.is(&Snapshot::of(pid)?)?;
    hammered(&mut hammer, COVERED)?;
    hammer.finish().map(drop)
}

/// Bytes that nobody else has: of pages that are no file's, and of the tables that map them. How
/// many pages of files nobody else has depends on others.
fn own_memory(pid: i32) -> Result<u64, String> {
    let counted = [("smaps_rollup", "Anonymous:"), ("status", "VmPTE:")];
    let mut bytes = 0;
    for (file, field) in counted {
        let path = format!("/proc/{pid}/{file}");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        let number = number.and_then(|number| number.parse::<u64>().ok());
        bytes += number.ok_or_else(|| format!("{path} has no {field}"))? << 10;
    }
    Ok(bytes)
}

/// A link costs a process no more than two pages.
fn little_memory() -> Result<(), String> {
    const MOST: u64 = 8 << 10;
    let linker = Linker::new(&spec())?;
    for (what, park) in [
        ("low", PARK),
        ("in reach", Avma(TEXT.0 - REACH / 2 / PAGE * PAGE)),
    ] {
        let bed = Bed {
            park,
            text: Some(TEXT),
            ..bed()?
        };
        let hammer = start(&bed, 2)?;
        let pid = hammer.restored.pid();
        // It allocates nothing meanwhile.
        let (before, outcome) = while_stopped(pid, || Ok((own_memory(pid)?, linker.apply(pid)?)))?;
        is(ApplyState::Linked, outcome.state)?;
        let after = own_memory(pid)?;
        let added = after.saturating_sub(before);
        eprintln!(
            "parked {what}: {added} bytes more, {} of text, a record of {} bytes",
            outcome.added(),
            outcome.texts[0].record
        );
        ensure(added <= MOST, || format!("parked {what}: {added} bytes"))?;
        is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
        let back = own_memory(pid)?;
        ensure(back <= before + PAGE, || {
            format!("parked {what}: {before} bytes, and {back} afterwards")
        })?;
    }
    Ok(())
}

pub(crate) fn mark(pid: i32) -> Result<(Mark, Avma), String> {
    let all = mappings(pid)?;
    let mark = Mark::read(&memory(pid, &named(&all, VDSO)?)?);
    Ok((mark.ok_or("there is no mark")?, named(&all, VVAR)?.start))
}

/// The mark by which CRIU finds both vDSOs says where things are.
fn mark_is_kept() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let hammer = start(&bed()?, 2)?;
    let pid = hammer.restored.pid();
    let (before, vvar) = mark(pid)?;
    ensure(before.new_vvar == vvar, || format!("{before:?}"))?;
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    let (linked, vvar) = mark(pid)?;
    ensure(vvar != before.new_vvar, || "nothing was moved".to_owned())?;
    ensure(linked.old_vdso == before.old_vdso, || format!("{linked:?}"))?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    let (after, vvar) = mark(pid)?;
    ensure((after, vvar) == (before, before.new_vvar), || {
        format!("{after:?}")
    })?;
    hammer.finish().map(drop)
}

/// The kernel's mappings of a process, lowest first.
pub(crate) fn unit(all: &[snapshot::Mapping]) -> Vec<&snapshot::Mapping> {
    let names = [VVAR, VVAR_VCLOCK, VDSO];
    let is_kernel = |mapping: &&snapshot::Mapping| names.contains(&mapping.name.as_str());
    all.iter().filter(is_kernel).collect()
}
