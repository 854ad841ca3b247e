//! Threads leave functions of a linked vDSO halfway: those that are cancelled run their cleanups, and
//! exceptions and jumps of signal handlers come to the caller.

use libtest_mimic::Trial;
use relocator::plan::Policy;
use relocator_cli::source::Spec;
use relocator_tests::bed::{Bed, old_vdso};
use relocator_tests::stock;
use relocator_tests::trials::{ensure, trial};

use crate::unwinding::{Unwinder, Work, program, work_on};

/// Threads that are cancelled, unless [`CANCELLATIONS`] says otherwise.
const USUAL: usize = 1000;

/// The environment variable that says how many.
const CANCELLATIONS: &str = "RELOCATOR_CANCELLATIONS";

/// What is done before handlers throw, where libgcc knows all code.
const THROWN: [(&str, Work); 3] = [
    ("auto", Work::Link(Policy::Auto)),
    ("syscall", Work::Link(Policy::Syscall)),
    ("rolled_back", Work::RollBack(Policy::Auto)),
];

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in kernel_source::VERSIONS {
        let fetched = stock::can_be_had(version, listing);
        let possible = fetched.and_then(|()| program().map(drop));
        let spec = Spec::Kernel(version.to_owned());
        for (name, work) in THROWN {
            let spec = spec.clone();
            let possible = possible.clone().and_then(|()| throwing().map(drop));
            trials.push(trial(
                format!("leaving::{version}::thrown::{name}"),
                &possible,
                move || handlers_leave(&spec, work),
            ));
        }
        trials.push(trial(
            format!("leaving::{version}::cancelled"),
            &possible,
            move || cleanups_run(&spec),
        ));
    }
    trials
}

/// The program whose signal handlers throw.
fn throwing() -> Result<&'static [u8], String> {
    const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/thrown"));
    let failure = option_env!("RELOCATOR_TESTS_NO_THROWN");
    failure.map_or(Ok(PROGRAM), |failure| Err(failure.to_owned()))
}

/// No thread that is cancelled at any moment misses its cleanup.
fn cleanups_run(spec: &Spec) -> Result<(), String> {
    let asked = std::env::var(CANCELLATIONS).ok();
    let count = asked.and_then(|text| text.parse().ok()).unwrap_or(USUAL);
    let unwinder = Unwinder::start(&Bed::new(old_vdso(spec)?), &["cancel", &count.to_string()])?;
    work_on(spec, unwinder.restored.pid(), Work::Link(Policy::Auto))?;
    let said = unwinder.run()?;
    ensure(said == [format!("missed 0 of {count}")], || {
        format!("{said:?}")
    })
}

/// At each instruction, an exception that a signal handler throws comes to the function's caller, and
/// so does a jump.
fn handlers_leave(spec: &Spec, work: Work) -> Result<(), String> {
    let bed = Bed {
        patched: !matches!(work, Work::RollBack(_)),
        ..Bed::new(old_vdso(spec)?)
    };
    let unwinder = Unwinder::of(throwing()?, &bed, &[])?;
    work_on(spec, unwinder.restored.pid(), work)?;
    let said = unwinder.run()?;
    let count = |what: &str| {
        let mut counts = said.iter().filter_map(|line| line.strip_prefix(what));
        counts.next()?.parse::<usize>().ok()
    };
    let counts = (count("thrown "), count("jumped "));
    ensure(said.len() == 2 && counts >= (Some(30), Some(30)), || {
        format!("{said:?}")
    })
}
