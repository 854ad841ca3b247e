//! The commands, from their arguments to what they print.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kernel_source::Cache;

use crate::arguments::{Action, Arguments, Output};
use crate::chain;
use crate::guest::{By, Container};
use crate::kind::{self, Kind, Language};
use crate::lab::Lab;
use crate::matrix;
use crate::report::{self, Report};
use crate::{packages, run, suite};

/// With this variable set, what cannot be run is a failure.
const REQUIRE_ALL: &str = "RELOCATOR_REQUIRE_ALL";

/// The pairs of the short form: kernels with and without SGX and `getrandom`, both generations of
/// the vvar layout. CRIU can restore all of these.
const SHORT_PAIRS: [(&str, &str); 3] = [("5.10", "6.12"), ("6.12", "7.3"), ("6.1", "5.10")];

/// A pair back to an older layout, in a container, for the stable distribution's C library: CRIU
/// cannot restore what the newest one maps on the newer kernel.
const SHORT_BACK: (&str, &str) = ("7.3", "6.1");

/// The chain of the short form: home again.
const SHORT_CHAIN: [&str; 3] = ["6.12", "7.3", "6.12"];

/// How long the short form watches a process.
const SHORT_TIME: Duration = Duration::from_millis(1500);

/// Carries a command out. The result is the status to end with.
pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let lab = || {
        let relocator = arguments.relocator.clone();
        Lab::new(arguments.settings.clone(), relocator, arguments.verbose)
    };
    match &arguments.action {
        Action::Guest | Action::Contain(_) => Ok(0),
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
            let tree = asked.times.tree as usize;
            let kinds = kind::all(
                &asked.criu,
                &asked.language,
                &asked.libc,
                tree,
                &asked.container,
            )?;
            let plan = matrix::Plan {
                pairs: matrix::pairs(&asked.kernels, asked.same),
                kinds,
                repeat: asked.times.repeat as usize,
                observe: Duration::from_millis(asked.times.observe),
                jobs: asked.times.jobs,
                by: linked_by(asked.plugin),
            };
            compare(&lab()?, &[plan], &[], &asked.output)
        }
        Action::Chain(asked) => {
            let kinds = kind::all(
                std::slice::from_ref(&asked.criu),
                &[asked.language],
                std::slice::from_ref(&asked.libc),
                asked.times.tree as usize,
                asked.container.as_slice(),
            )?;
            let plan = chain::Plan {
                kernels: asked.kernels.clone(),
                kind: kinds.into_iter().next().context("no kind")?,
                repeat: asked.times.repeat as usize,
                observe: Duration::from_millis(asked.times.observe),
                by: match asked.plain {
                    true => By::Criu,
                    false => linked_by(asked.plugin),
                },
            };
            compare(&lab()?, &[], &[plan], &asked.output)
        }
        Action::Ci(output) => short(lab, output),
    }
}

fn linked_by(plugin: bool) -> By {
    match plugin {
        true => By::Plugin,
        false => By::Relocator,
    }
}

/// The short form. What cannot run is ignored, unless everything is required.
fn short(lab: impl FnOnce() -> Result<Lab>, output: &Output) -> Result<u8> {
    let kind = |libc: &str| Kind::usual(packages::USUAL_CRIU, libc);
    let plan = |pairs: &[(&str, &str)], kinds: Vec<Kind>, by: By| matrix::Plan {
        pairs: pairs
            .iter()
            .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
            .collect(),
        kinds,
        repeat: 1,
        observe: SHORT_TIME,
        jobs: 2,
        by,
    };
    let contained = Kind {
        container: Some(Container::Usual),
        processes: 2,
        ..kind("2.36")
    };
    let plans = [
        plan(&SHORT_PAIRS, vec![kind("2.36"), kind("newest")], By::Plugin),
        plan(&[SHORT_BACK], vec![contained], By::Relocator),
    ];
    let chain = chain::Plan {
        kernels: SHORT_CHAIN.map(str::to_owned).into(),
        kind: kind("newest"),
        repeat: 2,
        observe: SHORT_TIME,
        by: By::Relocator,
    };
    match lab() {
        Ok(lab) => compare(&lab, &plans, &[chain], output),
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
        match matrix::run(lab, plan, &say) {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => report.ignored.push(format!("{error:#}")),
        }
    }
    for plan in chains {
        match chain::run(lab, plan, &say) {
            Ok(chain) => report.chains.push(chain),
            Err(error) => report.ignored.push(format!("{error:#}")),
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    print!("{}", report::text(&report));
    if let Some(path) = &output.json {
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &output.html {
        write(path, &report::page(&report))?;
    }
    if let Some(path) = &output.markdown {
        write(path, &report::markdown(&report))?;
    }
    if crate::interrupt::is_wanted() {
        anyhow::bail!("interrupted: the report is not whole");
    }
    Ok(u8::from(is_failure(&report, all_required())))
}

/// Whether a report ends a command with status 1.
fn is_failure(report: &Report, all_required: bool) -> bool {
    let is_whole = report.has_results() && !report.has_ignored();
    !report.is_good() || (all_required && !is_whole)
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
        // One that cannot be fetched shows when it is to run.
        if let Ok(kernel) = lab.kernel(version) {
            used.push((format!("Linux {version}"), kernel.package_version));
        }
    }
    for kind in kinds {
        let criu = packages::criu(lab.cache(), &kind.criu)?;
        let version = criu.version("criu").unwrap_or_default().to_owned();
        used.push((format!("CRIU {}", kind.criu), version));
        used.extend(programs(lab, kind)?);
    }
    used.sort();
    used.dedup();
    Ok(used)
}

/// The packages that the checker of a kind is made of.
fn programs(lab: &Lab, kind: &Kind) -> Result<Vec<(String, String)>> {
    let libc = &kind.libc;
    let (tree, names) = match kind.language {
        Language::C => {
            let package = if libc == "musl" { "musl" } else { "libc6" };
            let names = vec![(format!("C library {libc}"), package)];
            (packages::libc(lab.cache(), libc)?, names)
        }
        Language::Python => {
            let python = (format!("Python, {libc}"), "python3");
            let names = vec![python, (format!("Python's C library, {libc}"), "libc6")];
            (packages::python(lab.cache(), libc)?, names)
        }
        Language::Go => {
            let names = vec![("Go".to_owned(), "golang-go")];
            (packages::go(lab.cache())?, names)
        }
    };
    let version = |package| tree.version(package).unwrap_or_default().to_owned();
    let versions = names
        .into_iter()
        .map(|(what, package)| (what, version(package)));
    Ok(versions.collect())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn what_is_ignored_fails_where_everything_is_required() {
        let mut report = example();
        report.chains.clear();
        assert!(!is_failure(&report, false) && is_failure(&report, true));
        report.rows.truncate(1);
        report.ignored.clear();
        assert!(!is_failure(&report, true));
        report.rows.clear();
        assert!(!is_failure(&report, false) && is_failure(&report, true));
        assert!(is_failure(&example(), false), "a process was lost");
    }
}
