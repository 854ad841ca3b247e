//! Threads that are inside an old vDSO when the kernel is swapped under them: at every boundary, in
//! and out of time namespaces, in handlers of signals, with every approach.
//!
//! Our approaches must bring threads across at every boundary. CRIU's jumps, untouched code and
//! broken tables must fail, which shows that the sweep can tell the difference.

use std::sync::{Arc, OnceLock};

use elf_tools::reentry::{Recovery, ReentryTable, Register};
use kernel_fixtures::fixture;
use kernel_source::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator::plan::Policy;
use relocator::tables;
use relocator_cli::source::Spec;
use relocator_tests::running::{EMULATION, RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::stock::{self, Kernel, Shared};
use relocator_tests::trials::{ensure, trial};
use relocator_verify::Approach;
use relocator_verify::OldImage;
use relocator_verify::in_flight::{
    Earlier, Ending, FunctionSweep, InFlight, Namespaces, SweepOptions, Variant, sweep_with,
};

/// The kernel on which all approaches are swept, those that are known to fail among them, and whose
/// re-entry table is broken: the one that CRIU was first measured on.
const MEASURED: &str = "6.1";

/// Functions that tell times, and so what each kernel has that matters.
const TIME_FUNCTIONS: [&str; 4] = [
    "__vdso_clock_gettime",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_clock_getres",
];

/// Of 100 boundaries of the time functions, a thread must be stopped at as many.
const REACH: u64 = 95;

/// What a restore does: it puts every process into a time namespace.
const RESTORE: Namespaces = Namespaces {
    old: false,
    new: true,
};

/// Sweeps of one kernel with several approaches, made together when the first trial needs one of
/// them.
struct Sweeps {
    kernel: Shared,
    options: SweepOptions,
    found: OnceLock<Result<Vec<InFlight>, String>>,
}

impl Sweeps {
    fn new(kernel: &Shared, options: SweepOptions) -> Arc<Self> {
        Arc::new(Self {
            kernel: kernel.clone(),
            options,
            found: OnceLock::new(),
        })
    }

    /// What an approach has come to.
    fn of(&self, approach: Approach) -> Result<&InFlight, String> {
        let found = self.found.get_or_init(|| {
            let kernel = (self.kernel)()?;
            run_all(&kernel, &self.options, |_| {})
        });
        let mut found = found.as_ref().map_err(Clone::clone)?.iter();
        let found = found.find(|found| found.approach == approach);
        found.ok_or_else(|| format!("{approach} was not swept"))
    }
}

fn run(
    kernel: &Kernel,
    options: &SweepOptions,
    change: impl FnOnce(&mut ReentryTable),
) -> Result<InFlight, String> {
    let mut found = run_all(kernel, options, change)?;
    found.pop().ok_or_else(|| "nothing was swept".to_owned())
}

fn run_all(
    kernel: &Kernel,
    options: &SweepOptions,
    change: impl FnOnce(&mut ReentryTable),
) -> Result<Vec<InFlight>, String> {
    let image = OldImage::from(kernel.old()?).with_home(Some(kernel.symtab()?));
    let running = RUNNING.as_ref().map_err(Clone::clone)?;
    all(sweep_with(image, running, options, change))
}

/// What all approaches have come to.
fn all(
    found: relocator_verify::Result<Vec<relocator_verify::Result<InFlight>>>,
) -> Result<Vec<InFlight>, String> {
    let found = found.map_err(|error| in_words(&error))?.into_iter();
    let found: relocator_verify::Result<Vec<InFlight>> = found.collect();
    found.map_err(|error| in_words(&error))
}

fn options(approach: Approach) -> SweepOptions {
    SweepOptions {
        approaches: vec![approach],
        ..SweepOptions::default()
    }
}

fn function<'a>(found: &'a InFlight, name: &str) -> Result<&'a FunctionSweep, String> {
    let function = found
        .functions
        .iter()
        .find(|function| function.name == name);
    function.ok_or_else(|| format!("{name} was not swept"))
}

/// Threads come across at every boundary, and there is hardly one where none was stopped.
fn everything_comes_across(found: &InFlight) -> Result<(), String> {
    ensure(found.namespaces == Namespaces::ALL, || {
        format!("{:?}", found.no_time_namespace)
    })?;
    for function in &found.functions {
        ensure(function.worst.failures() == 0, || {
            format!(
                "{}: {:?}, {:#?}",
                function.name, function.worst, function.failures
            )
        })?;
        let variants = Variant::ALL.len() * Namespaces::ALL.len();
        ensure(function.parts.len() == variants, || {
            format!("{:#?}", function.parts)
        })?;
    }
    let (mut reached, mut boundaries) = (0, 0);
    for name in TIME_FUNCTIONS {
        let function = function(found, name)?;
        reached += function.reached;
        boundaries += function.boundaries;
    }
    ensure(reached * 100 >= boundaries * REACH, || {
        let unreached = found.functions.iter().map(|function| &function.unreached);
        format!(
            "{reached} of {boundaries}: {:#?}",
            unreached.collect::<Vec<_>>()
        )
    })
}

/// The failures of one function in one part, which is what a restore does to threads that are
/// simply stopped.
fn restored(found: &InFlight, name: &str) -> Result<relocator_verify::in_flight::Counts, String> {
    let part = function(found, name)?
        .parts
        .iter()
        .find(|part| (part.namespaces, part.variant) == (RESTORE, Variant::Direct));
    part.map(|part| part.worst)
        .ok_or_else(|| "no such part".to_owned())
}

/// The holes that were measured by other means are found: threads in overwritten bytes die, others
/// read zeros.
fn criu_is_caught(found: &InFlight) -> Result<(), String> {
    let gettime = restored(found, "__vdso_clock_gettime")?;
    ensure(gettime.crashed >= 5 && gettime.wrong >= 15, || {
        format!("{gettime:?}")
    })?;
    let time = restored(found, "__vdso_time")?;
    ensure((time.crashed, time.wrong) == (2, 2), || format!("{time:?}"))?;
    // It is not on the list of functions, and goes on with its own code.
    let getres = restored(found, "__vdso_clock_getres")?;
    ensure(getres.crashed == 0 && getres.wrong > 0, || {
        format!("{getres:?}")
    })
}

fn nothing_is_caught(found: &InFlight) -> Result<(), String> {
    let time = restored(found, "__vdso_time")?;
    ensure(time.wrong >= 4, || format!("{time:?}"))
}

/// A thread that was stepped out has the old answer; who it interrupted is left to itself.
fn stepping_out_does_not_help_interrupted_contexts(found: &InFlight) -> Result<(), String> {
    for function in &found.functions {
        for part in function
            .parts
            .iter()
            .filter(|part| part.variant == Variant::Direct)
        {
            ensure(part.worst.failures() == 0, || {
                format!("{}: {part:?}", function.name)
            })?;
        }
    }
    let frames = function(found, "__vdso_clock_gettime")?.parts.iter();
    let frames = frames.filter(|part| part.variant == Variant::Frame);
    let failures: u64 = frames.map(|part| part.worst.failures()).sum();
    ensure(failures > 0, || {
        "contexts in signal frames came across by themselves".to_owned()
    })
}

/// Changes every source of a register.
fn change_sources(table: &mut ReentryTable, of: Register, by: i64) {
    let recipes = table.recipes.iter_mut();
    for (register, source) in recipes.flat_map(|recipe| &mut recipe.registers) {
        if *register == of {
            source.constant += by * source.scale;
        }
    }
}

/// Ways to break a table, each with the function that must fail then.
type Break = (&'static str, fn(&mut ReentryTable));

const BREAKS: [Break; 5] = [
    ("wrong_clock", |table| {
        change_sources(table, Register::RDI, 1)
    }),
    ("wrong_stack_pointer", |table| {
        change_sources(table, Register::RSP, 16)
    }),
    ("wrong_saved_register", |table| {
        change_sources(table, Register::RBX, 4)
    }),
    ("threads_left_alone", |table| {
        table
            .contexts
            .iter_mut()
            .for_each(|context| context.reads = false);
    }),
    ("threads_refused", |table| {
        for context in &mut table.contexts {
            context.recovery = Recovery::None("on purpose".into());
        }
    }),
];

fn is_noticed(right: &Sweeps, change: fn(&mut ReentryTable)) -> Result<(), String> {
    let (kernel, options) = ((right.kernel)()?, &right.options);
    let right = right.of(Approach::Relocate)?;
    ensure(right.failures() == 0, || format!("{right:#?}"))?;
    let mut before = ReentryTable::default();
    let mut after = ReentryTable::default();
    let broken = run(&kernel, options, |table| {
        before = table.clone();
        change(table);
        after = table.clone();
    })?;
    ensure(before != after, || "nothing was broken".to_owned())?;
    ensure(broken.failures() > 0, || "it was not noticed".to_owned())?;
    let function = function(&broken, "__vdso_clock_gettime")?;
    let in_words = function.failures.iter().all(|failure| {
        failure.ending.is_failure() && failure.ending > Ending::Old && !failure.what.is_empty()
    });
    ensure(in_words && !function.failures.is_empty(), || {
        format!("{:#?}", function.failures)
    })
}

/// The sweep of an image that was linked to another kernel before.
fn run_linked(old: &Kernel, to: &Kernel, policy: Policy) -> Result<InFlight, String> {
    let earlier = Earlier {
        image: to.image.clone(),
        symtab: to.symtab()?.clone(),
        policy,
    };
    let options = SweepOptions {
        earlier: Some(earlier),
        namespaces: vec![RESTORE],
        ..options(Approach::Relocate)
    };
    run(old, &options, |_| {})
}

/// Threads come out of instructions that an earlier link has moved, and out of all whose arguments
/// are part of an address.
fn comes_out_of_detours(old: &Kernel, to: &Kernel) -> Result<(), String> {
    let found = run_linked(old, to, Policy::Auto)?;
    let gettime = function(&found, "__vdso_clock_gettime")?;
    ensure(gettime.out_of_line >= 3, || {
        format!("only {} places out of line", gettime.out_of_line)
    })?;
    for function in &found.functions {
        let worst = function.worst;
        ensure(worst.failures() == 0, || {
            format!("{}: {worst:?}, {:#?}", function.name, function.failures)
        })?;
    }
    Ok(())
}

/// Threads come out of what an earlier link has put in place of functions.
fn comes_out_of_replacements(old: &Kernel, to: &Kernel) -> Result<(), String> {
    for policy in [Policy::Syscall, Policy::Proxy] {
        let found = run_linked(old, to, policy)?;
        for function in &found.functions {
            let right = function.worst.failures() == 0 && function.experiments > 0;
            ensure(right, || {
                format!("{policy:?}, {}: {:#?}", function.name, function.failures)
            })?;
        }
    }
    Ok(())
}

/// Threads come out of the fixtures, of every style that images can be made in.
fn comes_out_of_fixture(name: &str) -> Result<(), String> {
    let source = Spec::Fixture(name.to_owned()).open();
    let source = source.map_err(|error| in_words(&error))?;
    let old = source.old(&tables::Options::default());
    let (old, _) = old.map_err(|error| in_words(&error))?;
    let image = OldImage::from(&old).with_home(source.symtab.as_ref());
    let options = SweepOptions {
        namespaces: vec![RESTORE],
        ..options(Approach::Relocate)
    };
    let running = RUNNING.as_ref().map_err(Clone::clone)?;
    let found = all(sweep_with(image, running, &options, |_| {}))?;
    let [found] = found.as_slice() else {
        return Err("nothing was swept".to_owned());
    };
    let experiments: u64 = found.functions.iter().map(|f| f.experiments).sum();
    ensure(experiments > 1000, || {
        format!("only {experiments} experiments")
    })?;
    for function in &found.functions {
        ensure(function.worst.failures() == 0, || {
            format!(
                "{}: {:?}, {:#?}",
                function.name, function.worst, function.failures
            )
        })?;
    }
    Ok(())
}

/// Two kernels, and a check of one that was linked to the other.
type PairCheck = fn(&Kernel, &Kernel) -> Result<(), String>;

fn linked_trials(
    old: &(Shared, Result<(), String>),
    to: &(Shared, Result<(), String>),
) -> Vec<Trial> {
    let possible = old.1.clone().and(to.1.clone());
    let checks: [(&str, PairCheck); 2] = [
        ("detours", comes_out_of_detours),
        ("replacements", comes_out_of_replacements),
    ];
    let trial = |(name, check): (&str, PairCheck)| {
        let (old, to) = (old.0.clone(), to.0.clone());
        trial(format!("linked_earlier::{name}"), &possible, move || {
            check(&*old()?, &*to()?)
        })
    };
    checks.into_iter().map(trial).collect()
}

/// A check of what an approach has come to.
type Check = fn(&InFlight) -> Result<(), String>;

fn kernel_trials(version: &str, kernel: &Shared, possible: &Result<(), String>) -> Vec<Trial> {
    let mut checks: Vec<(&str, Approach, Check)> = vec![
        ("relocate", Approach::Relocate, everything_comes_across),
        ("proxy", Approach::Proxy, everything_comes_across),
    ];
    if version == MEASURED {
        let step_out: Check = stepping_out_does_not_help_interrupted_contexts;
        checks.extend([
            (
                "syscall",
                Approach::Syscall,
                everything_comes_across as Check,
            ),
            ("criu_is_caught", Approach::Criu, criu_is_caught),
            ("nothing_is_caught", Approach::Nothing, nothing_is_caught),
            ("step-out", Approach::StepOut, step_out),
        ]);
    }
    let options = SweepOptions {
        approaches: checks.iter().map(|(_, approach, _)| *approach).collect(),
        ..SweepOptions::default()
    };
    let sweeps = Sweeps::new(kernel, options);
    let of_approach = |(name, approach, check): (&str, Approach, Check)| {
        let sweeps = Arc::clone(&sweeps);
        let name = format!("{version}::{name}");
        trial(name, possible, move || check(sweeps.of(approach)?))
    };
    let mut trials: Vec<Trial> = checks.into_iter().map(of_approach).collect();
    if version != MEASURED {
        return trials;
    }
    let options = SweepOptions {
        namespaces: vec![RESTORE],
        functions: vec!["clock_gettime".to_owned()],
        ..SweepOptions::default()
    };
    let right = Sweeps::new(kernel, options);
    for (name, change) in BREAKS {
        let right = Arc::clone(&right);
        let name = format!("{version}::a_broken_table_is_noticed::{name}");
        trials.push(trial(name, possible, move || is_noticed(&right, change)));
    }
    trials
}

/// Trials of one kernel wait for the same sweep. In turns, those of another run meanwhile.
fn in_turns<const N: usize>(trials: [Vec<Trial>; N]) -> Vec<Trial> {
    let mut lists = trials.map(Vec::into_iter);
    let mut all = Vec::new();
    while lists.iter().any(|list| list.len() > 0) {
        all.extend(lists.iter_mut().filter_map(Iterator::next));
    }
    all
}

/// All of them.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let cache = Cache::locate();
    let here = EMULATION.clone().and_then(|()| TIME_NAMESPACE.clone());
    let kernel = |version: &str| {
        let (kernel, path) = stock::fetched(&cache, version, arguments.list);
        (kernel, path.map(drop).and_then(|()| here.clone()))
    };
    let of_kernels = VERSIONS.map(|version| {
        let (kernel, possible) = kernel(version);
        kernel_trials(version, &kernel, &possible)
    });
    let mut all = in_turns(of_kernels);
    // Between these three instructions of `clock_gettime` have to move out of line.
    all.extend(linked_trials(&kernel("5.10"), &kernel("6.12")));
    // Without symbols there is no kernel to emulate.
    for fixture in fixture::all().iter().filter(|f| f.symtab.is_some()) {
        let name = format!("fixture::{}", fixture.name);
        all.push(trial(name, &here, || comes_out_of_fixture(fixture.name)));
    }
    all
}
