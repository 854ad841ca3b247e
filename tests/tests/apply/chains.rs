//! Processes that were linked before: checkpointed and restored once more, linked to another
//! kernel, or with a record that somebody has damaged.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::mapping_name::{VDSO, VVAR, VVAR_VCLOCK};
use libtest_mimic::Trial;
use nix::libc;
use nix::sys::signal::Signal;
use relocator::criu::{self, Mark};
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::{ApplyOutcome, ApplyState};
use relocator_process::apply::record::Record;
use relocator_process::targets::live::Live;
use relocator_process::tracing::Tracee;
use relocator_tests::bed::control::{COVERED, EVERYTHING};
use relocator_tests::bed::hammer::Hammer;
use relocator_tests::bed::remote::Remote;
use relocator_tests::bed::{Bed, old_vdso};
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::killed::{self, Work, first, kill_at, stride};
use crate::linker::Linker;
use crate::places::{
    OLD, PATIENCE, bed, fetched, free, hammered, is, map, remotely, send, spec, start, stop, unit,
    while_stopped,
};
use crate::snapshot::{Mapping, Snapshot, at, mappings, memory, named};

/// How often a process is restored.
const GENERATIONS: usize = 10;

/// Threads that call meanwhile, each of which is somewhere else in each generation.
const THREADS: usize = 16;

/// A kernel whose functions have arguments that are only part of an address, and instructions that
/// move when they are linked.
const DETOURED: &str = "5.10";

/// Where the kernel's mappings are parked in turns: now and then where they were the last time, as
/// that need not be another place.
pub(crate) const PARKS: [Avma; 4] = [
    Avma(0x9_0000),
    Avma(0x9_0000),
    Avma(0x7a00_0000_0000),
    Avma(0x3_0000),
];

/// How many bytes records of one process may differ by: the same numbers take more bytes if they
/// are larger.
const NUMBERS: usize = 32;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = fetched(listing);
    let check = |name: &str, check: fn() -> Result<(), String>| {
        trial(format!("chains::{name}"), &possible, check)
    };
    vec![
        check("restored_with_jumps", || generations(OLD, |_| true)),
        check("restored_without_jumps", || generations(OLD, |_| false)),
        check("restored_both_ways", || {
            generations(OLD, |turn| turn % 2 == 0)
        }),
        check("restored_with_moved_instructions", || {
            generations(DETOURED, |turn| turn % 4 != 0)
        }),
        check("killed_while_linking_again", killed_again),
        check("another_kernel", another_kernel),
        check("damaged_record", damaged_record),
    ]
}

/// Restores and links a process many times. The record remains as large as it was, and can be
/// undone.
fn generations(version: &str, has_jumps: fn(usize) -> bool) -> Result<(), String> {
    let spec = Spec::Kernel(version.to_owned());
    // The process is stopped each time: who cannot be carried across at once never can.
    let linker = Linker::impatient(&spec)?;
    let mut bed = Bed::new(old_vdso(&spec)?);
    bed.gives_way = true;
    let mut hammer = start(&bed, THREADS)?;
    let pid = hammer.restored.pid();
    let first = linker.apply(pid)?;
    is(ApplyState::Linked, first.state)?;
    hammered(&mut hammer, EVERYTHING)?;
    let size = |outcome: &ApplyOutcome| -> Result<_, String> {
        let text = outcome.texts.first().ok_or("no text")?;
        let mapping = at(&mappings(pid)?, text.image)?;
        Ok((text.record, mapping.end.0 - mapping.start.0))
    };
    let (record, mapping) = size(&first)?;
    let mut sizes = vec![record];
    for turn in 0..GENERATIONS {
        let at = |error: String| format!("generation {turn}: {error}");
        restore_again(&hammer, PARKS[turn % PARKS.len()], has_jumps(turn)).map_err(at)?;
        let outcome = match has_jumps(turn) {
            // Until it is linked it goes on by CRIU's jumps.
            true => while_stopped(pid, || linker.apply(pid)),
            // It must not go on before it is linked.
            false => linker.apply(pid),
        };
        let outcome = outcome.map_err(at)?;
        // Without jumps it may look as if the kernel's mappings had not been moved yet, which is as
        // good.
        let is_completed = !has_jumps(turn) && outcome.state == ApplyState::Completed;
        if !is_completed {
            is(ApplyState::Linked, outcome.state).map_err(at)?;
        }
        send(pid, Signal::SIGCONT)?;
        hammered(&mut hammer, EVERYTHING).map_err(at)?;
        let found = size(&outcome)?;
        sizes.push(found.0);
        ensure(found.1 == mapping && found.0 <= record + NUMBERS, || {
            at(format!("{found:?} after {record} and {mapping}"))
        })?;
    }
    eprintln!("records: {sizes:?}");
    is(ApplyState::AlreadyLinked, linker.apply(pid)?.state)?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    hammered(&mut hammer, COVERED)?;
    hammer.finish().map(drop)
}

/// A process that was linked is restored, and linked again by a tool that is killed, at some
/// moments; now and then it is restored once more then. The next tool links it all the same, and in
/// the end nothing is left of all of them.
fn killed_again() -> Result<(), String> {
    /// Every how many moments are taken.
    const STRIDE: usize = 7;
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 2)?;
    let pid = hammer.restored.pid();
    let text = hammer.restored.text.clone();
    let before = memory(pid, &text)?;
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    let mut kills = 0;
    loop {
        let number = first() + kills * stride(STRIDE);
        restore_again(&hammer, PARKS[kills % PARKS.len()], true)?;
        let (what, ended) = kill_at(killed::start(&linker, Work::Apply, pid)?, number)?;
        let at = |error: String| format!("moment {number}: {error}; the last were {what}");
        if kills % 2 == 1 {
            let park = PARKS[(kills + 1) % PARKS.len()];
            restore_again(&hammer, park, kills % 4 == 1).map_err(at)?;
        }
        let outcome = linker.apply(pid).map_err(at)?;
        let expected = [
            ApplyState::Linked,
            ApplyState::Completed,
            ApplyState::AlreadyLinked,
        ];
        ensure(expected.contains(&outcome.state), || {
            at(format!("{:?}", outcome.state))
        })?;
        send(pid, Signal::SIGCONT)?;
        hammered(&mut hammer, EVERYTHING).map_err(at)?;
        if let Some(ended) = ended {
            ensure(ended.status == 0, || at(format!("{ended:?}")))?;
            break;
        }
        kills += 1;
    }
    ensure(first() > 0 || kills > 100 / stride(STRIDE), || {
        format!("only {kills} were killed")
    })?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    hammered(&mut hammer, COVERED)?;
    ensure(mappings(pid)?.iter().any(|one| one.range == text), || {
        "the old text has another size".to_owned()
    })?;
    // What jumps lead to is somewhere else now.
    let jumps = entries(&before, text.start)?;
    let after = memory(pid, &text)?;
    let addresses = text.start.0..text.end.0;
    let mut pairs = addresses.zip(before.iter().zip(&after));
    let differing = pairs.find(|(address, (before, after))| {
        let is_jump = jumps.iter().any(|jump| jump.contains(&Avma(*address)));
        before != after && !is_jump
    });
    ensure(differing.is_none(), || {
        format!("the old text is another: {differing:x?}")
    })?;
    hammer.finish().map(drop)
}

/// What a dump and a restore by CRIU on this kernel make of a linked process: the kernel's mappings
/// are parked anew, there are zeros where the old vvar was, and there are jumps at the entries of
/// functions and a mark, or not. A signal has stopped the process when it goes on, as with `criu
/// restore -s`.
pub(crate) fn restore_again(hammer: &Hammer, park: Avma, has_jumps: bool) -> Result<(), String> {
    /// How often it is tried to find no thread in the new vDSO, of which CRIU would make something
    /// else.
    const ATTEMPTS: usize = 1000;
    let pid = hammer.restored.pid();
    for _ in 0..ATTEMPTS {
        let mut live = Live::stop(pid, PATIENCE).map_err(|error| in_words(&error))?;
        let all = mappings(pid)?;
        let vdso = named(&all, VDSO)?;
        let is_inside = |tracee: &Tracee| {
            let registers = tracee.registers();
            registers.is_ok_and(|registers| vdso.contains(&registers.registers().pc))
        };
        if live.tracees().iter().any(is_inside) {
            continue;
        }
        let tracee = live.tracees().first_mut().ok_or("no thread")?;
        let mut remote = Remote::new(tracee, vdso.start, vdso.end.0 - vdso.start.0)?;
        let restored = make_restored(&mut remote, hammer, &all, park, has_jumps);
        remote.finish()?;
        // The first thread that is let go finds the signal before it executes anything, and all
        // others stop with it.
        send(pid, Signal::SIGSTOP)?;
        live.release();
        restored?;
        return stop(pid);
    }
    Err("threads are in the way all the time".to_owned())
}

/// Where CRIU's jumps are in an old text.
fn entries(bytes: &[u8], start: Avma) -> Result<Vec<Range<Avma>>, String> {
    let image = Image::parse(bytes).map_err(|error| in_words(&error))?;
    let exports = criu::SYMBOLS.iter();
    let entries = exports.filter_map(|name| Some(image.export(name)?.address.at(start)));
    let jumps = entries.map(|entry| entry..entry.offset(criu::JUMP as i64));
    Ok(jumps.collect())
}

fn make_restored(
    remote: &mut Remote<'_>,
    hammer: &Hammer,
    all: &[Mapping],
    park: Avma,
    has_jumps: bool,
) -> Result<(), String> {
    let pid = hammer.restored.pid();
    let mut unit = unit(all);
    // A tool that was killed may have moved some of them only.
    let order = [VVAR, VVAR_VCLOCK, VDSO];
    unit.sort_by_key(|mapping| order.iter().position(|name| mapping.name == *name));
    let mut to = park;
    for mapping in &unit {
        let start = mapping.range.start;
        let size = mapping.range.end.0 - start.0;
        if start != to {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let arguments = [start.0, size, size, flags as u64, to.0, 0];
            let what = format!("moving {} to {to}", mapping.name);
            remote.call(&what, libc::SYS_mremap, arguments)?;
        }
        if mapping.name == VDSO {
            remote.moved(to.distance_from(start));
        }
        to = to.offset(size as i64);
    }
    for range in free(&mappings(pid)?, &hammer.restored.zeros) {
        map(remote, &range, libc::PROT_READ)?;
    }
    let now = mappings(pid)?;
    let vdso = named(&now, VDSO)?;
    match has_jumps {
        true => jumps_and_mark(remote, hammer, vdso.start, named(&now, VVAR)?.start),
        // What begins with a mark would not be looked for by CRIU: it is another vDSO each time.
        false => {
            let own = named(&mappings(std::process::id().cast_signed())?, VDSO)?;
            let beginning = own.start..own.start.offset(Mark::SIZE as i64);
            let bytes = memory(std::process::id().cast_signed(), &beginning)?;
            Ok(remote.write(vdso.start, &bytes)?)
        }
    }
}

fn jumps_and_mark(
    remote: &mut Remote<'_>,
    hammer: &Hammer,
    vdso: Avma,
    vvar: Avma,
) -> Result<(), String> {
    let text = &hammer.restored.text;
    let own = named(&mappings(std::process::id().cast_signed())?, VDSO)?;
    let new = memory(std::process::id().cast_signed(), &own)?;
    let new = Image::parse(&new).map_err(|error| in_words(&error))?;
    let linked = remote.read(text.start, (text.end.0 - text.start.0) as usize)?;
    let linked = Image::parse(&linked).map_err(|error| in_words(&error))?;
    let patched = criu::patch(&linked, &new, vdso).map_err(|error| in_words(&error))?;
    for entry in &patched.entries {
        let code = &patched.bytes[entry.index()..][..criu::JUMP];
        remote.write(entry.at(text.start), code)?;
    }
    let mark = Mark {
        old_vdso: text.start,
        old_vvar: hammer.restored.zeros.start,
        new_vvar: vvar,
    };
    Ok(remote.write(vdso, &mark.bytes())?)
}

/// The record of a process, and where it is.
pub(crate) fn record(
    hammer: &Hammer,
) -> Result<relocator_process::apply::record::FoundRecord, String> {
    let pid = hammer.restored.pid();
    let range = at(&mappings(pid)?, hammer.restored.text.start)?;
    let found = Record::find(&memory(pid, &range)?, range.start);
    let found = found.map_err(|error| in_words(&error))?;
    found.ok_or_else(|| "there is no record".to_owned())
}

/// A process that another kernel was linked to: it is linked anew, and only then can that be
/// undone.
fn another_kernel() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 2)?;
    let pid = hammer.restored.pid();
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    let mut found = record(&hammer)?;
    for byte in &mut found.record.new {
        *byte = !*byte;
    }
    let note = found.record.encode().map_err(|error| in_words(&error))?;
    ensure(
        note.len() as u64 == found.at.end.0 - found.at.start.0,
        || format!("{} bytes instead of {:?}", note.len(), found.at),
    )?;
    remotely(pid, |remote| Ok(remote.write(found.at.start, &note)?))?;
    let before = Snapshot::of(pid)?;
    let refused = linker.roll_back(pid).map(|outcome| outcome.state);
    let is_refused = refused
        .as_ref()
        .is_err_and(|error| error.contains("another kernel"));
    ensure(is_refused, || format!("{refused:?}"))?;
    before.is(&Snapshot::of(pid)?)?;
    hammered(&mut hammer, EVERYTHING)?;
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    hammered(&mut hammer, EVERYTHING)?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    hammered(&mut hammer, COVERED)?;
    hammer.finish().map(drop)
}

/// A record with one byte that is another is an error that says so, whatever is asked for; nothing
/// is changed.
fn damaged_record() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let mut hammer = start(&bed()?, 2)?;
    let pid = hammer.restored.pid();
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    let found = record(&hammer)?;
    let note = memory(pid, &found.at)?;
    // Behind the header, by which a record is recognised.
    for place in [20, note.len() / 2, note.len() - 5] {
        let mut damaged = note.clone();
        damaged[place] ^= 0x10;
        remotely(pid, |remote| Ok(remote.write(found.at.start, &damaged)?))?;
        let before = Snapshot::of(pid)?;
        for done in [linker.apply(pid), linker.roll_back(pid)] {
            let done = done.map(|outcome| outcome.state);
            let is_refused = done
                .as_ref()
                .is_err_and(|error| error.contains("link record"));
            ensure(is_refused, || format!("byte {place}: {done:?}"))?;
        }
        before.is(&Snapshot::of(pid)?)?;
        hammered(&mut hammer, EVERYTHING)?;
    }
    remotely(pid, |remote| Ok(remote.write(found.at.start, &note)?))?;
    is(ApplyState::RolledBack, linker.roll_back(pid)?.state)?;
    hammered(&mut hammer, COVERED)?;
    hammer.finish().map(drop)
}
