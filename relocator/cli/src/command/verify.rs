//! `relocator verify OLD [--onto NEW | --unlinked | --in-flight]`.

use std::time::Duration;

use crate::json::verify::{CannotRun, LackedInstruction, Verify};
use crate::json::{self, Kernel};
use crate::source::Spec;
use anyhow::Result;
use clap::ValueEnum;
use elf_tools::symtab::Symtab;
use relocator::link::Old;
use relocator::plan::{Policy, Strategy};
use relocator::source::Source;
use relocator_process::cpu_features;
use relocator_verify::{
    ClockMode, Emulation, OldImage, Running, VerifyOptions, VerifyOutcome, verify, verify_at_home,
};

use crate::command::processor::Processor;
use crate::command::running::running;
use crate::command::{Outcome, in_flight, output, tables, words};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The vDSO to verify.
    old: Spec,
    /// The kernel to link it to. The command emulates any other than the running one: it keeps pages
    /// in that kernel's layout current from the running kernel's.
    #[arg(long, value_name = "NEW", default_value_t = Spec::Own)]
    onto: Spec,
    /// Do not link it: run it on its own kernel, which is emulated.
    #[arg(long, conflicts_with_all = ["onto", "strategy"])]
    unlinked: bool,
    /// What the clocks of the kernel count with. For any other than the time-stamp counter, the
    /// command emulates the running kernel as well.
    #[arg(long, value_enum, default_value_t)]
    clock: ClockSource,
    /// The processor to link for, as for `link`: names as in /proc/cpuinfo, separated by commas and
    /// with a minus before what it lacks; a file like /proc/cpuinfo; `self` for this one; or `base`
    /// for what every processor has. The report says which functions of the old code it cannot run,
    /// and which instructions decide it. By default it is this one; what this one lacks is not run
    /// in any case.
    #[arg(long, value_name = "FEATURES", conflicts_with_all = ["unlinked", "in_flight"])]
    cpu: Option<Processor>,
    /// Run in a time namespace of its own, with shifted clocks.
    #[arg(long)]
    time_namespace: bool,
    #[command(flatten)]
    in_flight: in_flight::Sweeping,
    #[command(flatten)]
    tables: tables::OldTables,
    /// Which strategies may be used.
    #[arg(long, value_parser = words::policy(), default_value_t)]
    strategy: Policy,
    /// Calls for each combination of function and arguments.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// When to give up on the child process, in seconds; with `--in-flight`, for each function in
    /// each combination of time namespaces.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    deadline: u64,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// [`ClockMode`], as it is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ClockSource {
    /// The time-stamp counter.
    #[default]
    Tsc,
    /// KVM's clock page.
    Pvclock,
    /// Hyper-V's clock page.
    Hvclock,
}

impl From<ClockSource> for ClockMode {
    fn from(source: ClockSource) -> Self {
        match source {
            ClockSource::Tsc => Self::Tsc,
            ClockSource::Pvclock => Self::Pvclock,
            ClockSource::Hvclock => Self::Hvclock,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let old_source = arguments.old.open()?;
    let own_source = Spec::Own.open()?;
    if arguments.in_flight.is_wanted() {
        let deadline = Duration::from_secs(arguments.deadline);
        let options = arguments.tables.options()?;
        return in_flight::run(
            &arguments.in_flight,
            (&old_source, &options),
            &own_source,
            deadline,
            arguments.json,
        );
    }
    let clock_mode = ClockMode::from(arguments.clock);
    let new_source = match (arguments.unlinked, &arguments.onto) {
        (true, _) => old_source.clone(),
        (false, Spec::Own) => own_source.clone(),
        (false, onto) => onto.open()?,
    };
    let is_running = !arguments.unlinked && arguments.onto == Spec::Own;
    let emulated = !is_running || clock_mode != ClockMode::Tsc;
    let (old, old_tables) = old_source.old(&arguments.tables.options()?)?;
    let processor = arguments.cpu.map(|Processor(has)| has);
    let processor = processor.unwrap_or_else(cpu_features::running);
    let outcome = outcome(
        arguments,
        &old,
        old_source.symtab.as_ref(),
        &running(&own_source)?,
        emulated.then_some(&new_source),
    )?;
    let report = Verify {
        schema: json::VERIFY,
        old: Kernel::old(&old_source, &old_tables),
        new: Kernel::new(&new_source),
        emulated,
        clock: clock_mode.to_string(),
        time_namespace: arguments.time_namespace,
        processor: json::verify::Processor::new(processor, &old),
        functions: outcome.functions.clone(),
    };
    output::print(arguments.json, &report, text(&report, &outcome))?;
    Ok(match outcome.mismatches() {
        0 => Outcome::Done,
        _ => Outcome::Refused,
    })
}

/// Verifies on the running kernel, or on the one that is to be emulated.
fn outcome(
    arguments: &Arguments,
    old: &Old,
    home: Option<&Symtab>,
    running: &Running,
    emulated: Option<&Source>,
) -> Result<VerifyOutcome> {
    let options = VerifyOptions {
        policy: arguments.strategy,
        time_namespace: arguments.time_namespace,
        rounds: arguments.rounds,
        processor: arguments.cpu.map(|Processor(has)| has),
        deadline: Duration::from_secs(arguments.deadline),
        ..VerifyOptions::default()
    };
    let Some(new) = emulated else {
        return Ok(verify(old, running, &options)?);
    };
    let emulation = Emulation {
        running,
        image: new.require_image()?,
        symtab: new.require_symtab()?,
        clock_mode: arguments.clock.into(),
    };
    Ok(match arguments.unlinked {
        true => verify_at_home(&emulation, &options)?,
        false => verify(OldImage::from(old).with_home(home), emulation, &options)?,
    })
}

fn text(report: &Verify, outcome: &VerifyOutcome) -> String {
    let mut table = output::table(&["function", "strategy", "calls", "mismatches", "reason"]);
    let mut notes = String::new();
    for function in &report.functions {
        table.add_row([
            function.name.clone(),
            function
                .strategy
                .map_or("native", Strategy::name)
                .to_owned(),
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
        if function.like_home > 0 {
            notes.push_str(&format!(
                "\n{}: {} calls differ from the system call, but not from what this vDSO says on its own kernel",
                function.name, function.like_home
            ));
        }
    }
    for lacking in &report.processor.cannot_run {
        let CannotRun {
            function,
            instructions,
        } = lacking;
        notes.push_str(&format!(
            "\n{function}: the processor cannot run the old code"
        ));
        for LackedInstruction { address, lacks } in instructions {
            notes.push_str(&format!("\n    {address:#x} needs {}", lacks.join(", ")));
        }
    }
    let mut place = match report.emulated {
        true => format!(", emulated here, counting with {}", report.clock),
        false => String::new(),
    };
    if report.time_namespace {
        place.push_str(", in a time namespace");
    }
    let calls = outcome.calls();
    let verdict = match outcome.mismatches() {
        0 => format!("all {calls} calls agree with the system calls"),
        mismatches => format!("{mismatches} of {calls} calls DIFFER from the system calls"),
    };
    let (old, new) = (&report.old, &report.new);
    format!("old  {old}\nnew  {new}{place}\n\n{table}\n{notes}\n{verdict}")
}
