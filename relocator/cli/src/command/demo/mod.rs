//! `relocator demo`: the main job, whole, on a process that runs.
//!
//! | module | does |
//! |---|---|
//! | `program` | the program that is worked on: threads that call libc |
//! | `clocks` | its calls |
//! | `victim` | a process with that program, as a restore leaves it |
//! | `story` | what is done, and what came of it |
//! | `screen` | the same as text |

mod clocks;
pub(crate) mod program;
mod screen;
mod story;
mod victim;

use anyhow::Result;

use crate::command::{Outcome, output};
use crate::source::Spec;

/// Show the main job on a process that runs: link it, compare, undo it.
///
/// A small program starts as a restore on another kernel leaves it: with the vDSO of an old kernel, whose vvar is gone. Its
/// clocks are compared with the system calls; then it is linked while it runs, compared again, and rolled back. No
/// privileges, no network.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The vDSO that the program comes with.
    #[arg(long, value_name = "SOURCE", default_value_t = Spec::Fixture("stock".to_owned()))]
    old: Spec,
    /// Threads that call.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let story = story::play(&arguments.old, arguments.threads)?;
    output::print(arguments.json, &story, screen::text(&story))?;
    Ok(match story.is_proved() {
        true => Outcome::Done,
        false => Outcome::Refused,
    })
}
