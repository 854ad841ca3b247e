//! `relocator check`

mod old;
mod report;
mod text;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};
use relocator::plan::Policy;
use relocator::source::Source;
use relocator_criu::check::{CheckedTask, Onto, check};
use relocator_criu::task::Task;
use relocator_criu::{Images, capture, check};
use relocator_process::apply::{ApplyOptions, RunningKernel};
use relocator_process::kept::TableDirectory;
use relocator_process::running;

use crate::command::processor::Processor;
use crate::command::tables::{OldTables, kept};
use crate::command::{Outcome, output, words};
use crate::source::Spec;
use old::OldKernel;

/// Say whether a checkpoint can be restored on a kernel and linked there, and why not.
///
/// Reads the images of a dump by CRIU, or looks at a process that is to be dumped, and changes
/// nothing. The answer is for each task: where its threads are, in its vDSO and in signal frames;
/// what would become of each function of the vDSO; and what a restore by CRIU alone would break.
/// The exit status is 0 for yes, 1 for no, and 2 if the images cannot be read.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A directory of images, an unpacked checkpoint of a container, or a process (pid:N).
    #[arg(value_name = "IMAGES|pid:N")]
    checked: Checked,
    /// The kernel to restore on.
    #[arg(long, value_name = "SOURCE", default_value_t = Spec::Own)]
    onto: Spec,
    /// The kernel of the dump. Needed only if this machine has never seen its vDSO. Besides sources:
    /// a release as `uname -r` prints it, or a file in which a container engine has written that
    /// (the annotation org.criu.checkpoint.host.kernel). May be repeated.
    #[arg(long, value_name = "SOURCE|RELEASE|FILE")]
    old: Vec<OldKernel>,
    #[command(flatten)]
    tables: OldTables,
    /// The processor to restore on: a list such as `self,-rdpid`, or a file like /proc/cpuinfo.
    #[arg(long, value_name = "FEATURES|FILE", default_value = "self")]
    cpu: Processor,
    /// Which strategies may be used.
    #[arg(long, value_parser = words::policy(), default_value_t)]
    strategy: Policy,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Checked {
    Images(PathBuf),
    Process(i32),
}

impl FromStr for Checked {
    type Err = crate::Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        match text.starts_with("pid:") {
            true => match text.parse()? {
                Spec::Pid(pid) => Ok(Self::Process(pid)),
                _ => Ok(Self::Images(text.into())),
            },
            false => Ok(Self::Images(text.into())),
        }
    }
}

impl Checked {
    /// What a dump has left beside the images, wherever the images are in a checkpoint.
    fn captured(&self) -> Option<TableDirectory> {
        match self {
            Self::Images(path) => Some(capture::beside(path)),
            Self::Process(_) => None,
        }
    }
}

impl std::fmt::Display for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Images(path) => path.display().fmt(f),
            Self::Process(pid) => write!(f, "pid:{pid}"),
        }
    }
}

/// What was found.
struct Found {
    tasks: Vec<CheckedTask>,
    /// The processors of the dump, if the images say.
    processors: Option<relocator_criu::images::DumpedProcessors>,
    makes_time_namespace: bool,
    notes: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let kernel = kernel(&arguments.onto)?.on_processor(arguments.cpu.0);
    let captured = arguments.checked.captured();
    let tables = arguments.tables.options()?;
    let options = ApplyOptions {
        policy: arguments.strategy,
        tables: match &captured {
            Some(captured) => capture::before(captured, tables),
            None => tables,
        },
        ..ApplyOptions::default()
    };
    let (named, notes) = named(&arguments.old)?;
    // The images may be of this very machine.
    let mut old: Vec<Source> = named.iter().map(|(_, source)| source.clone()).collect();
    old.extend(captured.iter().flat_map(TableDirectory::sources));
    match arguments.onto {
        Spec::Own => old.push(kernel.source().clone()),
        _ => old.extend(running::own().ok()),
    }
    let onto = Onto {
        kernel: &kernel,
        old: &old,
        options: &options,
        makes_time_namespace: true,
    };
    let mut found = match &arguments.checked {
        Checked::Images(path) => of_images(path, onto)?,
        Checked::Process(pid) => of_process(*pid, onto)?,
    };
    found.notes.extend(notes);
    check_named(&named, &mut found)?;
    let report = report::report(arguments, &kernel, &found);
    let text = text::text(&report);
    output::print(arguments.json, &report, text)?;
    Ok(match report.yes {
        true => Outcome::Done,
        false => Outcome::Refused,
    })
}

/// Kernels that the user has named, as they were named.
type Named<'a> = Vec<(&'a OldKernel, Source)>;

/// Opens the kernels that the user has named. A release is a hint: what is not to be had by it is a
/// note.
fn named(all: &[OldKernel]) -> Result<(Named<'_>, Vec<String>)> {
    let (mut named, mut notes) = (Vec::new(), Vec::new());
    for kernel in all {
        match (kernel, kernel.open()) {
            (_, Ok(source)) => named.push((kernel, source)),
            (OldKernel::Release(release), Err(error)) => notes.push(format!(
                "the kernel {release} is not to be had: {}",
                relocator::in_words(&error)
            )),
            (OldKernel::Source(_), Err(error)) => return Err(error.into()),
        }
    }
    Ok((named, notes))
}

/// The kernel to restore on.
fn kernel(onto: &Spec) -> Result<RunningKernel> {
    Ok(match onto {
        Spec::Own => RunningKernel::read(&kept())?,
        other => check::kernel(other.open()?, &kept())?,
    })
}

fn of_images(path: &Path, onto: Onto<'_>) -> Result<Found> {
    let images = Images::open(path)?;
    let onto = Onto {
        makes_time_namespace: images.has_time_namespace,
        ..onto
    };
    let tasks = images.tasks().map(|task| check(&task?, &onto));
    Ok(Found {
        tasks: tasks.collect::<relocator_criu::Result<_>>()?,
        processors: images.processors.clone(),
        makes_time_namespace: images.has_time_namespace,
        notes: Vec::new(),
    })
}

fn of_process(pid: i32, onto: Onto<'_>) -> Result<Found> {
    let task = Task::of_process(pid)?;
    let running = task.seen.iter().flatten().filter(|one| one.pc.is_none());
    let notes = match running.count() {
        0 => Vec::new(),
        running => vec![format!(
            "{running} threads run, so where a dump will find them is unknown; a thread inside the vDSO goes back to \
             the entry of its function"
        )],
    };
    Ok(Found {
        tasks: vec![check(&task, &onto)?],
        processors: None,
        makes_time_namespace: onto.makes_time_namespace,
        notes,
    })
}

/// A kernel that the user has named should be one of those that the tasks come from.
fn check_named(named: &Named<'_>, found: &mut Found) -> Result<()> {
    for (kernel, source) in named {
        let is_used = found
            .tasks
            .iter()
            .any(|task| task.build_id.as_ref() == source.build_id());
        if is_used {
            continue;
        }
        let build_id = source
            .build_id()
            .map_or_else(|| "none".to_owned(), ToString::to_string);
        let what = format!(
            "no task has the vDSO of {} (build-id {build_id})",
            source.name
        );
        match kernel {
            OldKernel::Source(_) => bail!("{what}"),
            OldKernel::Release(release) => found.notes.push(format!(
                "{what}: {release} is another build than the newest one of that version"
            )),
        }
    }
    Ok(())
}
