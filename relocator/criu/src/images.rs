//! A directory of images: what it is, and the tasks in it.

use std::collections::BTreeSet;
use std::path::Path;

use elf_tools::processor::ProcessorFeatures;

use crate::arch::Processors;
use crate::directory::{Directory, Held, INVENTORY};
use crate::files::FileNames;
use crate::image_file::{Format, ImageFile, Kind};
use crate::messages::{Inventory, TaskEntry, TimeNamespace};
use crate::task::Task;
use crate::{Compression, Error, Fault, Result, Unsupported};

/// Most tasks and threads of one directory: the most that Linux can number.
const MOST: usize = 1 << 22;

/// A directory of images.
#[derive(Debug)]
pub struct Images {
    pub(crate) directory: Directory,
    pub(crate) format: Format,
    pub(crate) files: FileNames,
    entries: Vec<Entry>,
    /// The processors of the machine that made the dump, if the dump says (`--cpu-cap`).
    pub processors: Option<DumpedProcessors>,
    /// Whether the tasks were in a time namespace, or are to be put into one: a restore makes a new
    /// one then.
    pub has_time_namespace: bool,
}

/// The processors of the machine that made a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedProcessors {
    /// What all of them could execute.
    pub features: ProcessorFeatures,
    /// What the first one is called, if that is known.
    pub model: Option<String>,
}

/// A task in the list of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number in its own namespace.
    pub(crate) pid: u32,
    /// That of its parent; 0 of the first.
    pub(crate) parent: u32,
    /// Those of its threads.
    pub(crate) threads: Vec<u32>,
}

impl Images {
    /// Opens the images in a directory, or in the directory `checkpoint` of it, as an unpacked
    /// checkpoint of a container has it.
    ///
    /// Errors: [`Error::Unsupported`] if it is something else, and others of [`Error`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(Directory::open(path)?)
    }

    /// Opens images that are in memory.
    pub fn held(files: Held) -> Result<Self> {
        Self::read(Directory::held(files))
    }

    fn read(directory: Directory) -> Result<Self> {
        let format = format(&directory)?;
        let entries = entries(&directory, format)?;
        Ok(Self {
            files: FileNames::read(&directory, format)?,
            processors: processors(&directory, format)?,
            has_time_namespace: has_time_namespace(&directory, format)?,
            directory,
            format,
            entries,
        })
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tasks, each with all that is in its own images. They are read one by one.
    pub fn tasks(&self) -> impl Iterator<Item = Result<Task>> + '_ {
        self.entries.iter().map(|entry| Task::read(self, entry))
    }
}

fn format(directory: &Directory) -> Result<Format> {
    let unsupported = |reason| Error::Unsupported {
        path: directory.name(INVENTORY),
        reason,
    };
    let mut file =
        ImageFile::inventory(directory)?.ok_or_else(|| unsupported(Unsupported::NoInventory))?;
    let (at, inventory) = file.first::<Inventory>()?;
    let version = inventory.version;
    let version = version.ok_or_else(|| file.fault(at, Fault::Missing("version")))?;
    let format = Format::of(version).ok_or_else(|| file.fault(at, Fault::Version(version)))?;
    match inventory.compression {
        None | Some(0 | 1) => Ok(format),
        Some(mode) => Err(file.fault(at, Fault::Compressed(Compression::Mode(mode)))),
    }
}

fn entries(directory: &Directory, format: Format) -> Result<Vec<Entry>> {
    const NAME: &str = "pstree.img";
    let file = ImageFile::open(directory, NAME, Kind::Tasks, format)?;
    let mut file = file.ok_or_else(|| Error::Unsupported {
        path: directory.name(NAME),
        reason: Unsupported::PreDump,
    })?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut numbers = BTreeSet::new();
    while let Some((at, entry)) = file.message::<TaskEntry>()? {
        let missing = || file.fault(at, Fault::Missing("number of a task"));
        let pid = entry.pid.ok_or_else(missing)?;
        let threads = match entry.threads.is_empty() {
            true => vec![pid],
            false => entry.threads,
        };
        for &number in &threads {
            let wrong = match i32::try_from(number) {
                Err(_) | Ok(0) => "cannot be",
                Ok(_) if !numbers.insert(number) => "is there twice",
                Ok(_) => continue,
            };
            return Err(file.fault(at, Fault::number("thread", number, wrong)));
        }
        if numbers.len() > MOST {
            return Err(file.fault(at, Fault::TooMany(MOST)));
        }
        if !threads.contains(&pid) {
            let fault = Fault::number("task", pid, "is none of its threads");
            return Err(file.fault(at, fault));
        }
        let parent = entry.parent.unwrap_or(0);
        entries.push(Entry {
            pid,
            parent,
            threads,
        });
    }
    match entries.is_empty() {
        true => Err(file.fault(file.offset(), Fault::Empty)),
        false => Ok(entries),
    }
}

fn processors(directory: &Directory, format: Format) -> Result<Option<DumpedProcessors>> {
    let file = ImageFile::open(directory, "cpuinfo.img", Kind::Processors, format)?;
    let Some(mut file) = file else {
        return Ok(None);
    };
    let (_, processors) = file.first::<Processors>()?;
    let features = processors.features();
    Ok(features.map(|features| DumpedProcessors {
        features,
        model: processors.model().map(str::to_owned),
    }))
}

/// Whether there is an image of a time namespace. Its number is always 0, as a tree has only one.
fn has_time_namespace(directory: &Directory, format: Format) -> Result<bool> {
    let file = ImageFile::open(directory, "timens-0.img", Kind::TimeNamespace, format)?;
    let Some(mut file) = file else {
        return Ok(false);
    };
    let (_, _offsets) = file.first::<TimeNamespace>()?;
    Ok(true)
}
