//! Every pretend kernel's image on the running kernel: linked, run in a child process, and compared with the system
//! calls, in and out of a time namespace; and that each function goes on as the story of its fixture says.

use std::time::Duration;

use kernel_fixtures::fixture::{self, Fixture};
use libtest_mimic::{Arguments, Trial};
use relocator::plan::{Policy, Strategy};
use relocator_tests::pretend::Pretend;
use relocator_tests::running::{RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::trials::{ensure, trial};
use relocator_verify::{FunctionOutcome, VerifyOptions, VerifyOutcome, verify};

/// How `clock_gettime` and `gettimeofday`, the functions that tell nanoseconds, go on, then those that read one word
/// (`time`, `clock_getres`), then `getcpu`, which reads nothing. With words of the reason.
type Story = (&'static str, [(Strategy, &'static str); 3]);

const KEPT: (Strategy, &str) = (Strategy::Keep, "it reads no vvar");
const RELOCATED: (Strategy, &str) = (Strategy::Relocate, "relocations resolved");
const UNKNOWN: (Strategy, &str) = (Strategy::Proxy, "the image carries no relocation table");

const STORIES: [Story; 12] = [
    ("got", [RELOCATED, RELOCATED, KEPT]),
    ("operands", [RELOCATED, RELOCATED, KEPT]),
    ("reordered", [RELOCATED, RELOCATED, KEPT]),
    ("shuffled", [RELOCATED, RELOCATED, KEPT]),
    ("added", [RELOCATED, RELOCATED, KEPT]),
    ("defaulted", [RELOCATED, RELOCATED, KEPT]),
    ("defaulted-operands", [RELOCATED, RELOCATED, KEPT]),
    (
        "required",
        [
            (
                Strategy::Proxy,
                "`time.clock[].leap_smear` is missing in the new kernel",
            ),
            RELOCATED,
            KEPT,
        ],
    ),
    (
        "semantics",
        [
            (
                Strategy::Proxy,
                "has semantic version 1 in the new kernel, 2 in the image",
            ),
            RELOCATED,
            KEPT,
        ],
    ),
    ("bare", [UNKNOWN, UNKNOWN, UNKNOWN]),
    ("stock", [RELOCATED, RELOCATED, KEPT]),
    ("hidden", [RELOCATED, RELOCATED, KEPT]),
];

/// What cannot be derived of `hidden`, which is why its kernel is not the whole story.
const HIDDEN: [(&str, &str); 2] = [
    (
        "__vdso_clock_getres",
        "an address is computed with in a way that is not understood",
    ),
    ("__vdso_gettimeofday", "plus 1 times an unknown number"),
];

/// When a process is taken to hang. Runs end within milliseconds; this is for a machine that is very busy, and bounds what a
/// linker that breaks every image takes.
const DEADLINE: Duration = Duration::from_secs(30);

fn run(
    fixture: &'static Fixture,
    policy: Policy,
    time_namespace: bool,
) -> Result<VerifyOutcome, String> {
    let old = Pretend::of(fixture).old;
    let options = VerifyOptions {
        policy,
        time_namespace,
        rounds: 20,
        deadline: DEADLINE,
        ..VerifyOptions::default()
    };
    let running = RUNNING.as_ref().map_err(Clone::clone)?;
    let outcome = verify(&old, running, &options).map_err(|error| in_words(&error))?;
    ensure(outcome.functions.len() == 5, || format!("{outcome:#?}"))?;
    for function in &outcome.functions {
        let agrees = function.mismatches == 0 && function.calls > 0;
        ensure(agrees, || format!("{function:#?}"))?;
    }
    Ok(outcome)
}

fn tells_its_story(fixture: &'static Fixture, time_namespace: bool) -> Result<(), String> {
    let outcome = run(fixture, Policy::Auto, time_namespace)?;
    let story = STORIES.iter().find(|story| story.0 == fixture.name);
    let (_, [nanoseconds, words, nothing]) = story.ok_or("a fixture without a story")?;
    let check = |function: &FunctionOutcome| {
        let hidden = HIDDEN.iter().find(|hidden| hidden.0 == function.name);
        if let Some((_, reason)) = hidden.filter(|_| fixture.name == "hidden") {
            let right =
                function.strategy == Some(Strategy::Proxy) && function.reason.contains(reason);
            return ensure(right, || format!("{function:#?}"));
        }
        let (strategy, reason) = match function.name.as_str() {
            "__vdso_clock_gettime" | "__vdso_gettimeofday" => nanoseconds,
            "__vdso_time" | "__vdso_clock_getres" => words,
            "__vdso_getcpu" => nothing,
            other => return Err(format!("an unknown function {other}")),
        };
        let right = function.strategy == Some(*strategy) && function.reason.contains(reason);
        ensure(right, || format!("not {strategy}, {reason}: {function:#?}"))
    };
    outcome.functions.iter().try_for_each(check)
}

fn is(fixture: &'static Fixture, policy: Policy, strategy: Strategy) -> Result<(), String> {
    let outcome = run(fixture, policy, false)?;
    let all = outcome
        .functions
        .iter()
        .all(|f| f.strategy == Some(strategy));
    ensure(all, || format!("not all are {strategy}: {outcome:#?}"))
}

/// All of them.
pub(crate) fn trials(_: &Arguments) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for fixture in fixture::all() {
        let name = |what: &str| format!("{}::{what}", fixture.name);
        trials.push(trial(name("runs"), &*RUNNING, || {
            tells_its_story(fixture, false)
        }));
        trials.push(trial(
            name("runs_in_a_time_namespace"),
            &*TIME_NAMESPACE,
            || tells_its_story(fixture, true),
        ));
        trials.push(trial(name("runs_as_proxies"), &*RUNNING, || {
            is(fixture, Policy::Proxy, Strategy::Proxy)
        }));
        trials.push(trial(name("runs_as_system_calls"), &*RUNNING, || {
            is(fixture, Policy::Syscall, Strategy::Syscall)
        }));
    }
    trials
}
