//! What links in benchmarks: a kernel, an old vDSO whose tables are kept, and a bed.

use std::sync::Arc;
use std::time::Duration;

use kernel_source::Cache;
use relocator::source::Source;
use relocator::tables;
use relocator_cli::source::Spec;
use relocator_process::apply::{ApplyOptions, RunningKernel};
use relocator_process::kept::TableDirectory;
use tempfile::TempDir;

use crate::bed::{Bed, old_vdso};

/// What links.
pub struct Tool {
    /// What it links to.
    pub kernel: RunningKernel,
    /// What processes were checkpointed with.
    pub old: Vec<Source>,
    /// How it links.
    pub options: ApplyOptions,
    /// Where processes are started.
    pub bed: Bed,
    _tables: TempDir,
}

impl Tool {
    /// With the vDSO of a kernel, if that has been fetched, and of a fixture otherwise. Threads have
    /// `patience` to be where they can be carried across.
    ///
    /// # Panics
    ///
    /// If one of these cannot be read.
    pub fn new((kernel, fixture): (&str, &str), patience: Duration) -> Self {
        let spec = match Cache::locate().cached(kernel) {
            Some(_) => Spec::Kernel(kernel.to_owned()),
            None => Spec::Fixture(fixture.to_owned()),
        };
        eprintln!("old vDSO: {spec}");
        let tables = TempDir::new().expect("a directory");
        Self {
            kernel: RunningKernel::read(&tables::Options::default())
                .expect("a kernel that can be linked to"),
            old: vec![spec.open().expect("an old vDSO")],
            options: ApplyOptions {
                tables: tables::Options {
                    file: None,
                    cache: Some(Arc::new(TableDirectory::at(tables.path().to_owned()))),
                },
                deadline: Some(patience),
                ..ApplyOptions::default()
            },
            bed: Bed::new(old_vdso(&spec).expect("an old vDSO")),
            _tables: tables,
        }
    }
}
