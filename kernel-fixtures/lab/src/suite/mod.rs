//! Test suites of this workspace in guests: on kernels and processors other than the running ones.
//!
//! | module | does |
//! |---|---|
//! | `build` | suites and the programs that they start, by cargo |
//! | `modules` | which tests there are, and which of them share a guest |
//! | `python` | the interpreter of this machine, for tests that start one |
//! | `results` | what a guest's tests say: passed, failed, ignored, and the counts at the end |
//! | `summary` | what it amounts to, and the status to end with |
//!
//! An emulated processor is slow. Each module of a suite has a guest of its own, so that one that
//! hangs or panics costs no more than its own tests.

mod build;
mod modules;
mod python;
mod results;
mod summary;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::arguments::Suite;
use crate::lab::Lab;
use crate::machine::{self, Channel, MachineError};
use crate::packages;
use crate::run::{Guest, Packed};

use build::Built;
use modules::Module;
use results::Results;
use summary::{GuestRun, Summary};

/// Cargo, by which tests build the command themselves. In a guest it is up to date.
const CARGO: &str = env!("CARGO");

/// Runs suites on kernels, one guest after the other, and prints the sum. The status is 1 unless
/// every test that can be run has passed.
pub(crate) fn run(lab: &Lab, asked: &Suite) -> Result<u8> {
    for version in &asked.kernels {
        lab.kernel(version)?;
    }
    let built = build::build(asked)?;
    let mut suites = Vec::new();
    for (name, program) in &built.tests {
        let modules = modules::of(program, &asked.arguments, asked.together)?;
        suites.push((name, program, modules));
    }
    if suites.iter().all(|(.., modules)| modules.is_empty()) {
        bail!("no test is called so: {}", asked.arguments.join(" "));
    }
    let mut summary = Summary::default();
    for version in &asked.kernels {
        for (name, program, modules) in &suites {
            let packed = pack(lab, name, program, &built)?;
            for module in modules {
                let name = format!("{name} {}", module.name);
                eprintln!("== {} on {version}", name.trim_end());
                let mut words = vec![program.display().to_string()];
                words.extend(asked.arguments.iter().cloned());
                words.extend(module.arguments.iter().cloned());
                let limit = Duration::from_secs(asked.limit);
                let (run, is_interrupted) =
                    one(lab, &packed, (version, &name), module, words, limit);
                summary.add(run);
                if is_interrupted {
                    print!("{summary}");
                    bail!(MachineError::Interrupted);
                }
            }
        }
    }
    print!("{summary}");
    Ok(u8::from(!summary.is_right()))
}

/// Versions of CRIU that a suite dumps with.
fn versions_of_criu(suite: &str) -> &'static [&'static str] {
    match suite {
        "criu" => &["3.17", "4.1", packages::USUAL_CRIU],
        _ => &[packages::USUAL_CRIU],
    }
}

/// What guests get to run a suite.
fn pack(lab: &Lab, suite: &str, program: &Path, built: &Built) -> Result<Packed> {
    let mut guest = Guest::default();
    guest.program(program)?;
    for helper in &built.programs {
        guest.program(helper)?;
    }
    guest.kernels(lab, &kernel_source::VERSIONS.map(str::to_owned))?;
    for version in versions_of_criu(suite) {
        guest.tree(&packages::criu(lab.cache(), version)?)?;
    }
    python::add(&mut guest)?;
    guest.text(Path::new(CARGO), "#!/bin/busybox true\n")?;
    // Its line counts as a terminal. Colours would be in the way of who reads the results.
    guest.variable("TERM", "dumb");
    guest.variable("NO_COLOR", "1");
    guest.pack()
}

/// One guest with tests of a suite, and whether somebody wanted it to end early.
fn one(
    lab: &Lab,
    packed: &Packed,
    (kernel, suite): (&str, &str),
    module: &Module,
    words: Vec<String>,
    limit: Duration,
) -> (GuestRun, bool) {
    let began = Instant::now();
    let mut results = Results::default();
    let mut take = |bytes: &[u8]| {
        results.take(bytes);
        machine::show(bytes)
    };
    let status = packed.run(lab, kernel, words, limit, Channel::Output(&mut take));
    let is_interrupted = status.as_ref().is_err_and(|error| {
        let error = error.downcast_ref::<MachineError>();
        matches!(error, Some(MachineError::Interrupted))
    });
    let trouble = match status {
        Ok(status) => results.contradiction(status),
        Err(error) => Some(format!("{error:#}")),
    };
    let run = GuestRun {
        kernel: kernel.to_owned(),
        suite: suite.trim_end().to_owned(),
        listed: module.tests.clone(),
        results,
        trouble,
        took: began.elapsed(),
    };
    if let Some(trouble) = &run.trouble {
        eprintln!("== {} on {kernel}: {trouble}", run.suite);
    }
    (run, is_interrupted)
}
