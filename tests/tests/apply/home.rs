//! Processes that are made ready for a dump: what a dump finds in them, and that they go on.

use std::thread;
use std::time::Duration;

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::mapping_name::VDSO;
use libtest_mimic::Trial;
use relocator::criu::{self, Mark};
use relocator::placement::PAGE;
use relocator_process::apply::outcome::ApplyState;
use relocator_process::targets::StoppedTarget;
use relocator_process::targets::live::Live;
use relocator_tests::bed::control::{COVERED, EVERYTHING};
use relocator_tests::bed::hammer::Hammer;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::linker::Linker;
use crate::places::{self, PATIENCE, bed, fetched, hammered, is, mark, send, spec, start};
use crate::snapshot::{Snapshot, at, mappings, memory, named};
use nix::sys::signal::Signal;

/// How often threads are looked at.
const LOOKS: usize = 200;

/// How often a process is prepared.
const TURNS: usize = 10;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = fetched(listing);
    let check = |name: &str, check: fn() -> Result<(), String>| {
        trial(format!("home::{name}"), &possible, check)
    };
    vec![
        check("a_linked_process_is_prepared", || there_and_back(true)),
        check("a_restored_process_is_prepared", || there_and_back(false)),
        check("many_times", many_times),
        check("while_it_is_stopped", while_stopped),
        check("threads_are_in_the_new_vdso", in_new_vdso),
        check("a_linked_process_has_a_decoy", decoy),
    ]
}

/// It is right all the time, and is what it was in the end.
fn there_and_back(is_linked: bool) -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 8)?;
    let pid = hammer.restored.pid();
    let before = Snapshot::of(pid)?;
    if is_linked {
        is(ApplyState::Linked, linker.apply(pid)?.state)?;
    }
    is(ApplyState::Prepared, linker.prepare(pid)?.state)?;
    hammered(&mut hammer, EVERYTHING)?;
    is_ready(&hammer)?;
    is(ApplyState::AlreadyPrepared, linker.prepare(pid)?.state)?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    hammered(&mut hammer, COVERED)?;
    before.is(&Snapshot::of(pid)?)?;
    hammer.finish().map(drop)
}

/// It is linked and prepared in turns, and does not grow.
fn many_times() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 8)?;
    let pid = hammer.restored.pid();
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    hammer.control.set_right(EVERYTHING);
    let count = mappings(pid)?.len();
    let mut inside = 0;
    for turn in 0..TURNS {
        let at = |error: String| format!("turn {turn}: {error}");
        let prepared = linker.prepare(pid).map_err(at)?;
        is(ApplyState::Prepared, prepared.state).map_err(at)?;
        inside += prepared.crossed.moved;
        is_ready(&hammer).map_err(at)?;
        is(ApplyState::Linked, linker.apply(pid).map_err(at)?.state)?;
        hammered(&mut hammer, EVERYTHING).map_err(at)?;
        hammer.control.set_right(EVERYTHING);
        let now = mappings(pid)?.len();
        ensure(now <= count, || at(format!("{now} mappings after {count}")))?;
    }
    ensure(inside > 0, || "no thread was ever inside".to_owned())?;
    is(ApplyState::Prepared, linker.prepare(pid)?.state)?;
    hammer.finish().map(drop)
}

/// Stops it, prepares it, and has it go on.
fn prepare_stopped(linker: &Linker, hammer: &mut Hammer) -> Result<(), String> {
    let pid = hammer.restored.pid();
    places::while_stopped(pid, || is(ApplyState::Prepared, linker.prepare(pid)?.state))?;
    is_ready(hammer)?;
    send(pid, Signal::SIGCONT)?;
    hammered(hammer, EVERYTHING)
}

/// As before a dump by a tool that stops it, or after a restore that leaves it stopped.
fn while_stopped() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 8)?;
    let pid = hammer.restored.pid();
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    for _ in 0..TURNS {
        prepare_stopped(&linker, &mut hammer)?;
        is(ApplyState::Linked, linker.apply(pid)?.state)?;
        hammered(&mut hammer, EVERYTHING)?;
    }
    hammer.control.set_right(COVERED);
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    hammered(&mut hammer, COVERED)?;
    hammer.finish().map(drop)
}

/// Jumps have sent threads to the new vDSO, where they stand still.
fn in_new_vdso() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 8)?;
    let pid = hammer.restored.pid();
    for _ in 0..TURNS {
        prepare_stopped(&linker, &mut hammer)?;
        is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
        hammered(&mut hammer, COVERED)?;
    }
    hammer.finish().map(drop)
}

/// What a dump finds of a prepared process, at any moment.
fn is_ready(hammer: &Hammer) -> Result<(), String> {
    let pid = hammer.restored.pid();
    let (text, zeros) = (&hammer.restored.text, &hammer.restored.zeros);
    let all = mappings(pid)?;
    let (found, vvar) = mark(pid)?;
    let expected = Mark {
        old_vdso: text.start,
        old_vvar: zeros.start,
        new_vvar: vvar,
    };
    ensure(found == expected, || format!("{found:?}: {expected:?}"))?;
    for range in [text, zeros] {
        let now = at(&all, range.start)?;
        ensure(now == *range, || format!("{now:?} instead of {range:?}"))?;
    }
    let bytes = memory(pid, text)?;
    let image = Image::parse(&bytes).map_err(|error| in_words(&error))?;
    let entries = image
        .exports()
        .iter()
        .map(|export| export.address.at(text.start));
    let entries: Vec<Avma> = entries.collect();
    let vdso = named(&all, VDSO)?;
    for _ in 0..LOOKS {
        let live = Live::stop(pid, PATIENCE).map_err(|error| in_words(&error))?;
        for thread in live.threads().map_err(|error| in_words(&error))? {
            let pc = thread.registers.pc;
            // Behind its last read, a thread may go on where no restore overwrites anything.
            let is_overwritten = |entry: &Avma| {
                let end = entry.offset(criu::JUMP as i64);
                (entry.offset(1)..end).contains(&pc)
            };
            let is_inside = text.contains(&pc) && entries.iter().any(is_overwritten);
            ensure(!is_inside && !vdso.contains(&pc), || {
                format!("thread {} is at {pc}", thread.id)
            })?;
        }
        drop(live);
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// CRIU must not take what a linked process has for what its kernel has mapped at home.
fn decoy() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let hammer = start(&bed()?, 2)?;
    let pid = hammer.restored.pid();
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    let all = mappings(pid)?;
    let (found, vvar) = mark(pid)?;
    let decoy = at(&all, found.old_vvar)?;
    ensure(
        decoy == (found.old_vvar..found.old_vvar.offset(PAGE as i64)),
        || format!("{decoy:?}"),
    )?;
    ensure(
        decoy.start > vvar && found.new_vvar == Mark::NOWHERE,
        || format!("{found:?}, vvar at {vvar}"),
    )?;
    // The placeholder is as it was.
    let zeros = at(&all, hammer.restored.zeros.start)?;
    ensure(zeros == hammer.restored.zeros, || format!("{zeros:?}"))?;
    is(ApplyState::AlreadyLinked, linker.apply(pid)?.state)?;
    hammer.finish().map(drop)
}
