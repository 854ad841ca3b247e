//! `relocator compare [OLD...]`.

use anyhow::Result;
use kernel_fixtures::distribution::Cache;
use kernel_fixtures::fixture;
use relocator::compare::{self, Comparison, OldKernel, Row, compare};
use relocator::report::{self, Kernel};
use relocator::source::{Source, Spec};
use relocator::tables::Options;
use relocator::verify::Running;
use serde::Serialize;

use crate::{Outcome, output, verify};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The vDSOs to compare strategies for: all fixtures and every fetched kernel, if none is given.
    olds: Vec<Spec>,
    /// Run in a time namespace of its own, with shifted clocks.
    #[arg(long)]
    time_namespace: bool,
    /// Calls for each combination of function and arguments when checking.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    new: Kernel,
    time_namespace: bool,
    olds: Vec<Compared>,
}

#[derive(Serialize)]
struct Compared {
    old: Kernel,
    rows: Vec<Row>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let new_source = Source::open(&Spec::Own)?;
    let running: Running = verify::running(&new_source)?;
    let specs = if arguments.olds.is_empty() {
        everything()
    } else {
        arguments.olds.clone()
    };
    let mut olds: Vec<OldKernel> = Vec::with_capacity(specs.len());
    let mut kernels = Vec::with_capacity(specs.len());
    for spec in &specs {
        let source = Source::open(spec)?;
        let version = source
            .linux_version()
            .map_or_else(String::new, |version| format!(" ({version})"));
        let (old, tables) = source.old(&Options::usual(None))?;
        kernels.push(Kernel::old(&source, &tables));
        olds.push(OldKernel {
            name: format!("{spec}{version}"),
            old,
            home: source.symtab.clone(),
        });
    }
    let options = compare::Options {
        time_namespace: arguments.time_namespace,
        rounds: arguments.rounds,
        ..compare::Options::default()
    };
    let comparison = compare(&olds, &running, &options, &|_| {})?;
    let compared = kernels.into_iter().zip(&comparison.olds);
    let compared = compared.map(|(old, compared)| Compared {
        old,
        rows: compared.rows.clone(),
    });
    let report = Report {
        schema: report::COMPARE,
        new: Kernel::new(&new_source),
        time_namespace: arguments.time_namespace,
        olds: compared.collect(),
    };
    output::print(arguments.json, &report, text(&report, &comparison))?;
    let differ = comparison
        .olds
        .iter()
        .flat_map(|old| &old.rows)
        .any(|row| row.way.is_ours() && row.mismatches > 0);
    Ok(if differ {
        Outcome::Refused
    } else {
        Outcome::Done
    })
}

/// Every fixture, and every kernel that was fetched before: comparing needs no network.
fn everything() -> Vec<Spec> {
    let fixtures = fixture::all()
        .iter()
        .map(|fixture| Spec::Fixture(fixture.name.to_owned()));
    let cached = Cache::locate()
        .all_cached()
        .into_iter()
        .map(|kernel| Spec::Kernel(kernel.version));
    fixtures.chain(cached).collect()
}

fn text(report: &Report, comparison: &Comparison) -> String {
    let place = if report.time_namespace {
        ", in a time namespace"
    } else {
        ""
    };
    format!("new: {}{place}\n\n{comparison}", report.new)
}
