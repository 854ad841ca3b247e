//! Links a process that CRIU has restored, and leaves at a dump what that takes.

use std::fmt::Write as _;

use relocator::plan::Strategy;
use relocator_criu::capture::{self, Captures};
use relocator_process::apply::outcome::{ApplyOutcome, ApplyState};
use relocator_process::apply::{self, ApplyOptions, RunningKernel};
use relocator_process::kept::TableDirectory;
use relocator_process::running;

use crate::host;
use crate::options::Options;

/// Links a process to the running kernel. What was done, in words; or why nothing was.
pub(crate) fn link(pid: i32, options: &Options) -> Result<String, String> {
    let mut directories = vec![TableDirectory::at(options.tables.clone())];
    if let Some(images) = host::image_directory() {
        directories.insert(0, capture::beside(&images));
    }
    let sources = directories.iter().flat_map(TableDirectory::sources);
    let sources: Vec<_> = sources.collect();
    let tables = Captures(directories).options();
    let kernel = RunningKernel::read(&tables).map_err(|error| relocator::in_words(&error))?;
    let options = ApplyOptions {
        tables,
        ..ApplyOptions::default()
    };
    let outcome = apply::apply_traced(pid, &kernel, &sources, &options);
    outcome
        .map(|outcome| in_words(&outcome))
        .map_err(|error| relocator::in_words(&error))
}

/// Leaves beside the images what a restore on another kernel takes. What that is, in words; or why
/// nothing was left.
pub(crate) fn capture(_options: &Options) -> Result<String, String> {
    let images = host::image_directory().ok_or("CRIU does not say where its images are")?;
    let kernel = running::own().map_err(|error| relocator::in_words(&error))?;
    let written = capture::write(&kernel, &capture::beside(&images));
    written.map_err(|error| relocator::in_words(&error))?;
    let build_id = kernel.build_id().map(ToString::to_string);
    Ok(format!(
        "captured the vDSO, tables and symbols of build-id {}",
        build_id.unwrap_or_default()
    ))
}

fn in_words(outcome: &ApplyOutcome) -> String {
    match outcome.state {
        ApplyState::Untouched => return "has no old vDSO".to_owned(),
        ApplyState::AlreadyLinked => return "is linked already".to_owned(),
        _ => {}
    }
    let mut words = String::from("linked");
    for text in &outcome.texts {
        let _ = write!(words, "; vDSO {}", text.build_id);
        for strategy in Strategy::ALL {
            let functions = text.functions.iter();
            let count = functions
                .filter(|function| function.strategy == strategy)
                .count();
            if count > 0 {
                let _ = write!(words, ", {count} {}", strategy.name());
            }
        }
    }
    let crossed = &outcome.crossed;
    let _ = write!(
        words,
        "; {} of {} threads and {} signal frames carried across; {} us",
        crossed.moved,
        crossed.threads,
        crossed.frames,
        outcome.times.commit.as_micros()
    );
    words
}
