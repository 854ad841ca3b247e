//! One process in images.

use std::ops::Range;

use bytes::Bytes;
use elf_tools::Avma;
use relocator::threads::frames::merge;
use relocator::threads::{Memory, Populated, Thread};
use relocator_process::targets::live::Running;
use relocator_process::targets::{Growth, Whereabouts};

use crate::arch::{Core, MACHINE};
use crate::image_file::{ImageFile, Kind};
use crate::images::{Entry, Images};
use crate::mapping::{DumpedMapping, Role};
use crate::messages::{AddressSpace, TaskCore};
use crate::pages::{Page, Pages};
use crate::{Error, Fault, Result, Unsupported};

/// Which entry of the auxiliary vector says where the vDSO is: `AT_SYSINFO_EHDR`.
const AUXILIARY_VDSO: u64 = 33;

/// Which limit is that of the stack: `RLIMIT_STACK`.
const LIMIT_STACK: usize = 3;

/// A process in images.
#[derive(Debug)]
pub struct Task {
    /// Its number in its own namespace.
    pub pid: i32,
    /// That of its parent; 0 of the first task of the tree.
    pub parent: i32,
    /// Its name, as in `/proc/PID/comm`.
    pub name: String,
    /// Whether it had ended and nobody had waited for it: it has no memory and executes nothing.
    pub has_ended: bool,
    /// Its threads, the first one first. None of a task that had ended.
    pub threads: Vec<DumpedThread>,
    /// Its mappings, lowest first.
    pub mappings: Vec<DumpedMapping>,
    /// Pages within them where each access fails (`MADV_GUARD_INSTALL`), lowest first.
    pub guards: Vec<Range<Avma>>,
    /// Where its auxiliary vector says that its vDSO is.
    pub auxv_vdso: Option<Avma>,
    /// What its stack and its heap may still take.
    pub growth: Growth,
    /// Of a process that runs, where its threads are, as far as that shows: `threads` has none then.
    pub seen: Option<Vec<Whereabouts>>,
    /// Its memory.
    pub(crate) content: Content,
}

/// The memory of a task.
#[derive(Debug)]
pub(crate) enum Content {
    /// It has none.
    None,
    /// It is in images.
    Images(Pages),
    /// It is in a process that runs.
    Live(Running),
}

impl Content {
    /// Reads a part of one page.
    pub(crate) fn read(&self, at: Avma, bytes: &mut [u8]) -> Result<Page> {
        match self {
            Self::None => Ok(Page::Absent),
            Self::Images(pages) => pages.read(at, bytes),
            Self::Live(process) => Ok(match process.read(at, bytes) {
                true => Page::Read,
                false => Page::Unreadable,
            }),
        }
    }

    /// What may hold something else than zeros.
    pub(crate) fn populated(&self, range: Range<Avma>, enough: u64) -> Populated {
        let end = range.end;
        let parts = match self {
            Self::None => Vec::new(),
            Self::Images(pages) => pages.present_in(range).collect(),
            Self::Live(process) => return process.populated(range, enough),
        };
        Populated {
            parts,
            absent: Vec::new(),
            end,
            at_guard: false,
        }
    }
}

/// A thread in images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedThread {
    /// Its number, and the registers that it goes on with.
    pub thread: Thread,
    /// Its name, if it has one of its own.
    pub name: Option<String>,
    /// The signals that it blocks, a bit each.
    pub blocked: u64,
    /// Where its handlers run, if it has given them a stack.
    pub alternate_stack: Option<Range<Avma>>,
    /// Whether it executes code of another mode than 64-bit programs do.
    pub executes_other_code: bool,
}

/// `TASK_ALIVE` and `TASK_STOPPED` of CRIU's `compel/include/uapi/task-state.h`. Others have ended,
/// or are helpers of a restore.
const LIVE_STATES: [u32; 2] = [1, 3];

impl Task {
    pub(crate) fn read(images: &Images, entry: &Entry) -> Result<Self> {
        let (name, core) = core(images, entry.pid)?;
        let task = core.task.clone().unwrap_or_default();
        let mut read = Self {
            pid: entry.pid.cast_signed(),
            parent: entry.parent.cast_signed(),
            name: task.name.clone().unwrap_or_default(),
            has_ended: !LIVE_STATES.contains(&task.state.unwrap_or(0)),
            threads: Vec::new(),
            mappings: Vec::new(),
            guards: Vec::new(),
            auxv_vdso: None,
            growth: Growth::default(),
            seen: None,
            content: Content::None,
        };
        if read.has_ended {
            return Ok(read);
        }
        read.threads.reserve(entry.threads.len());
        for &number in &entry.threads {
            let thread = match number == entry.pid {
                true => thread(number, &name, &core)?,
                false => {
                    let (name, core) = self::core(images, number)?;
                    thread(number, &name, &core)?
                }
            };
            read.threads.push(thread);
        }
        read.read_memory(images, entry.pid, &task)?;
        Ok(read)
    }

    fn read_memory(&mut self, images: &Images, pid: u32, task: &TaskCore) -> Result<()> {
        let name = format!("mm-{pid}.img");
        let file = ImageFile::open(&images.directory, &name, Kind::AddressSpace, images.format)?;
        let mut file = file.ok_or_else(|| Error::Image {
            file: images.directory.name(&name),
            offset: 0,
            fault: Fault::Missing("file with the mappings of a task"),
        })?;
        let (at, space) = file.first::<AddressSpace>()?;
        let all = mappings(images, space.mappings).map_err(|fault| file.fault(at, fault))?;
        let (guards, mappings) = all.into_iter().partition(|one| one.role == Role::Guard);
        self.mappings = mappings;
        self.name_stack(space.stack.map(Avma));
        let guards: Vec<DumpedMapping> = guards;
        let guards: Vec<Range<Avma>> = guards.into_iter().map(|one| one.range).collect();
        self.guards = merge(&guards);
        self.auxv_vdso = vdso_of(&space.auxiliary);
        self.growth = Growth {
            stack: stack_limit(task),
            heap: space.heap.map(Avma),
        };
        if let Some(pages) = Pages::open(&images.directory, pid, images.format)? {
            let private = self.mappings.iter().filter(|one| one.is_private());
            let private: Vec<Range<Avma>> = private.map(|one| one.range.clone()).collect();
            pages.check(&private)?;
            self.content = Content::Images(pages);
        }
        Ok(())
    }

    /// Gives the main stack the name that it has in `/proc/PID/maps`, which images do not say.
    fn name_stack(&mut self, inside: Option<Avma>) {
        let is_it = |one: &&mut DumpedMapping| inside.is_some_and(|at| one.range.contains(&at));
        let stack = self.mappings.iter_mut().find(is_it);
        if let Some(stack) = stack.filter(|stack| stack.name.is_empty() && stack.is_private()) {
            "[stack]".clone_into(&mut stack.name);
        }
    }

    /// The mapping that an address is in.
    pub fn mapping_of(&self, at: Avma) -> Option<&DumpedMapping> {
        let first = self.mappings.partition_point(|one| one.range.end <= at);
        let mapping = self.mappings.get(first)?;
        mapping.range.contains(&at).then_some(mapping)
    }

    /// The guard pages that an address is in, or that are behind it.
    pub(crate) fn guard_from(&self, at: Avma) -> Option<&Range<Avma>> {
        let first = self.guards.partition_point(|guard| guard.end <= at);
        self.guards.get(first)
    }

    /// Where the mappings of a role are, lowest first.
    pub fn ranges_of(&self, role: Role) -> impl Iterator<Item = &Range<Avma>> {
        let all = self.mappings.iter().filter(move |one| one.role == role);
        all.map(|one| &one.range)
    }

    /// Its memory as it was dumped; `None` of a task that had ended, and of a process that runs.
    pub fn pages(&self) -> Option<&Pages> {
        match &self.content {
            Content::Images(pages) => Some(pages),
            Content::None | Content::Live(_) => None,
        }
    }
}

/// The core of a thread, with the name of its file.
fn core(images: &Images, number: u32) -> Result<(String, Core)> {
    let name = format!("core-{number}.img");
    let path = images.directory.name(&name);
    let file = ImageFile::open(&images.directory, &name, Kind::Core, images.format)?;
    let mut file = file.ok_or_else(|| Error::Image {
        file: path.clone(),
        offset: 0,
        fault: Fault::Missing("file with the registers of a thread"),
    })?;
    let (at, core) = file.first::<Core>()?;
    match core.machine {
        Some(MACHINE) => Ok((path, core)),
        Some(other) => Err(Error::Unsupported {
            path,
            reason: Unsupported::Machine(other),
        }),
        None => Err(file.fault(at, Fault::Missing("architecture"))),
    }
}

fn thread(number: u32, file: &str, core: &Core) -> Result<DumpedThread> {
    let registers = core.registers().ok_or_else(|| Error::Image {
        file: file.to_owned(),
        offset: 0,
        fault: Fault::Missing("whole set of registers"),
    })?;
    let own = core.thread.as_ref();
    let stack = own.and_then(|own| own.alternate_stack);
    let stack = stack.and_then(|stack| {
        let start = stack.start?;
        let end = start.checked_add(stack.size?)?;
        (start < end).then_some(Avma(start)..Avma(end))
    });
    Ok(DumpedThread {
        thread: Thread {
            id: number.cast_signed(),
            registers,
        },
        name: own.and_then(|own| own.name.clone()),
        blocked: own.and_then(|own| own.blocked).unwrap_or(0),
        alternate_stack: stack,
        executes_other_code: core.executes_other_code(),
    })
}

/// Mappings in the order of the file. Guard pages, which are listed last, are within others.
fn mappings(images: &Images, entries: Vec<Bytes>) -> Result<Vec<DumpedMapping>, Fault> {
    let read = |entry| DumpedMapping::read(entry, &images.files);
    let all: Vec<DumpedMapping> = entries.into_iter().map(read).collect::<Result<_, _>>()?;
    let mut last = Avma(0);
    for mapping in all.iter().filter(|one| one.role != Role::Guard) {
        if mapping.range.start < last {
            let what = "mappings";
            let at = mapping.range.start;
            return Err(Fault::Order { what, at });
        }
        last = mapping.range.end;
    }
    Ok(all)
}

/// Where an auxiliary vector says that the vDSO is.
fn vdso_of(auxiliary: &[u64]) -> Option<Avma> {
    let mut pairs = auxiliary.chunks_exact(2);
    let found = pairs.find(|pair| pair[0] == AUXILIARY_VDSO)?;
    Some(Avma(found[1]))
}

fn stack_limit(task: &TaskCore) -> Option<u64> {
    let limits = task.limits.as_ref()?;
    limits.limits.get(LIMIT_STACK)?.soft
}
