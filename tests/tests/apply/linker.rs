//! A program in the test bed, and the tool that works on it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use relocator::plan::Policy;
use relocator::source::Source;
use relocator::tables;
use relocator_cli::source::Spec;
use relocator_process::apply::originals::{self, Original};
use relocator_process::apply::outcome::ApplyOutcome;
use relocator_process::apply::{self, ApplyOptions, RunningKernel};
use relocator_process::kept::TableDirectory;
use relocator_tests::bed::control::COVERED;
use relocator_tests::bed::hammer::Hammer;
use relocator_tests::bed::{Bed, old_vdso};
use relocator_tests::opened::opened;
use relocator_tests::running::in_words;
use tempfile::TempDir;

pub(crate) const HAMMER: &str = env!("CARGO_BIN_EXE_hammer");

/// How long it is tried to find all threads where they can be carried across.
const PATIENCE: Duration = Duration::from_secs(60);

/// What links processes that carry one old vDSO.
pub(crate) struct Linker {
    kernel: RunningKernel,
    old: Vec<Source>,
    options: ApplyOptions,
    tables: TempDir,
}

impl Linker {
    /// For the vDSO that a source has.
    pub(crate) fn new(spec: &Spec) -> Result<Self, String> {
        Self::with_patience(spec, PATIENCE)
    }

    /// The same, with another deadline.
    pub(crate) fn with_patience(spec: &Spec, patience: Duration) -> Result<Self, String> {
        let directory = TempDir::new().map_err(|error| in_words(&error))?;
        let source = opened(spec)?;
        let tables = tables::Options {
            file: None,
            cache: Some(Arc::new(TableDirectory::at(directory.path().to_owned()))),
        };
        Ok(Self {
            kernel: RunningKernel::read(&tables).map_err(|error| in_words(&error))?,
            old: vec![source],
            options: ApplyOptions {
                tables,
                deadline: Some(patience),
                ..ApplyOptions::default()
            },
            tables: directory,
        })
    }

    /// The same for processes that are stopped, where trying it longer does not help.
    pub(crate) fn impatient(spec: &Spec) -> Result<Self, String> {
        let mut linker = Self::new(spec)?;
        linker.options.deadline = Some(PATIENCE / 60);
        Ok(linker)
    }

    /// The same, by another policy.
    pub(crate) fn by(spec: &Spec, policy: Policy) -> Result<Self, String> {
        let mut linker = Self::new(spec)?;
        linker.options.policy = policy;
        Ok(linker)
    }

    /// The same, with another deadline.
    pub(crate) fn patient(mut self, patience: Duration) -> Self {
        self.options.deadline = Some(patience);
        self
    }

    /// The same, which only says what it would do.
    pub(crate) fn dry(spec: &Spec) -> Result<Self, String> {
        let mut linker = Self::new(spec)?;
        linker.options.dry_run = true;
        Ok(linker)
    }

    /// On a machine that has never seen the old vDSO, which nobody names there. It has the tables
    /// that this one has derived, or none either.
    pub(crate) fn elsewhere(&self, has_tables: bool) -> Result<Self, String> {
        let failed = |error: std::io::Error| in_words(&error);
        let directory = TempDir::new().map_err(failed)?;
        for file in fs::read_dir(self.tables.path()).map_err(failed)? {
            let file = file.map_err(failed)?;
            let is_image = file.file_name().to_string_lossy().ends_with(".vdso.so");
            if has_tables && !is_image {
                fs::copy(file.path(), directory.path().join(file.file_name())).map_err(failed)?;
            }
        }
        let tables = tables::Options {
            file: None,
            cache: Some(Arc::new(TableDirectory::at(directory.path().to_owned()))),
        };
        Ok(Self {
            kernel: RunningKernel::read(&tables).map_err(|error| in_words(&error))?,
            old: Vec::new(),
            options: ApplyOptions {
                tables,
                ..self.options.clone()
            },
            tables: directory,
        })
    }

    /// The old vDSO of a process, as its kernel had prepared it.
    pub(crate) fn original(&self, pid: i32) -> Result<Original, String> {
        let all = originals::of(pid, &self.kernel, &self.old, &self.options.tables);
        let all = all.map_err(|error| in_words(&error))?;
        all.into_iter()
            .next()
            .ok_or_else(|| "no old vDSO".to_owned())
    }

    pub(crate) fn apply(&self, pid: i32) -> Result<ApplyOutcome, String> {
        apply::apply(pid, &self.kernel, &self.old, &self.options).map_err(|error| in_words(&error))
    }

    pub(crate) fn prepare(&self, pid: i32) -> Result<ApplyOutcome, String> {
        apply::prepare(pid, &self.kernel, &self.old, &self.options)
            .map_err(|error| in_words(&error))
    }

    pub(crate) fn roll_back(&self, pid: i32) -> Result<ApplyOutcome, String> {
        apply::rollback(pid, &self.kernel, &self.old, &self.options)
            .map_err(|error| in_words(&error))
    }
}

/// A hammer on a bed for the vDSO that a source has. What CRIU's jumps cover has to be right from
/// the beginning.
pub(crate) fn hammer(spec: &Spec, threads: usize, idle: usize) -> Result<Hammer, String> {
    hammer_on(spec, threads, idle, None)
}

/// The same with all stacks in one mapping of that many bytes, if they are given.
pub(crate) fn hammer_on(
    spec: &Spec,
    threads: usize,
    idle: usize,
    stacks: Option<usize>,
) -> Result<Hammer, String> {
    let mut bed = Bed::new(old_vdso(spec)?);
    bed.gives_way = true;
    let hammer = Hammer::start_on(&bed, Path::new(HAMMER), threads, idle, stacks)?;
    hammer.control.set_right(COVERED);
    Ok(hammer)
}

/// Says what is wrong, if anything is.
pub(crate) fn check(hammer: &mut Hammer) -> Result<(), String> {
    hammer.check_alive()?;
    let counts = hammer.control.counts();
    match counts.first {
        Some(first) => Err(format!("{} failures, first: {first}", counts.failures)),
        None => Ok(()),
    }
}
