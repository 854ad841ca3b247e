//! `relocator apply`, `relocator rollback` and `relocator prepare`

use std::fmt::Write;
use std::time::Duration;

use crate::json::apply::{Apply, MovedMapping, State, Text, ThreadInside, ThreadsSeen};
use crate::json::{self, Function};
use crate::source::Spec;
use anyhow::Result;
use relocator::plan::Policy;
use relocator::source::Source;
use relocator_process::apply::outcome::{self, ApplyOutcome as Applied, ApplyState, LinkedText};
use relocator_process::apply::{self, ApplyOptions as Options, RunningKernel};

use crate::command::tables::{OldTables, kept, remember_all};
use crate::command::{Outcome, output, words};

/// Link a process that carries an old vDSO to the running kernel, with all its threads.
///
/// The process carries an old vDSO, as a restore leaves it. The command stops all its threads for a
/// moment. They go on where they were; those inside the old vDSO go back to the entry of their
/// function. The process keeps a record of the link, so that `rollback` can undo it and a second
/// `apply` does nothing. If the process cannot be linked, it stays as it is.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    process: Process,
    /// Which strategies may be used.
    #[arg(long, value_parser = words::policy(), default_value_t)]
    strategy: Policy,
}

/// Undo what `apply` has done to a process.
///
/// The process gets back what it had before the link: its old code, with CRIU's jumps if there were
/// any, and the new kernel's mappings where they were.
#[derive(clap::Args)]
pub(crate) struct RollbackArguments {
    #[command(flatten)]
    process: Process,
}

/// Make a process ready for a dump.
///
/// A process that carries an old vDSO, linked or not, can be dumped and restored on any kernel then,
/// its home kernel included, by CRIU alone or with `apply`. It goes on meanwhile, with system calls
/// in place of its old vDSO, until `apply` links it again.
#[derive(clap::Args)]
pub(crate) struct PrepareArguments {
    #[command(flatten)]
    process: Process,
}

#[derive(clap::Args)]
struct Process {
    /// The process.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// The old vDSO: its kernel (kernel:VERSION), or a file. Needed only if this machine has never
    /// seen that vDSO: what `apply`, `derive` and `inspect` see is kept. May be repeated.
    #[arg(long, value_name = "SOURCE")]
    old: Vec<Spec>,
    #[command(flatten)]
    tables: OldTables,
    /// Compute everything and say what would be done; write nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long to retry until every thread is at a safe point, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    deadline: u64,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let process = &arguments.process;
    let kernel = RunningKernel::read(&kept())?;
    let options = Options {
        policy: arguments.strategy,
        ..process.options()?
    };
    let applied = apply::apply(process.pid, &kernel, &process.sources()?, &options)?;
    process.print(&applied)?;
    // One day its processes may be restored on another kernel.
    remember_all(kernel.source());
    Ok(Outcome::Done)
}

pub(crate) fn roll_back(arguments: &RollbackArguments) -> Result<Outcome> {
    let process = &arguments.process;
    let kernel = RunningKernel::read(&kept())?;
    let sources = process.sources()?;
    let undone = apply::rollback(process.pid, &kernel, &sources, &process.options()?)?;
    process.print(&undone)
}

pub(crate) fn prepare(arguments: &PrepareArguments) -> Result<Outcome> {
    let process = &arguments.process;
    let kernel = RunningKernel::read(&kept())?;
    let sources = process.sources()?;
    let prepared = apply::prepare(process.pid, &kernel, &sources, &process.options()?)?;
    process.print(&prepared)
}

impl Process {
    fn options(&self) -> Result<Options> {
        Ok(Options {
            policy: Policy::default(),
            tables: self.tables.options()?,
            deadline: Some(Duration::from_secs(self.deadline)),
            dry_run: self.dry_run,
        })
    }

    fn sources(&self) -> crate::Result<Vec<Source>> {
        self.old.iter().map(Spec::open).collect()
    }

    fn print(&self, outcome: &Applied) -> Result<Outcome> {
        output::print_done(self.json, &report(outcome), text(outcome))?;
        Ok(Outcome::Done)
    }
}

fn report(outcome: &Applied) -> Apply {
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    let kernel = outcome.kernel.iter().map(|placed| MovedMapping {
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
    Apply {
        schema: json::APPLY,
        pid: outcome.pid,
        state: state(outcome.state),
        texts: texts.collect(),
        kernel: kernel.collect(),
        unreachable: outcome.unreachable.clone(),
        no_symbols: outcome.no_symbols.clone(),
        misleading_names: outcome.misleading_names.clone(),
        threads: outcome.crossed.threads,
        moved: outcome.crossed.moved,
        frames: outcome.crossed.frames,
        left_out: json::ranges(&outcome.crossed.left_out),
        seen: outcome.seen.as_ref().map(seen),
        attempts: outcome.attempts,
        added_bytes: outcome.added(),
        total_us: microseconds(outcome.times.total),
        stop_us: microseconds(outcome.times.stop),
        commit_us: microseconds(outcome.times.commit),
    }
}

fn seen(seen: &outcome::ThreadsSeen) -> ThreadsSeen {
    let inside = seen.inside.iter().map(|inside| ThreadInside {
        thread: inside.thread,
        address: inside.pc.0,
    });
    ThreadsSeen {
        threads: seen.threads,
        inside: inside.collect(),
        unknown: seen.unknown,
    }
}

fn state(state: ApplyState) -> State {
    match state {
        ApplyState::Untouched => State::Untouched,
        ApplyState::AlreadyLinked => State::AlreadyLinked,
        ApplyState::Linked => State::Linked,
        ApplyState::Completed => State::Completed,
        ApplyState::RolledBack => State::RolledBack,
        ApplyState::Prepared => State::Prepared,
        ApplyState::AlreadyPrepared => State::AlreadyPrepared,
        ApplyState::WouldBePrepared => State::WouldBePrepared,
        ApplyState::WouldBeLinked => State::WouldBeLinked,
        ApplyState::WouldBeCompleted => State::WouldBeCompleted,
        ApplyState::WouldBeRolledBack => State::WouldBeRolledBack,
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
    for misleading in &outcome.misleading_names {
        let _ = writeln!(text, "note: {misleading}");
    }
    output::left_out(&mut text, &outcome.crossed.left_out);
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
        ApplyState::Untouched => return "has no old vDSO; nothing to do".to_owned(),
        ApplyState::AlreadyLinked => return "is linked already; nothing to do".to_owned(),
        ApplyState::Linked => "is linked",
        ApplyState::Completed => "is linked: an interrupted link is complete now",
        ApplyState::RolledBack => "is rolled back",
        ApplyState::AlreadyPrepared => {
            return "is ready for a dump already; nothing to do".to_owned();
        }
        ApplyState::Prepared => "is ready for a dump",
        ApplyState::WouldBePrepared => "would be made ready for a dump (dry run)",
        ApplyState::WouldBeLinked => "would be linked (dry run)",
        ApplyState::WouldBeCompleted => "has an interrupted link that would be completed (dry run)",
        ApplyState::WouldBeRolledBack => "would be rolled back (dry run)",
    };
    if let Some(seen) = &outcome.seen {
        return format!(
            "{done}; of {} threads, {} are inside a vDSO now, and {} run",
            seen.threads,
            seen.inside.len(),
            seen.unknown
        );
    }
    let crossed = &outcome.crossed;
    format!(
        "{done}; {} threads stopped for {:.0} µs; inside were {} of them, and {} contexts in signal frames",
        crossed.threads,
        outcome.times.total.as_secs_f64() * 1e6,
        crossed.moved,
        crossed.frames
    )
}
