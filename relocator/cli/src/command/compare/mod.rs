//! `relocator compare [OLD...]`.

mod html;
mod report;
mod screen;
mod summary;
mod table;

pub(crate) use table::grouped;

use std::path::PathBuf;
use std::time::Duration;

use crate::json::Kernel;
use crate::source::Spec;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use kernel_fixtures::fixture;
use kernel_source::Cache;
use relocator::link::Old;
use relocator::source::Source;
use relocator_verify::Running;
use relocator_verify::compare::{CompareOptions, Comparison, Namespaces, OldKernel, compare};

use crate::command::running::running;
use crate::command::tables::kept;
use crate::command::{Outcome, output};
use crate::json::compare::Compare;

/// The fixture that is laid out and compiled as a stock kernel's vDSO.
const STOCK: &str = "stock";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The vDSOs to compare approaches for. If none is given: the running kernel's own, and that of a stock kernel of another
    /// layout, which is built in; with --full all fixtures and every kernel that was fetched before.
    olds: Vec<Spec>,
    /// Print everything that was found: more columns, costs, and reasons.
    #[arg(long)]
    full: bool,
    /// Run in a time namespace of its own, with shifted clocks.
    #[arg(long)]
    time_namespace: bool,
    /// Calls for each combination of function and arguments when checking.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write a page with plots as well, an HTML file of its own.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Stop threads in flight for fixtures as well, and in every combination of time namespaces. It takes long.
    #[arg(long)]
    thorough: bool,
    /// Leave out threads in flight.
    #[arg(long, conflicts_with = "thorough")]
    no_in_flight: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let new_source = Spec::Own.open()?;
    let running: Running = running(&new_source)?;
    let by_default = arguments.olds.is_empty();
    let specs = match (by_default, arguments.full) {
        (true, true) => everything(),
        (true, false) => vec![Spec::Own, Spec::Fixture(STOCK.to_owned())],
        (false, _) => arguments.olds.clone(),
    };
    let mut olds = Vec::with_capacity(specs.len());
    let mut kernels = Vec::with_capacity(specs.len());
    for spec in &specs {
        let source = spec.open()?;
        let (old, tables) = source.old(&kept())?;
        kernels.push(Kernel::old(&source, &tables));
        olds.push(old_kernel(
            spec,
            &source,
            old,
            by_default && arguments.full && !arguments.thorough,
        ));
    }
    let options = options(arguments);
    let bar = progress_bar(&olds, &options);
    let comparison = compare(&olds, &running, &options, &|what| {
        bar.set_message(what.to_owned());
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    let new = Kernel::new(&new_source);
    let report = Compare::new(&comparison, kernels, new, &options, command());
    if let Some(path) = &arguments.report {
        output::write_file(path, html::page(&report).as_bytes())?;
    }
    output::print(
        arguments.json,
        &report,
        text(arguments, &report, &comparison),
    )?;
    Ok(match comparison.is_good() {
        true => Outcome::Done,
        false => Outcome::Refused,
    })
}

fn options(arguments: &Arguments) -> CompareOptions {
    let usual = CompareOptions::default();
    CompareOptions {
        time_namespace: arguments.time_namespace,
        rounds: arguments.rounds,
        in_flight: match (arguments.no_in_flight, arguments.thorough) {
            (true, _) => Vec::new(),
            (false, true) => Namespaces::ALL.to_vec(),
            (false, false) => usual.in_flight.clone(),
        },
        ..usual
    }
}

fn old_kernel(spec: &Spec, source: &Source, old: Old, only_stock: bool) -> OldKernel {
    let version = source.linux_version();
    let version = version.map_or_else(String::new, |version| format!(" ({version})"));
    let is_left_out = only_stock && matches!(spec, Spec::Fixture(_));
    let reason = "fixtures are left out unless they are named, or with --thorough";
    OldKernel {
        name: format!("{spec}{version}"),
        old,
        home: source.symtab.clone(),
        no_in_flight: is_left_out.then(|| reason.to_owned()),
    }
}

/// The command as it was given. Where the program is, is nobody's business.
fn command() -> String {
    let arguments = std::env::args().skip(1).map(|argument| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
        match !argument.is_empty() && argument.chars().all(is_plain) {
            true => argument,
            false => format!("'{}'", argument.replace('\'', r"'\''")),
        }
    });
    let words: Vec<String> = std::iter::once("relocator".to_owned())
        .chain(arguments)
        .collect();
    words.join(" ")
}

/// The running kernel itself, every fixture, and every kernel that was fetched before: comparing needs no network.
fn everything() -> Vec<Spec> {
    let fixtures = fixture::all()
        .iter()
        .map(|fixture| Spec::Fixture(fixture.name.to_owned()));
    let cached = Cache::locate()
        .all_cached()
        .into_iter()
        .map(|kernel| Spec::Kernel(kernel.version));
    std::iter::once(Spec::Own)
        .chain(fixtures)
        .chain(cached)
        .collect()
}

/// A step for the calls of each old image, and one for its threads in flight. Only a terminal shows it.
fn progress_bar(olds: &[OldKernel], options: &CompareOptions) -> ProgressBar {
    let swept = olds.iter().filter(|old| old.no_in_flight.is_none()).count();
    let sweeps = match options.in_flight.is_empty() {
        true => 0,
        false => swept,
    };
    let bar = ProgressBar::new((olds.len() + sweeps) as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn text(arguments: &Arguments, report: &Compare, comparison: &Comparison) -> String {
    if !arguments.full {
        return screen::text(report, comparison);
    }
    let place = if report.time_namespace {
        ", in a time namespace"
    } else {
        ""
    };
    let comparison = table::Text(comparison);
    let mut text = format!("new: {}{place}\n\n{comparison}", report.new);
    for summary in &report.summary {
        text.push_str(&format!("{}: {}\n", summary.approach, summary.sentence));
    }
    text
}
