//! The test bed itself: programs that it starts look as a restore leaves them, what has to be right in them is, and what is
//! known to be wrong is found to be.

mod hammered;
mod look;
mod places;
mod programs;

use std::time::Duration;

use kernel_fixtures::fixture;
use kernel_source::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator_cli::source::Spec;
use relocator_tests::bed::{Bed, old_vdso, python};
use relocator_tests::running::RUNNING;
use relocator_tests::stock;
use relocator_tests::trials::trial;

/// What trials use that need any old vDSO, and no kernel that has to be fetched.
const ANY: &str = "got";

const SECOND: Duration = Duration::from_secs(1);

fn bed(spec: &Spec) -> Result<Bed, String> {
    old_vdso(spec).map(Bed::new)
}

fn any() -> Result<Bed, String> {
    bed(&Spec::Fixture(ANY.to_owned()))
}

fn io(error: std::io::Error) -> String {
    error.to_string()
}

/// A check of a bed with a given old vDSO.
type Check = fn(&Spec) -> Result<(), String>;

/// A check of any bed.
type PlainCheck = fn() -> Result<(), String>;

fn trials_of(name: &str, spec: &Spec, possible: &Result<(), String>) -> [Trial; 2] {
    let checks: [(&str, Check); 2] = [
        (
            "covered_functions_are_right",
            hammered::covered_functions_are_right,
        ),
        ("zeros_are_noticed", hammered::zeros_are_noticed),
    ];
    checks.map(|(what, check)| {
        let spec = spec.clone();
        trial(format!("{name}::{what}"), possible, move || check(&spec))
    })
}

fn plain_trials(here: &Result<(), String>) -> Vec<Trial> {
    let python = here.clone().and_then(|()| python::interpreter().map(drop));
    let checks: [(&str, &Result<(), String>, PlainCheck); 10] = [
        ("one_thread_is_enough", here, hammered::one_thread_is_enough),
        (
            "a_call_that_is_cut_short_is_noticed",
            here,
            hammered::a_call_that_is_cut_short_is_noticed,
        ),
        (
            "a_lost_signal_is_noticed",
            here,
            hammered::a_lost_signal_is_noticed,
        ),
        (
            "stops_are_not_noticed",
            here,
            hammered::stops_are_not_noticed,
        ),
        ("places_can_be_chosen", here, places::places_can_be_chosen),
        (
            "what_cannot_be_is_refused",
            here,
            places::what_cannot_be_is_refused,
        ),
        ("python_is_right", &python, programs::python_is_right),
        ("python_notices", &python, programs::python_notices),
        ("server_is_right", here, programs::server_is_right),
        (
            "command_passes_the_status_on",
            here,
            programs::command_passes_the_status_on,
        ),
    ];
    let trials = checks.into_iter();
    trials
        .map(|(name, possible, check)| trial(name, possible, check))
        .collect()
}

fn main() {
    let arguments = Arguments::from_args();
    let cache = Cache::locate();
    let here = RUNNING.as_ref().map(drop).map_err(Clone::clone);
    let mut all = Vec::new();
    for version in VERSIONS {
        let (_, path) = stock::fetched(&cache, version, arguments.list);
        let possible = path.map(drop).and_then(|()| here.clone());
        all.extend(trials_of(
            version,
            &Spec::Kernel(version.to_owned()),
            &possible,
        ));
    }
    for fixture in fixture::all() {
        let spec = Spec::Fixture(fixture.name.to_owned());
        all.extend(trials_of(
            &format!("fixture::{}", fixture.name),
            &spec,
            &here,
        ));
    }
    all.extend(plain_trials(&here));
    libtest_mimic::run(&arguments, all).exit();
}
