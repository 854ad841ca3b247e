//! `relocator verify OLD --in-flight`.

use std::time::Duration;

use crate::json::verify::Sweep;
use crate::json::{self, Kernel};
use crate::source::Spec;
use anyhow::{Context, Result};
use relocator::plan::Policy;
use relocator::source::Source;
use relocator::tables;
use relocator_verify::in_flight::{
    Counts, Earlier, Ending, FailedExperiment, FunctionSweep, InFlight, Part, SweepOptions, sweep,
};
use relocator_verify::{Approach, OldImage};

use crate::command::running::running;
use crate::command::{Outcome, output, words};

#[derive(clap::Args)]
pub(crate) struct Sweeping {
    /// Stop a thread at every boundary of the old functions, on their own kernel, which is emulated;
    /// swap that for the running kernel, and look at what the thread returns. In and out of time
    /// namespaces.
    #[arg(long, conflicts_with_all = ["onto", "unlinked", "clock", "time_namespace", "strategy", "rounds"])]
    in_flight: bool,
    /// What is done when the kernel is swapped.
    #[arg(long, value_parser = words::approach(), default_value_t, requires = "in_flight")]
    approach: Approach,
    /// Sweep this function only; can be given several times.
    #[arg(long = "function", value_name = "NAME", requires = "in_flight")]
    functions: Vec<String>,
    /// The process was linked to this kernel before, which is emulated instead of the old one's own.
    #[arg(long, value_name = "KERNEL", requires = "in_flight")]
    linked_to: Option<Spec>,
    /// Which strategies were used for that.
    #[arg(long, value_parser = words::policy(), default_value_t, requires = "linked_to")]
    linked_by: Policy,
}

impl Sweeping {
    pub(crate) fn is_wanted(&self) -> bool {
        self.in_flight
    }
}

pub(crate) fn run(
    arguments: &Sweeping,
    (old_source, tables): (&Source, &tables::Options),
    own_source: &Source,
    deadline: Duration,
    json: bool,
) -> Result<Outcome> {
    let (old, old_tables) = old_source.old(tables)?;
    let between = arguments.linked_to.as_ref().map(Spec::open).transpose()?;
    let earlier = |source: &Source| -> Result<Earlier> {
        Ok(Earlier {
            image: source.require_image()?.clone(),
            symtab: source.require_symtab()?.clone(),
            policy: arguments.linked_by,
        })
    };
    let options = SweepOptions {
        earlier: between.as_ref().map(earlier).transpose()?,
        approaches: vec![arguments.approach],
        functions: arguments.functions.clone(),
        deadline,
        ..SweepOptions::default()
    };
    let home = match between {
        None => Some(old_source.require_symtab()?),
        Some(_) => old_source.symtab.as_ref(),
    };
    let image = OldImage::from(&old).with_home(home);
    let mut found = sweep(image, &running(own_source)?, &options)?;
    let found = found.pop().context("nothing was swept")??;
    let report = Sweep {
        schema: json::VERIFY,
        old: Kernel::old(old_source, &old_tables),
        linked_to: between.as_ref().map(Kernel::new),
        new: Kernel::new(own_source),
        in_flight: found,
    };
    output::print(json, &report, text(&report))?;
    Ok(match report.in_flight.failures() {
        0 => Outcome::Done,
        _ => Outcome::Refused,
    })
}

/// Every ending that a column is for.
fn cells(counts: &Counts) -> impl Iterator<Item = String> {
    Ending::ALL
        .into_iter()
        .map(|ending| match counts.of(ending) {
            0 => String::new(),
            count => count.to_string(),
        })
}

fn header(first: &[&'static str]) -> Vec<String> {
    let endings = Ending::ALL.into_iter().map(|ending| ending.to_string());
    first
        .iter()
        .map(ToString::to_string)
        .chain(endings)
        .collect()
}

fn functions(found: &InFlight) -> comfy_table::Table {
    let mut table = output::table(&[]);
    table.set_header(header(&["function", "reached", "of", "experiments"]));
    for function in &found.functions {
        let first = [
            function.name.clone(),
            function.reached.to_string(),
            function.boundaries.to_string(),
            function.experiments.to_string(),
        ];
        table.add_row(first.into_iter().chain(cells(&function.worst)));
    }
    table
}

fn parts(found: &InFlight) -> comfy_table::Table {
    let mut table = output::table(&[]);
    table.set_header(header(&[
        "function",
        "namespace",
        "stopped",
        "reached",
        "experiments",
    ]));
    let all = |function: &FunctionSweep| -> Vec<(String, Part)> {
        let name = function.name.clone();
        function
            .parts
            .iter()
            .map(move |part| (name.clone(), part.clone()))
            .collect()
    };
    for (name, part) in found.functions.iter().flat_map(all) {
        let first = [
            name,
            part.namespaces.to_string(),
            part.variant.to_string(),
            part.reached.to_string(),
            part.experiments.to_string(),
        ];
        table.add_row(first.into_iter().chain(cells(&part.worst)));
    }
    table
}

fn failure(function: &FunctionSweep, failure: &FailedExperiment) -> String {
    format!(
        "{}+{:#x} [{}] {}, {}, {}: {}: {}",
        function.name,
        failure.address,
        failure.instruction,
        failure.scenario,
        failure.namespaces,
        failure.variant,
        failure.ending,
        failure.what
    )
}

fn text(report: &Sweep) -> String {
    let found = &report.in_flight;
    let mut notes = String::new();
    for function in &found.functions {
        for unreached in &function.unreached {
            let (name, address) = (&function.name, unreached.address);
            notes.push_str(&format!(
                "{name}+{address:#x} was never reached: {}\n",
                unreached.reason
            ));
        }
        for found in &function.failures {
            notes.push_str(&failure(function, found));
            notes.push('\n');
        }
    }
    for skipped in &found.skipped {
        notes.push_str(&format!(
            "{} was not swept: {}\n",
            skipped.name, skipped.reason
        ));
    }
    for left_out in &found.left_out {
        notes.push_str(&format!(
            "{} were left out: {}\n",
            left_out.what, left_out.reason
        ));
    }
    if let Some(reason) = &found.no_time_namespace {
        notes.push_str(&format!("nothing was done in time namespaces: {reason}\n"));
    }
    let experiments = found.experiments();
    let verdict = match found.failures() {
        0 => format!("all {experiments} threads said what the new kernel says, or the old one"),
        failures => format!("of {experiments} threads some FAILED, at {failures} boundaries"),
    };
    let (functions, parts) = (functions(found), parts(found));
    let (old, new, approach) = (&report.old, &report.new, found.approach);
    let linked = report.linked_to.as_ref();
    let linked = linked.map_or_else(String::new, |kernel| {
        let stopped: u64 = found.functions.iter().map(|f| f.out_of_line).sum();
        format!("linked before to  {kernel}, and stopped at {stopped} places out of line\n")
    });
    format!(
        "old  {old}\n{linked}new  {new}\napproach  {approach}\n\n{functions}\n\n{parts}\n\n{notes}\n{verdict}"
    )
}
