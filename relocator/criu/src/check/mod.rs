//! Whether images can be restored on a kernel and linked there, and why not.
//!
//! | module | does |
//! |---|---|
//! | `contexts` | threads and signal frames inside a vDSO, and what becomes of each |
//! | `answer` | the answer for one task: values with stable codes |
//!
//! The check does what a link after a restore would do: it surveys the task as it will be
//! ([`Restored`]), plans, and decides about each thread. Nothing is written.

mod answer;
mod contexts;

use std::ops::Range;

use elf_tools::image::Image;
use elf_tools::symtab::mapping_name::{VDSO, VVAR};
use elf_tools::{Avma, BuildId};
use relocator::placement::{END, PAGE};
use relocator::source::{LiveMapping, Source};
use relocator::tables::Options;
use relocator_process::apply::outcome::{ApplyOutcome, ApplyState};
use relocator_process::apply::place::Limits;
use relocator_process::apply::{ApplyOptions, RunningKernel, apply_to};
use relocator_process::targets::Target;

use crate::Result;
use crate::mapping::Role;
use crate::plain::{Breakage, PlainRestore, Sizes, elsewhere, functions};
use crate::restored::{NewUnit, Restored};
use crate::task::Task;
pub use answer::{Answer, CheckedTask, CheckedThread, Context, Fate, No};
use contexts::Contexts;

/// What tasks are to be restored on.
#[derive(Debug, Clone, Copy)]
pub struct Onto<'a> {
    /// The kernel, and the processor.
    pub kernel: &'a RunningKernel,
    /// Old vDSOs with the symbols of their kernels: those that are in no task are passed over.
    pub old: &'a [Source],
    /// Where old tables may be, and which strategies may be used.
    pub options: &'a ApplyOptions,
    /// Whether the restore puts the tasks into a new time namespace.
    pub makes_time_namespace: bool,
}

/// What kernels let programs map unless they are told otherwise: `vm.mmap_min_addr`.
const LOWEST: u64 = 0x1_0000;

/// The first kernel with memory that it may drop (`MAP_DROPPABLE`).
const DROPPABLE: (u32, u32) = (6, 11);

/// The first kernel with guard pages without mappings (`MADV_GUARD_INSTALL`).
const GUARDS: (u32, u32) = (6, 13);

/// A kernel that does not run here, by a source that has its vDSO.
///
/// Where the source has symbols, they say what the kernel maps. Without them it is taken to have as
/// much data as stock kernels up to 6.12.
///
/// Errors: those of a source without a vDSO, or with one that cannot be analysed.
pub fn kernel(mut source: Source, tables: &Options) -> relocator_process::Result<RunningKernel> {
    /// Bytes of the data of stock kernels.
    const DATA: u64 = 4 * PAGE;
    let size = source.require_image()?.bytes().len() as u64;
    let size = size.next_multiple_of(PAGE);
    if source.live.is_empty() {
        let mapping = |name: &str, start, size| LiveMapping {
            name: name.to_owned(),
            start: Avma(start),
            size,
        };
        source.live = match &source.symtab {
            Some(symtab) => {
                let all = symtab.mappings().iter();
                let data = all.filter(|one| one.name != VDSO);
                data.map(|one| mapping(&one.name, one.address, one.size))
                    .collect()
            }
            None => vec![mapping(VVAR, PAGE, DATA)],
        };
        let last = source
            .live
            .iter()
            .map(|one| one.start.0.saturating_add(one.size));
        let end = last.max().unwrap_or(PAGE);
        source.live.push(mapping(VDSO, end, size));
    }
    let limits = Limits {
        lowest: LOWEST,
        highest: END,
    };
    RunningKernel::of(source, limits, tables)
}

/// Checks one task.
///
/// Errors: what cannot be read or understood. That a task cannot be restored or linked is no error
/// but [`Answer::No`].
pub fn check(task: &Task, onto: &Onto<'_>) -> Result<CheckedTask> {
    let mut checked = CheckedTask::of(task);
    if task.has_ended {
        return Ok(checked);
    }
    let vdso = Vdso::of(task, onto);
    checked.vdso = vdso.as_ref().map(|vdso| vdso.range.start);
    checked.build_id = vdso
        .as_ref()
        .and_then(|vdso| vdso.image.build_id().cloned());
    checked.image = vdso.as_ref().map(|vdso| vdso.image.clone());
    checked.answer = match (refused(task, onto), &vdso) {
        (Some(no), _) => Answer::No(no),
        (None, Some(vdso)) if is_taken_for_equal(task, vdso, onto) => {
            in_place(task, vdso, onto, &mut checked)?
        }
        (None, _) => link(task, vdso.as_ref(), onto, &mut checked)?,
    };
    Ok(checked)
}

/// The old vDSO of a task.
struct Vdso {
    range: Range<Avma>,
    image: Image,
    sizes: Sizes,
}

impl Vdso {
    fn of(task: &Task, onto: &Onto<'_>) -> Option<Self> {
        /// What no vDSO reaches.
        const LARGEST: u64 = 1 << 20;
        let range = task.ranges_of(Role::Vdso).next()?.clone();
        let size = range.end.0 - range.start.0;
        let unit = unit(onto)?;
        let restored = Restored::new(task, &unit);
        let mut bytes = vec![0; usize::try_from(size.min(LARGEST)).ok()?];
        let was_read = relocator::threads::Memory::read(&restored, range.start, &mut bytes);
        let image = was_read.then(|| Image::parse(&bytes).ok()).flatten()?;
        let data = task.ranges_of(Role::Vvar).next();
        Some(Self {
            sizes: Sizes {
                data: data.map(|data| data.end.0 - data.start.0),
                vdso: size,
            },
            range,
            image,
        })
    }
}

/// What the new kernel maps.
fn unit<'a>(onto: &Onto<'a>) -> Option<NewUnit<'a>> {
    let source = onto.kernel.source();
    let image = source.image.as_ref()?;
    Some(NewUnit {
        mappings: &source.live,
        vdso: image.bytes(),
    })
}

/// Sizes of what the new kernel maps.
fn sizes(mappings: &[LiveMapping]) -> Sizes {
    let (vdso, data): (Vec<_>, Vec<_>) = mappings.iter().partition(|one| one.name == VDSO);
    let data: u64 = data.iter().map(|one| one.size).sum();
    let vdso: u64 = vdso.iter().map(|one| one.size).sum();
    Sizes {
        data: (data > 0).then_some(data),
        vdso: vdso.next_multiple_of(PAGE),
    }
}

/// Why the restore itself would fail.
fn refused(task: &Task, onto: &Onto<'_>) -> Option<No> {
    if let Some(other) = task.threads.iter().find(|one| one.executes_other_code) {
        return Some(No::OtherCode {
            thread: other.thread.id,
        });
    }
    let version = onto.kernel.source().linux_version();
    let is_before = |first: (u32, u32)| version.is_some_and(|version| version.series() < first);
    let mut droppable = task.mappings.iter().filter(|one| one.is_droppable);
    if let Some(first) = droppable.next().filter(|_| is_before(DROPPABLE)) {
        return Some(No::Droppable {
            at: first.range.start,
        });
    }
    let guard = task.guards.first().filter(|_| is_before(GUARDS))?;
    Some(No::GuardPages { at: guard.start })
}

/// What CRIU alone does with the vDSO.
fn plain(vdso: &Vdso, onto: &Onto<'_>) -> Option<PlainRestore> {
    let source = onto.kernel.source();
    let new = source.image.as_ref()?;
    let sizes = sizes(&source.live);
    Some(PlainRestore::of((&vdso.image, vdso.sizes), (new, sizes)))
}

fn is_taken_for_equal(task: &Task, vdso: &Vdso, onto: &Onto<'_>) -> bool {
    task.auxv_vdso == Some(vdso.range.start) && plain(vdso, onto) == Some(PlainRestore::InPlace)
}

/// CRIU puts the kernel's vDSO in the place of the old one, so there is nothing to link.
fn in_place(
    task: &Task,
    vdso: &Vdso,
    onto: &Onto<'_>,
    checked: &mut CheckedTask,
) -> Result<Answer> {
    let source = onto.kernel.source();
    let is_same = vdso.image.build_id().is_some() && vdso.image.build_id() == source.build_id();
    let Some(unit) = unit(onto) else {
        return Ok(Answer::Untouched);
    };
    let restored = Restored::new(task, &unit);
    let contexts = Contexts::of(task, &restored, std::slice::from_ref(&vdso.range))?;
    checked.threads = contexts.threads(task, &vdso.image, &[]);
    checked.seen_inside(&restored.whereabouts()?, &vdso.range);
    let inside: Vec<_> = contexts.inside(&vdso.range).collect();
    let is_at_entry = |place| vdso.image.exports_at(place).next().is_some();
    let inside = inside.into_iter().filter(|one| !is_at_entry(one.place));
    checked.broken = match is_same {
        true if onto.makes_time_namespace => inside.map(Breakage::OtherNamespace).collect(),
        true => Vec::new(),
        false => {
            let new = source.image.as_ref();
            let moved = new.map(|new| elsewhere(&vdso.image, new));
            let moved = moved.into_iter().flatten();
            moved.chain(inside.map(Breakage::OtherCode)).collect()
        }
    };
    checked.plain = Some(PlainRestore::InPlace);
    Ok(match (is_same, checked.broken.is_empty()) {
        (true, _) => Answer::Same,
        (false, true) => Answer::TakenForEqual,
        // Nothing is left of the old vDSO that could be linked.
        (false, false) => Answer::No(No::TakenForEqual {
            old: vdso.image.build_id().map(BuildId::to_string),
            new: source.build_id().map(BuildId::to_string),
        }),
    })
}

/// Links the task as it will be, without writing anything.
fn link(
    task: &Task,
    vdso: Option<&Vdso>,
    onto: &Onto<'_>,
    checked: &mut CheckedTask,
) -> Result<Answer> {
    let Some(unit) = unit(onto) else {
        return Ok(Answer::Untouched);
    };
    let mut restored = Restored::new(task, &unit);
    let options = ApplyOptions {
        // Threads that run have no place that could be decided about.
        dry_run: task.seen.is_some(),
        ..onto.options.clone()
    };
    let before = restored.whereabouts()?;
    let old = own_sources(vdso, onto.old);
    let outcome = apply_to(&mut restored, onto.kernel, &old, &options);
    let outcome = match outcome {
        Ok(outcome) => Ok(outcome),
        Err(error) if error.is_refusal() => Err(error),
        Err(error) => return Err(error.into()),
    };
    let texts = texts(task, vdso, outcome.as_ref().ok());
    let as_dumped = Restored::new(task, &unit);
    let contexts = Contexts::of(task, &as_dumped, &texts)?;
    if let Some(vdso) = vdso {
        checked.threads = contexts.threads(task, &vdso.image, &restored.steps);
        checked.seen_inside(&before, &vdso.range);
        let plain = plain(vdso, onto);
        let jumps = plain.as_ref().map_or(&[][..], PlainRestore::jumps);
        let plans = outcome.as_ref().map_or(&[][..], |outcome| {
            let text = outcome
                .texts
                .iter()
                .find(|text| text.image == vdso.range.start);
            text.map_or(&[][..], |text| &text.functions)
        });
        checked.broken = contexts.broken(&vdso.range, jumps, &restored.steps);
        checked.broken.extend(functions(jumps, plans));
        checked.plain = plain;
    }
    Ok(match outcome {
        Ok(outcome) if outcome.state == ApplyState::Untouched => Answer::Untouched,
        Ok(outcome) => Answer::Linked(Box::new(outcome)),
        Err(error) => Answer::No(No::Refused(error)),
    })
}

/// The sources that have the vDSO of this task.
fn own_sources(vdso: Option<&Vdso>, all: &[Source]) -> Vec<Source> {
    let build_id = vdso.and_then(|vdso| vdso.image.build_id());
    let own = all
        .iter()
        .filter(|source| build_id.is_some() && source.build_id() == build_id);
    own.cloned().collect()
}

/// Where threads matter: the old vDSO, and whatever else a link has found.
fn texts(task: &Task, vdso: Option<&Vdso>, outcome: Option<&ApplyOutcome>) -> Vec<Range<Avma>> {
    let found = outcome.into_iter().flat_map(|outcome| &outcome.texts);
    let found = found.filter_map(|text| task.mapping_of(text.image));
    let found = found.map(|mapping| mapping.range.clone());
    let all: Vec<Range<Avma>> = found.chain(vdso.map(|vdso| vdso.range.clone())).collect();
    relocator::threads::frames::merge(&all)
}
