//! Memory for random states: what is forgotten, and what must not be.

use std::time::Duration;

use kernel_source::Cache;
use libtest_mimic::Trial;
use relocator::plan::Strategy;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_process::maps;
use relocator_tests::bed::old_vdso;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::linker::Linker;
use crate::odd::{BYTE, REMAPPING, UNMARKED, WITH_STATES};
use crate::places::is;
use crate::refused::Odd;
use crate::snapshot::memory;

/// An old kernel whose vDSO keeps states.
const OLD: &str = "7.2";

/// How often the tool meets a process that maps memory all the time.
const RUNS: u32 = 25;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = match listing {
        true => Ok(()),
        false => Cache::locate()
            .fetch(OLD)
            .map(drop)
            .map_err(|error| in_words(&error))
            .and_then(|()| has_droppable_memory()),
    };
    type Run = fn() -> Result<(), String>;
    let states: [(&str, Run); 3] = [
        ("are_forgotten", forgotten),
        ("without_their_mark", || fate(UNMARKED, Strategy::Syscall)),
        ("where_other_memory_is_mapped", remapping),
    ];
    let trials = states.into_iter();
    trials
        .map(|(name, run)| trial(format!("states::{name}"), &possible, run))
        .collect()
}

/// Whether this kernel has such memory, which its vDSO shows.
pub(crate) fn has_droppable_memory() -> Result<(), String> {
    let own = relocator_tests::running::RUNNING.as_ref();
    let image = &own.map_err(Clone::clone)?.image;
    let export = image.export("__vdso_getrandom");
    export.map(drop).ok_or_else(|| {
        "this kernel has no `getrandom` in its vDSO, and no memory for states".to_owned()
    })
}

fn start(what: &str) -> Result<(Linker, Odd), String> {
    let spec = Spec::Kernel(OLD.to_owned());
    let linker = Linker::with_patience(&spec, Duration::from_secs(10))?;
    Ok((linker, Odd::with(old_vdso(&spec)?, what)?))
}

/// What becomes of the function that keeps states.
fn fate(what: &str, strategy: Strategy) -> Result<(), String> {
    let (linker, odd) = start(what)?;
    let outcome = linker.apply(odd.pid())?;
    is(ApplyState::Linked, outcome.state)?;
    let functions = outcome.texts.iter().flat_map(|text| &text.functions);
    let mut functions = functions.filter(|one| one.name() == "__vdso_getrandom");
    let found = functions.next().ok_or("the function is missing")?;
    ensure(found.strategy == strategy, || format!("{found:?}"))
}

/// States are zeros after a link, and stay what they are after a rollback.
fn forgotten() -> Result<(), String> {
    fate(WITH_STATES, Strategy::Relocate)?;
    let (linker, odd) = start(WITH_STATES)?;
    let pid = odd.pid();
    let special = maps::special(pid).map_err(|error| in_words(&error))?;
    let [states] = special.droppable.as_slice() else {
        return Err(format!("{special:?}"));
    };
    let hold = |byte: u8| -> Result<(), String> {
        let bytes = memory(pid, states)?;
        let is_it = bytes.iter().all(|&one| one == byte);
        ensure(is_it, || format!("{states:?} does not hold {byte:#x}"))
    };
    hold(BYTE)?;
    linker.apply(pid)?;
    hold(0)?;
    linker.roll_back(pid)?;
    hold(0)
}

/// The tool has seen memory for states where there is other memory when it has stopped the process.
fn remapping() -> Result<(), String> {
    let (linker, mut odd) = start(REMAPPING)?;
    let mut linked = 0;
    for run in 0..RUNS {
        // One that is always busy may be refused.
        if let Ok(outcome) = linker.apply(odd.pid()) {
            linked += u32::from(outcome.state == ApplyState::Linked);
            linker.roll_back(odd.pid())?;
        }
        let gone = odd.restored.child.try_wait();
        let gone = gone.map_err(|error| in_words(&error))?;
        ensure(gone.is_none(), || format!("run {run}: {gone:?}"))?;
    }
    ensure(linked > 0, || "it was never linked".to_owned())
}
