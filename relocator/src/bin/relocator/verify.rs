//! `relocator verify OLD [--onto self]`.

use std::time::Duration;

use anyhow::Result;
use relocator::link::Old;
use relocator::plan::Policy;
use relocator::report::{self, Kernel};
use relocator::source::{Source, Spec};
use relocator::verify::{FunctionOutcome, Options, Outcome as Verified, Running, verify};
use serde::Serialize;

use crate::{Outcome, output};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The vDSO to verify.
    old: Spec,
    /// The kernel to link it to. Code can only be run on the kernel that is running.
    #[arg(long, value_name = "NEW", default_value = "self", value_parser = ["self"])]
    onto: String,
    /// Run in a time namespace of its own, with shifted clocks.
    #[arg(long)]
    time_namespace: bool,
    /// Which strategies may be used.
    #[arg(long, value_enum, default_value_t)]
    strategy: Policy,
    /// Calls for each combination of function and arguments.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds after which the child process is taken to hang.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    deadline: u64,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    old: Kernel,
    new: Kernel,
    time_namespace: bool,
    functions: Vec<FunctionOutcome>,
}

/// The running kernel from its source.
pub(crate) fn running(source: &Source) -> Result<Running> {
    let image = source.require_image()?.clone();
    let symtab = source.symtab.clone();
    Ok(Running { image, symtab })
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let old_source = Source::open(&arguments.old)?;
    let new_source = Source::open(&Spec::Own)?;
    let image = old_source.require_image()?;
    let old = Old::read(image.clone()).map_err(relocator::Error::input(&old_source.name))?;
    let options = Options {
        policy: arguments.strategy,
        time_namespace: arguments.time_namespace,
        rounds: arguments.rounds,
        deadline: Duration::from_secs(arguments.deadline),
    };
    let outcome = verify(image, &running(&new_source)?, &options)?;
    let report = Report {
        schema: report::VERIFY,
        old: Kernel::old(&old_source, &old),
        new: Kernel::new(&new_source),
        time_namespace: arguments.time_namespace,
        functions: outcome.functions.clone(),
    };
    output::print(arguments.json, &report, text(&report, &outcome))?;
    Ok(match outcome.mismatches() {
        0 => Outcome::Done,
        _ => Outcome::Refused,
    })
}

fn text(report: &Report, outcome: &Verified) -> String {
    let mut table = output::table(&["function", "strategy", "calls", "mismatches", "reason"]);
    let mut notes = String::new();
    for function in &report.functions {
        table.add_row([
            function.name.clone(),
            function.strategy.to_string(),
            function.calls.to_string(),
            function.mismatches.to_string(),
            function.reason.clone(),
        ]);
        if let Some(mismatch) = &function.first_mismatch {
            notes.push_str(&format!("\n{}: {mismatch}", function.name));
        }
        if function.like_native > 0 {
            notes.push_str(&format!(
                "\n{}: {} calls differ from the system call, but not from the kernel's own vDSO",
                function.name, function.like_native
            ));
        }
    }
    let place = if report.time_namespace {
        ", in a time namespace"
    } else {
        ""
    };
    let calls = outcome.calls();
    let verdict = match outcome.mismatches() {
        0 => format!("all {calls} calls agree with the system calls"),
        mismatches => format!("{mismatches} of {calls} calls DIFFER from the system calls"),
    };
    let (old, new) = (&report.old, &report.new);
    format!("old  {old}\nnew  {new}{place}\n\n{table}\n{notes}\n{verdict}")
}
