//! `relocator step-out`

use std::fmt::Write;
use std::time::Duration;

use crate::json;
use crate::json::step_out::{MovedThread, StepOut, StuckContext, Vdso};
use anyhow::Result;
use relocator_process::step_out::{
    self, Moved, StepOutOptions as Options, Stuck, VdsoPlace as Place,
};

use crate::command::{Outcome, output};

/// Lead the threads of a process out of its vDSO, so that a checkpoint holds none inside.
///
/// Afterwards the process is stopped as by SIGSTOP, so that no thread enters the vDSO again before
/// the dump. SIGCONT lets it go on; a process that is restored from that dump is stopped as well,
/// and needs SIGCONT. A process that was stopped before stays stopped.
///
/// Threads in system calls stay as they are. No signal is lost, and no signal mask changes. A
/// context that a signal interrupted inside the vDSO leaves it when the handler returns. If that
/// takes too long, the command reports it and exits with 1; the process is stopped then as well.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The process.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// Let the process go on afterwards.
    #[arg(long)]
    resume: bool,
    /// How long to wait until every thread is outside, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    deadline: u64,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let options = Options {
        resume: arguments.resume,
        deadline: Duration::from_secs(arguments.deadline),
        ..Options::default()
    };
    let outcome = step_out::step_out(arguments.pid, &options)?;
    output::print_done(arguments.json, &report(&outcome), text(&outcome))?;
    Ok(match outcome.stuck.is_empty() {
        true => Outcome::Done,
        false => Outcome::Refused,
    })
}

fn report(outcome: &step_out::StepOutOutcome) -> StepOut {
    let vdso = |range: &std::ops::Range<elf_tools::Avma>| Vdso {
        address: range.start.0,
        size: range.end.0.saturating_sub(range.start.0),
    };
    let moved = |moved: &Moved| MovedThread {
        thread: moved.thread,
        address: moved.from.address.0,
        offset: moved.from.image.0,
        runs: moved.runs,
        steps: moved.steps,
    };
    let stuck = |stuck: &Stuck| StuckContext {
        thread: stuck.thread,
        address: stuck.place.address.0,
        offset: stuck.place.image.0,
        frame: stuck.frame.map(|frame| frame.0),
        reason: stuck.reason.to_string(),
    };
    StepOut {
        schema: json::STEP_OUT,
        pid: outcome.pid,
        stopped: outcome.stopped,
        threads: outcome.threads,
        attempts: outcome.attempts,
        vdsos: outcome.vdsos.iter().map(vdso).collect(),
        moved: outcome.moved.iter().map(moved).collect(),
        stuck: outcome.stuck.iter().map(stuck).collect(),
        left_out: json::ranges(&outcome.left_out),
    }
}

fn text(outcome: &step_out::StepOutOutcome) -> String {
    let mut table = output::table(&["thread", "was at", "in the image", "now"]);
    let mut row = |thread: i32, place: &Place, now: String| {
        table.add_row([
            thread.to_string(),
            place.address.to_string(),
            place.image.to_string(),
            now,
        ]);
    };
    for moved in &outcome.moved {
        let how = match moved.steps {
            0 => format!("outside, let run {} times", moved.runs),
            steps => format!("outside, {steps} steps"),
        };
        row(moved.thread, &moved.from, how);
    }
    for stuck in &outcome.stuck {
        let frame = stuck
            .frame
            .map_or(String::new(), |at| format!("in the frame at {at}: "));
        row(
            stuck.thread,
            &stuck.place,
            format!("INSIDE, {frame}{}", stuck.reason),
        );
    }
    let mut text = String::new();
    if !outcome.moved.is_empty() || !outcome.stuck.is_empty() {
        let _ = writeln!(text, "{table}\n");
    }
    output::left_out(&mut text, &outcome.left_out);
    let state = match outcome.stopped {
        true => "stopped",
        false => "running",
    };
    let verdict = match outcome.stuck.len() {
        0 => "nothing is inside the vDSO".to_owned(),
        count => format!("{count} contexts are still inside the vDSO"),
    };
    let _ = write!(
        text,
        "process {} is {state}: {} threads, {verdict}",
        outcome.pid, outcome.threads
    );
    text
}
