//! The commands, from their arguments to what they print.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kernel_source::Cache;

use crate::arguments::{Action, Arguments, Output, Times};
use crate::chain;
use crate::guest::By;
use crate::lab::Lab;
use crate::matrix;
use crate::report::{self, Report};
use crate::scenario::Kind;
use crate::{packages, run, suite};

/// With this variable set, what cannot be run is a failure.
const REQUIRE_ALL: &str = "RELOCATOR_REQUIRE_ALL";

/// The pairs of the short form: both generations of the vvar layout, and both directions.
const SHORT_PAIRS: [(&str, &str); 4] = [
    ("5.10", "6.12"),
    ("6.12", "7.3"),
    ("7.3", "6.1"),
    ("6.1", "5.10"),
];

/// The chain of the short form: home again.
const SHORT_CHAIN: [&str; 3] = ["6.12", "7.3", "6.12"];

/// Carries a command out. The result is the status to end with.
pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let lab = || {
        let relocator = arguments.relocator.clone();
        Lab::new(arguments.settings.clone(), relocator, arguments.verbose)
    };
    match &arguments.action {
        Action::Guest => Ok(0),
        Action::Fetch { kernels } => {
            for (name, tree) in packages::fetch_all(&Cache::locate(), kernels)? {
                println!("{name}: {} packages", tree.packages.len());
            }
            Ok(0)
        }
        Action::Run(asked) => run::command(&lab()?, asked),
        Action::Shell { kernel } => run::shell(&lab()?, kernel),
        Action::Suite(asked) => suite::run(&lab()?, asked),
        Action::Matrix(asked) => {
            let kinds = asked.criu.iter().flat_map(|criu| {
                let kind = |libc: &String| Kind {
                    criu: criu.clone(),
                    libc: libc.clone(),
                    processes: asked.times.tree as usize,
                };
                asked.libc.iter().map(kind)
            });
            let plan = matrix::Plan {
                pairs: matrix::pairs(&asked.kernels, asked.same),
                kinds: kinds.collect(),
                repeat: asked.times.repeat as usize,
                observe: Duration::from_millis(asked.times.observe),
                jobs: asked.times.jobs,
            };
            compare(&lab()?, &[plan], &[], &asked.output)
        }
        Action::Chain(asked) => {
            let plan = chain::Plan {
                kernels: asked.kernels.clone(),
                kind: Kind {
                    criu: asked.criu.clone(),
                    libc: asked.libc.clone(),
                    processes: asked.times.tree as usize,
                },
                repeat: asked.times.repeat as usize,
                observe: Duration::from_millis(asked.times.observe),
                by: if asked.plain { By::Criu } else { By::Relocator },
            };
            compare(&lab()?, &[], &[plan], &asked.output)
        }
        Action::Ci(output) => short(lab, output),
    }
}

/// The short form. What cannot run is ignored, unless everything is required.
fn short(lab: impl FnOnce() -> Result<Lab>, output: &Output) -> Result<u8> {
    let times = Times {
        repeat: 1,
        tree: 1,
        observe: 1500,
        jobs: 2,
    };
    let kind = |libc: &str| Kind {
        criu: packages::USUAL_CRIU.to_owned(),
        libc: libc.to_owned(),
        processes: 1,
    };
    let pairs = SHORT_PAIRS.map(|(from, to)| (from.to_owned(), to.to_owned()));
    let plan = matrix::Plan {
        pairs: pairs.into(),
        kinds: vec![kind("2.36"), kind("newest")],
        repeat: times.repeat as usize,
        observe: Duration::from_millis(times.observe),
        jobs: times.jobs,
    };
    let chain = chain::Plan {
        kernels: SHORT_CHAIN.map(str::to_owned).into(),
        kind: kind("newest"),
        repeat: 2,
        observe: plan.observe,
        by: By::Relocator,
    };
    match lab() {
        Ok(lab) => compare(&lab, &[plan], &[chain], output),
        Err(error) => {
            println!("ignored: {error:#}");
            Ok(u8::from(all_required()))
        }
    }
}

fn all_required() -> bool {
    std::env::var_os(REQUIRE_ALL).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Runs matrices and chains, prints and writes the report. The status is 1 when the relocator was
/// not right everywhere.
fn compare(
    lab: &Lab,
    matrices: &[matrix::Plan],
    chains: &[chain::Plan],
    output: &Output,
) -> Result<u8> {
    let began = Instant::now();
    let say = |what: &str| eprintln!("{:>4} s  {what}", began.elapsed().as_secs());
    let mut report = Report {
        machines: lab.settings().to_string(),
        packages: used(lab, matrices, chains)?,
        rows: Vec::new(),
        chains: Vec::new(),
        ignored: Vec::new(),
        seconds: 0.0,
    };
    for plan in matrices {
        report.rows.extend(matrix::run(lab, plan, &say)?);
    }
    for plan in chains {
        report.chains.push(chain::run(lab, plan, &say)?);
    }
    report.seconds = began.elapsed().as_secs_f64();
    print!("{}", report::text(&report));
    if let Some(path) = &output.json {
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &output.html {
        write(path, &report::page(&report))?;
    }
    if crate::interrupt::is_wanted() {
        anyhow::bail!("interrupted: the report is not whole");
    }
    let is_incomplete = report.has_ignored() && all_required();
    Ok(u8::from(
        !report.is_good() || !report.has_results() || is_incomplete,
    ))
}

/// The packages that plans use.
fn used(
    lab: &Lab,
    matrices: &[matrix::Plan],
    chains: &[chain::Plan],
) -> Result<Vec<(String, String)>> {
    let pairs = matrices.iter().flat_map(|plan| &plan.pairs);
    let mut kernels: Vec<&String> = pairs.flat_map(|(from, to)| [from, to]).collect();
    kernels.extend(chains.iter().flat_map(|plan| &plan.kernels));
    let mut kinds: Vec<&Kind> = matrices.iter().flat_map(|plan| &plan.kinds).collect();
    kinds.extend(chains.iter().map(|plan| &plan.kind));
    let mut used = Vec::new();
    for version in kernels {
        let kernel = lab.kernel(version)?;
        used.push((format!("Linux {version}"), kernel.package_version));
    }
    for kind in kinds {
        let criu = packages::criu(lab.cache(), &kind.criu)?;
        let version = criu.version("criu").unwrap_or_default().to_owned();
        used.push((format!("CRIU {}", kind.criu), version));
        let libc = packages::libc(lab.cache(), &kind.libc)?;
        let package = if kind.libc == "musl" { "musl" } else { "libc6" };
        let version = libc.version(package).unwrap_or_default().to_owned();
        used.push((format!("C library {}", kind.libc), version));
    }
    used.sort();
    used.dedup();
    Ok(used)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
