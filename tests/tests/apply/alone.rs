//! A process whose only thread is nearly always inside a vDSO, the old one or the one that jumps
//! lead to. It has to make the calls that linking takes, so it is carried across before them, or
//! stepped out.

use std::time::Duration;

use kernel_source::Cache;
use libtest_mimic::Trial;
use relocator::plan::Policy;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_tests::bed::old_vdso;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::bounded::goes_on;
use crate::linker::Linker;
use crate::odd::{ASKING, CALLING};
use crate::refused::Odd;

/// How often each is linked and rolled back.
const ROUNDS: usize = 20;

/// How long it is tried: a few attempts.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a process does, of which old kernel, and how it is linked.
const CASES: [(&str, &str, Policy); 4] = [
    (CALLING, "6.1", Policy::Auto),
    (CALLING, "6.1", Policy::Proxy),
    (ASKING, "7.2", Policy::Auto),
    (ASKING, "7.2", Policy::Proxy),
];

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let trials = CASES.into_iter().map(|(what, old, policy)| {
        let possible = match listing {
            true => Ok(()),
            false => fetched(old),
        };
        let name = format!("alone::{what}_{policy:?}").to_lowercase();
        trial(name, &possible, move || alone(what, old, policy))
    });
    trials.collect()
}

fn fetched(old: &str) -> Result<(), String> {
    let fetched = Cache::locate().fetch(old).map(drop);
    fetched.map_err(|error| in_words(&error))
}

fn alone(what: &str, old: &str, policy: Policy) -> Result<(), String> {
    let spec = Spec::Kernel(old.to_owned());
    let linker = Linker::by(&spec, policy)?.patient(PATIENCE);
    let mut odd = Odd::with(old_vdso(&spec)?, what)?;
    let mut attempts = 0;
    for round in 0..ROUNDS {
        let in_round = |error: String| format!("round {round}: {error}");
        let linked = linker.apply(odd.pid()).map_err(in_round)?;
        ensure(linked.state == ApplyState::Linked, || {
            format!("round {round}: {linked:?}")
        })?;
        let undone = linker.roll_back(odd.pid()).map_err(in_round)?;
        ensure(undone.state == ApplyState::RolledBack, || {
            format!("round {round}: {undone:?}")
        })?;
        attempts += linked.attempts + undone.attempts;
        goes_on(&mut odd)?;
    }
    println!("{what}, {policy:?}: {attempts} attempts in {ROUNDS} rounds");
    Ok(())
}
