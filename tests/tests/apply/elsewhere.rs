//! A process that was linked on a machine that knew its old vDSO, and that comes to one that has
//! never seen it: the link record says what CRIU has overwritten.

use elf_tools::image::Image;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use relocator::plan::Strategy;
use relocator_process::apply::outcome::{ApplyOutcome, ApplyState};
use relocator_process::apply::record::Record;
use relocator_tests::bed::control::{COVERED, EVERYTHING};
use relocator_tests::bed::hammer::Hammer;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::chains::{PARKS, record, restore_again};
use crate::linker::Linker;
use crate::places::{bed, fetched, hammered, is, remotely, send, spec, start};
use crate::snapshot::Snapshot;

/// Threads that call meanwhile.
const THREADS: usize = 8;

/// What is said where nothing knows what was overwritten.
const UNKNOWN: &str = "what was there is unknown";

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = fetched(listing);
    let check = |name: &str, check: fn() -> Result<(), String>| {
        trial(format!("elsewhere::{name}"), &possible, check)
    };
    vec![
        check("with_tables", || travels(true)),
        check("without_tables", || travels(false)),
        check("unlinked_again", unlinked_again),
        check("records_that_lie", records_that_lie),
    ]
}

/// A process that was linked where its vDSO is known, and that vDSO.
fn linked(linker: &Linker) -> Result<(Hammer, Image), String> {
    let mut hammer = start(&bed()?, THREADS)?;
    let pid = hammer.restored.pid();
    is(ApplyState::Linked, linker.apply(pid)?.state)?;
    hammered(&mut hammer, EVERYTHING)?;
    let image = linker.original(pid)?.image;
    Ok((hammer, image))
}

/// From generation to generation, linked and prepared, the vDSO stays known, on machines that have
/// not seen it.
fn travels(has_tables: bool) -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let (mut hammer, image) = linked(&linker)?;
    let pid = hammer.restored.pid();
    for (turn, park) in PARKS.into_iter().enumerate() {
        let at = |error: String| format!("turn {turn}: {error}");
        restore_again(&hammer, park, true).map_err(at)?;
        // A machine of its own each time.
        let elsewhere = linker.elsewhere(has_tables).map_err(at)?;
        is_known(&elsewhere, pid, &image).map_err(at)?;
        let outcome = elsewhere.apply(pid).map_err(at)?;
        is(ApplyState::Linked, outcome.state).map_err(at)?;
        says_what_it_lacks(&outcome, has_tables, &image).map_err(at)?;
        send(pid, Signal::SIGCONT)?;
        hammered(&mut hammer, EVERYTHING).map_err(at)?;
        is_known(&elsewhere, pid, &image).map_err(at)?;
        // Every second time it is prepared before it travels on.
        if turn % 2 == 0 {
            is(ApplyState::Prepared, elsewhere.prepare(pid)?.state).map_err(at)?;
            hammered(&mut hammer, EVERYTHING).map_err(at)?;
            is_known(&elsewhere, pid, &image).map_err(at)?;
        }
    }
    hammer.finish().map(drop)
}

fn is_known(linker: &Linker, pid: i32, image: &Image) -> Result<(), String> {
    let found = linker.original(pid)?.image;
    let mut pairs = found.bytes().iter().zip(image.bytes());
    let differing = pairs.position(|(found, image)| found != image);
    ensure(
        differing.is_none() && found.bytes().len() == image.bytes().len(),
        || format!("it is another vDSO from byte {differing:?} on"),
    )
}

/// Without a table functions are proxied; the report says of which vDSO there is none.
fn says_what_it_lacks(
    outcome: &ApplyOutcome,
    has_tables: bool,
    image: &Image,
) -> Result<(), String> {
    let text = outcome.texts.first().ok_or("no text")?;
    let mut functions = text.functions.iter();
    let is_relocated = functions.any(|one| one.strategy == Strategy::Relocate);
    ensure(is_relocated == has_tables, || format!("{text:?}"))?;
    let said = text.tables.no_tables.as_ref().map(ToString::to_string);
    let build_id = image.build_id().ok_or("no build-id")?.to_string();
    let names_it = |said: String| said.contains(&build_id) && said.contains("--old-tables");
    ensure(said.map_or(has_tables, names_it), || format!("{text:?}"))
}

/// A rollback needs nothing either. But it gives back what there was: CRIU's jumps and no record,
/// so that this machine does not know the vDSO afterwards.
fn unlinked_again() -> Result<(), String> {
    let linker = Linker::new(&spec())?;
    let (mut hammer, image) = linked(&linker)?;
    let pid = hammer.restored.pid();
    let elsewhere = linker.elsewhere(false)?;
    is(ApplyState::Prepared, elsewhere.prepare(pid)?.state)?;
    is(ApplyState::Linked, elsewhere.apply(pid)?.state)?;
    hammered(&mut hammer, EVERYTHING)?;
    is_known(&elsewhere, pid, &image)?;
    is(ApplyState::RolledBack, elsewhere.roll_back(pid)?.state)?;
    hammered(&mut hammer, COVERED)?;
    let before = Snapshot::of(pid)?;
    for done in [elsewhere.apply(pid), elsewhere.prepare(pid)] {
        let done = done.map(|outcome| outcome.state);
        let is_refused = done.as_ref().is_err_and(|error| error.contains(UNKNOWN));
        ensure(is_refused, || format!("{done:?}"))?;
    }
    before.is(&Snapshot::of(pid)?)?;
    is(ApplyState::Prepared, linker.prepare(pid)?.state)?;
    is_known(&elsewhere, pid, &image)?;
    is(ApplyState::Linked, elsewhere.apply(pid)?.state)?;
    hammered(&mut hammer, EVERYTHING)?;
    hammer.finish().map(drop)
}

/// Records with a good check that say what cannot be: nothing is changed, and who names the vDSO
/// needs no record.
fn records_that_lie() -> Result<(), String> {
    const NO_CODE: &str = "is no code";
    type Change = fn(&mut Record);
    let linker = Linker::new(&spec())?;
    let (mut hammer, _) = linked(&linker)?;
    let pid = hammer.restored.pid();
    let good = record(&hammer)?;
    let elsewhere = linker.elsewhere(true)?;
    let lies: [(&str, Change, &str); 4] = [
        ("no list", |record| record.overwritten.clear(), UNKNOWN),
        (
            "a part",
            |record| {
                record.overwritten.pop();
            },
            UNKNOWN,
        ),
        (
            "another image",
            |record| record.old.iter_mut().for_each(|byte| *byte = !*byte),
            UNKNOWN,
        ),
        (
            "nothing that is code",
            // ud2
            |record| {
                let runs = record.overwritten.iter_mut();
                runs.for_each(|run| run.bytes = [0x0f, 0x0b].repeat(run.bytes.len() / 2));
            },
            NO_CODE,
        ),
    ];
    let room = good.at.end.0 - good.at.start.0;
    for (what, change, words) in lies {
        let at = |error: String| format!("{what}: {error}");
        let mut record = good.record.clone();
        change(&mut record);
        let note = record.encode().map_err(|error| at(in_words(&error)))?;
        ensure(note.len() as u64 <= room, || {
            at(format!("{} bytes", note.len()))
        })?;
        remotely(pid, |remote| Ok(remote.write(good.at.start, &note)?))?;
        let before = Snapshot::of(pid)?;
        for done in [
            elsewhere.apply(pid),
            elsewhere.prepare(pid),
            elsewhere.roll_back(pid),
        ] {
            let done = done.map(|outcome| outcome.state);
            let is_refused = done.as_ref().is_err_and(|error| error.contains(words));
            ensure(is_refused, || at(format!("{done:?}")))?;
        }
        before.is(&Snapshot::of(pid)?)?;
        is(ApplyState::AlreadyLinked, linker.apply(pid)?.state).map_err(at)?;
        hammered(&mut hammer, EVERYTHING).map_err(at)?;
    }
    hammer.finish().map(drop)
}
