//! Links a process that CRIU has restored, and leaves at a dump what that takes.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use relocator::plan::Strategy;
use relocator::source::Source;
use relocator::tables;
use relocator_criu::capture;
use relocator_process::apply::outcome::{ApplyOutcome, ApplyState};
use relocator_process::apply::{self, ApplyOptions, RunningKernel};
use relocator_process::kept::TableDirectory;
use relocator_process::running;

use crate::host;
use crate::options::Options;

/// What is the same for all processes of a restore.
struct Restore {
    kernel: RunningKernel,
    /// Old vDSOs, with the symbols of their kernels.
    sources: Vec<Source>,
    options: ApplyOptions,
    /// What lies beside the images.
    captured: Option<TableDirectory>,
    /// What is kept on this machine.
    kept: TableDirectory,
}

impl Restore {
    /// Reads all of that once: CRIU restores one tree of processes, and is gone then.
    fn get(options: &Options) -> Result<&'static Self, &'static str> {
        static RESTORE: OnceLock<Result<Restore, String>> = OnceLock::new();
        let read = RESTORE.get_or_init(|| Self::read(options));
        read.as_ref().map_err(String::as_str)
    }

    fn read(options: &Options) -> Result<Self, String> {
        let kept = TableDirectory::at(options.tables.clone());
        let captured = host::image_directory().map(|images| capture::beside(&images));
        let directories = captured.iter().chain([&kept]);
        let sources = directories.flat_map(TableDirectory::sources).collect();
        let tables = tables::Options {
            file: None,
            cache: Some(Arc::new(kept.clone())),
        };
        let tables = match &captured {
            Some(captured) => capture::before(captured, tables),
            None => tables,
        };
        let kernel = RunningKernel::read(&tables).map_err(|error| relocator::in_words(&error))?;
        Ok(Self {
            kernel,
            sources,
            options: ApplyOptions {
                tables,
                ..ApplyOptions::default()
            },
            captured,
            kept,
        })
    }

    /// Keeps what served a process: it may be dumped here, and be restored elsewhere.
    fn keep(&self, outcome: &ApplyOutcome) {
        let Some(captured) = &self.captured else {
            return;
        };
        for text in &outcome.texts {
            if let Ok(build_id) = text.build_id.parse() {
                self.kept.copy_from(captured, &build_id);
            }
        }
    }
}

/// Links a process to the running kernel. What was done, in words; or why nothing was.
pub(crate) fn link(pid: i32, options: &Options) -> Result<String, String> {
    let restore = Restore::get(options)?;
    let (kernel, sources) = (&restore.kernel, &restore.sources);
    let outcome = apply::apply_traced(pid, kernel, sources, &restore.options);
    let outcome = outcome.map_err(|error| relocator::in_words(&error))?;
    restore.keep(&outcome);
    Ok(in_words(&outcome))
}

/// Leaves beside the images what a restore on another kernel takes. What that is, in words; or why
/// nothing was left.
pub(crate) fn capture(options: &Options) -> Result<String, String> {
    let images = host::image_directory().ok_or("CRIU does not say where its images are")?;
    let kernel = running::own().map_err(|error| relocator::in_words(&error))?;
    let kept = TableDirectory::at(options.tables.clone());
    let captured = capture::capture(&images, &kernel, Some(&kept));
    let captured = captured.map_err(|error| relocator::in_words(&error))?;
    Ok(captured.to_string())
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
