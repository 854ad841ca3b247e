//! A program in the test bed, and the tool that works on it.

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use relocator::apply::report::Outcome;
use relocator::apply::{self, Options, RunningKernel};
use relocator::source::{Source, Spec};
use relocator::tables::{self, Cache};
use relocator_tests::bed::control::{self, Control, Counts};
use relocator_tests::bed::{Bed, OldVdso, Restored};
use relocator_tests::running::in_words;
use tempfile::TempDir;

/// How long a program is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What links processes that carry one old vDSO.
pub(crate) struct Linker {
    kernel: RunningKernel,
    old: Vec<Source>,
    options: Options,
    _tables: TempDir,
}

impl Linker {
    /// For the vDSO that a source has.
    pub(crate) fn new(spec: &Spec) -> Result<Self, String> {
        let directory = TempDir::new().map_err(|error| in_words(&error))?;
        let source = Source::open(spec).map_err(|error| in_words(&error))?;
        let tables = tables::Options {
            file: None,
            cache: Some(Cache::at(directory.path().to_owned())),
        };
        Ok(Self {
            kernel: RunningKernel::read().map_err(|error| in_words(&error))?,
            old: vec![source],
            options: Options {
                tables,
                deadline: Some(PATIENCE),
                ..Options::default()
            },
            _tables: directory,
        })
    }

    pub(crate) fn apply(&self, pid: i32) -> Result<Outcome, String> {
        apply::apply(pid, &self.kernel, &self.old, &self.options).map_err(|error| in_words(&error))
    }

    pub(crate) fn roll_back(&self, pid: i32) -> Result<Outcome, String> {
        apply::rollback(pid, &self.kernel, &self.old, &self.options)
            .map_err(|error| in_words(&error))
    }
}

/// A hammer in the bed.
pub(crate) struct Hammer {
    pub(crate) restored: Restored,
    pub(crate) control: Control,
    _page: File,
}

impl Hammer {
    pub(crate) fn start(bed: &Bed, threads: usize, idle: usize) -> Result<Self, String> {
        let page = tempfile::NamedTempFile::new().map_err(|error| in_words(&error))?;
        let set = page.as_file().set_len(control::SIZE as u64);
        set.map_err(|error| in_words(&error))?;
        let control = Control::map(page.as_file()).map_err(|error| in_words(&error))?;
        control.set_right(control::COVERED);
        let mut command = Command::new(env!("CARGO_BIN_EXE_hammer"));
        command
            .args(["--threads", &threads.to_string()])
            .args(["--idle", &idle.to_string(), "--control"])
            .arg(page.path())
            .stdin(Stdio::null());
        let restored = bed.launch(command)?;
        let hammer = Self {
            restored,
            control,
            _page: page.into_file(),
        };
        let all = threads.max(1) as u64;
        hammer.wait_until("it begins", |counts| {
            counts.ready >= all && counts.called[0] > 0
        })?;
        Ok(hammer)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.restored.pid()
    }

    /// Waits, as long as nothing is wrong.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        condition: impl Fn(&Counts) -> bool,
    ) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let counts = self.control.counts();
            if condition(&counts) {
                return Ok(());
            }
            self.check()?;
            if started.elapsed() > PATIENCE {
                return Err(format!("it never happens that {what}: {counts:?}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Says what is wrong, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let counts = self.control.counts();
        match counts.first {
            Some(first) => Err(format!("{} failures, first: {first}", counts.failures)),
            None => Ok(()),
        }
    }

    /// Ends it, which must end well.
    pub(crate) fn finish(mut self) -> Result<Counts, String> {
        self.control.stop();
        let started = Instant::now();
        loop {
            let ended = self.restored.child.try_wait();
            if let Some(status) = ended.map_err(|error| in_words(&error))? {
                self.check()?;
                return match status.success() {
                    true => Ok(self.control.counts()),
                    false => Err(format!("the hammer ended with {status}")),
                };
            }
            if started.elapsed() > PATIENCE {
                return Err("the hammer hangs".to_owned());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A bed for the vDSO that a source has.
pub(crate) fn bed(spec: &Spec) -> Result<Bed, String> {
    Ok(Bed::new(OldVdso::open(spec)?))
}
