//! `relocator apply` and `relocator rollback`

use std::fmt::Write;
use std::time::Duration;

use crate::json::{self as report, Function};
use crate::source::Spec;
use anyhow::Result;
use relocator::plan::Policy;
use relocator::source::Source;
use relocator_process::apply::outcome::{ApplyOutcome as Applied, ApplyState as State, LinkedText};
use relocator_process::apply::{self, ApplyOptions as Options, RunningKernel};
use serde::Serialize;

use crate::command::tables::{OldTables, kept};
use crate::command::{Outcome, output, words};

/// The process carries an old vDSO, as a restore leaves it. All its threads are stopped for that, for a moment, and go on as
/// they were; those that were inside the old vDSO begin its function anew. What was done can be undone (`rollback`), and
/// is recorded in the process: a second time nothing is done. If it cannot be done the process stays as it is.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    process: Process,
    /// Which strategies may be used.
    #[arg(long, value_parser = words::policy(), default_value_t)]
    strategy: Policy,
}

/// The process gets back what it had before it was linked: its old text, jumps of CRIU's included, and the new kernel's mappings
/// where they were.
#[derive(clap::Args)]
pub(crate) struct RollbackArguments {
    #[command(flatten)]
    process: Process,
}

#[derive(clap::Args)]
struct Process {
    /// The process.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// The old vDSO: its kernel (kernel:VERSION), or a file. Needed where CRIU has overwritten parts of it, and for a stock
    /// kernel's vDSO whose relocations were not derived on this machine before. More than one may be given.
    #[arg(long, value_name = "SOURCE")]
    old: Vec<Spec>,
    #[command(flatten)]
    tables: OldTables,
    /// Seconds for which it is tried to find all threads where they can be carried across.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    deadline: u64,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    pid: i32,
    state: &'static str,
    texts: Vec<Text>,
    kernel: Vec<Mapping>,
    unreachable: Option<String>,
    no_symbols: Option<String>,
    lies: Vec<String>,
    threads: usize,
    moved: usize,
    frames: usize,
    attempts: u32,
    added_bytes: u64,
    stopped_us: f64,
    standing_us: f64,
    written_us: f64,
}

#[derive(Serialize)]
struct Text {
    address: u64,
    build_id: String,
    tables: &'static str,
    no_tables: Option<String>,
    jumps: usize,
    record_bytes: usize,
    functions: Vec<Function>,
}

#[derive(Serialize)]
struct Mapping {
    name: String,
    size: u64,
    from: u64,
    to: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let process = &arguments.process;
    let kernel = RunningKernel::read(&kept())?;
    let options = Options {
        policy: arguments.strategy,
        ..process.options()?
    };
    let applied = apply::apply(process.pid, &kernel, &process.sources()?, &options)?;
    process.print(&applied)
}

pub(crate) fn roll_back(arguments: &RollbackArguments) -> Result<Outcome> {
    let process = &arguments.process;
    let kernel = RunningKernel::read(&kept())?;
    let sources = process.sources()?;
    let undone = apply::rollback(process.pid, &kernel, &sources, &process.options()?)?;
    process.print(&undone)
}

impl Process {
    fn options(&self) -> Result<Options> {
        Ok(Options {
            policy: Policy::default(),
            tables: self.tables.options()?,
            deadline: Some(Duration::from_secs(self.deadline)),
            dry_run: false,
        })
    }

    fn sources(&self) -> crate::Result<Vec<Source>> {
        self.old.iter().map(Spec::open).collect()
    }

    fn print(&self, outcome: &Applied) -> Result<Outcome> {
        output::print(self.json, &report(outcome), text(outcome))?;
        Ok(Outcome::Done)
    }
}

fn report(outcome: &Applied) -> Report {
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    let kernel = outcome.kernel.iter().map(|placed| Mapping {
        name: placed.name.clone(),
        size: placed.size,
        from: placed.from.0,
        to: placed.to.0,
    });
    let texts = outcome.texts.iter().map(|text| Text {
        address: text.image.0,
        build_id: text.build_id.clone(),
        tables: text.tables.provenance.word(),
        no_tables: text.tables.no_tables.as_ref().map(ToString::to_string),
        jumps: text.jumps,
        record_bytes: text.record,
        functions: text.functions.iter().map(Function::from).collect(),
    });
    Report {
        schema: report::APPLY,
        pid: outcome.pid,
        state: state(outcome.state),
        texts: texts.collect(),
        kernel: kernel.collect(),
        unreachable: outcome.unreachable.clone(),
        no_symbols: outcome.no_symbols.clone(),
        lies: outcome.misleading_names.clone(),
        threads: outcome.crossed.threads,
        moved: outcome.crossed.moved,
        frames: outcome.crossed.frames,
        attempts: outcome.attempts,
        added_bytes: outcome.added(),
        stopped_us: microseconds(outcome.times.total),
        standing_us: microseconds(outcome.times.stop),
        written_us: microseconds(outcome.times.commit),
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Untouched => "untouched",
        State::AlreadyLinked => "already-linked",
        State::Linked => "linked",
        State::Completed => "completed",
        State::RolledBack => "rolled-back",
        State::WouldBeLinked => "would-be-linked",
        State::WouldBeCompleted => "would-be-completed",
        State::WouldBeRolledBack => "would-be-rolled-back",
    }
}

fn text(outcome: &Applied) -> String {
    let mut text = String::new();
    for old in &outcome.texts {
        describe(&mut text, old);
    }
    for placed in &outcome.kernel {
        let moved = match placed.from == placed.to {
            true => format!("stays at {}", placed.to),
            false => format!("{} -> {}", placed.from, placed.to),
        };
        let _ = writeln!(text, "{:14} {moved}", placed.name);
    }
    for (what, reason) in [
        ("not within reach", &outcome.unreachable),
        ("no symbols of the running kernel", &outcome.no_symbols),
    ] {
        if let Some(reason) = reason {
            let _ = writeln!(text, "{what}: {reason}");
        }
    }
    for lie in &outcome.misleading_names {
        let _ = writeln!(text, "note: {lie}");
    }
    let _ = write!(text, "process {} {}", outcome.pid, verdict(outcome));
    text
}

fn describe(text: &mut String, old: &LinkedText) {
    let _ = writeln!(text, "old vDSO at {}, build-id {}", old.image, old.build_id);
    if old.functions.is_empty() {
        return;
    }
    let mut table = output::table(&["function", "strategy", "why"]);
    for function in &old.functions {
        let strategy = function.strategy.name();
        table.add_row([function.name(), strategy, &function.reason.to_string()]);
    }
    let _ = writeln!(text, "{table}");
    if let Some(reason) = &old.tables.no_tables {
        let _ = writeln!(text, "no relocations: {reason}");
    }
    let _ = writeln!(text);
}

fn verdict(outcome: &Applied) -> String {
    let done = match outcome.state {
        State::Untouched => {
            return "is left alone: it has nothing that could be changed".to_owned();
        }
        State::AlreadyLinked => return "is linked already".to_owned(),
        State::Linked => "is linked",
        State::Completed => "is linked: what was begun earlier is complete now",
        State::RolledBack => "is what it was before it was linked",
        State::WouldBeLinked => return "would be linked".to_owned(),
        State::WouldBeCompleted => {
            return "would be linked: what was begun earlier would be completed".to_owned();
        }
        State::WouldBeRolledBack => return "would be what it was before it was linked".to_owned(),
    };
    let crossed = &outcome.crossed;
    format!(
        "{done}; {} threads stood still for {:.0} µs, {} of them and {} contexts in signal frames were inside",
        crossed.threads,
        outcome.times.total.as_secs_f64() * 1e6,
        crossed.moved,
        crossed.frames
    )
}
