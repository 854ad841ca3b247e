//! Plans a link: the steps that link a process.

use std::borrow::Cow;
use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name::VDSO;

use super::dump;
use super::interim;
use super::kernel::RunningKernel;
use super::layout::{self, Layout};
use super::outcome::{ApplyOutcome, ApplyState, LinkedText};
use super::place::{self, Unit, UnitPlace, Unreachable};
use super::recognise::{KernelMapping, KernelUnit};
use super::record::{Placed, Record};
use super::survey::Survey;
use super::text::{GETRANDOM, Text};
use super::{Planned, Transaction};
use crate::maps::SpecialMemory;
use crate::targets::{Step, Target, overlaps, subtract};
use crate::{Error, Result, Unlinkable};
use relocator::link::{LinkedImage, Old, link_in_detail};
use relocator::placement::{PAGE, Placement};
use relocator::plan::{Forced, Policy};
use relocator::threads::Write;
use relocator::unwind::Detail;

/// Most pages next to a text that are kept free for its record.
const ROOM: usize = 2;

/// The transaction, or none if the process is linked already or has no old vDSO.
pub(super) fn plan(
    target: &impl Target,
    survey: &Survey,
    kernel: &RunningKernel,
    policy: Policy,
) -> Result<Planned> {
    let unit = survey.unit()?;
    let mut outcome = ApplyOutcome::new(survey);
    if survey.texts.is_empty() {
        return Ok((None, outcome));
    }
    let links: Option<Vec<&Record>> = survey
        .texts
        .iter()
        .map(|text| current(text, unit, kernel))
        .collect();
    match links {
        Some(links) => finish(survey, unit, kernel, &links, outcome),
        None => {
            let transaction = link_all(target, survey, unit, kernel, policy, &mut outcome)?;
            Ok((Some(transaction), outcome))
        }
    }
}

/// The record of a link to this kernel that is in use, or that is incomplete.
fn current<'a>(text: &'a Text, unit: &KernelUnit, kernel: &RunningKernel) -> Option<&'a Record> {
    let record = &text.record.as_ref()?.record;
    let is_known = |mapping: &KernelMapping| {
        let start = mapping.range.start;
        let is_it = |placed: &&Placed| placed.name == mapping.name;
        let placed = record.kernel.iter().find(is_it);
        placed.is_some_and(|placed| placed.to == start || placed.from == start)
    };
    let is_current = record.new == kernel.build_id()
        && unit.mappings.iter().all(is_known)
        && !text.was_restored()
        && text.interrupted.is_none();
    is_current.then_some(record)
}

/// Completes links, if they are not complete.
fn finish(
    survey: &Survey,
    unit: &KernelUnit,
    kernel: &RunningKernel,
    links: &[&Record],
    mut outcome: ApplyOutcome,
) -> Result<Planned> {
    let mut transaction = Transaction::default();
    for (text, record) in survey.texts.iter().zip(links) {
        let found = &text.found;
        let now = record.linked(&found.bytes, found.mapping.start)?;
        let mut whole = found.bytes.clone();
        record.complete(&mut whole, found.mapping.start)?;
        let mut after = record.linked(&whole, found.mapping.start)?;
        let incomplete = record.incomplete(&found.bytes, found.mapping.start)?;
        interim::extend(&mut after, incomplete.iter().map(|entry| entry.at));
        let writes = incomplete.iter().map(|entry| Write {
            at: entry.at.at(found.image),
            bytes: entry.bytes.to_vec(),
        });
        let writes = interim::at_once(writes.collect());
        transaction.late.extend(writes.into_iter().map(Step::Write));
        transaction.late.extend(joined(text, survey));
        transaction.crossings.push((Some(now), after));
        outcome.texts.push(LinkedText::recorded(text, record));
    }
    let placed = links.first().map_or(&[][..], |record| &record.kernel);
    transaction.kernel = moves(unit, placed)?;
    let guard = dump::guard(survey, unit, placed, kernel.limits);
    transaction.kernel.extend(guard);
    transaction.late.extend(survey.discard());
    if transaction.kernel.is_empty() && transaction.late.is_empty() {
        outcome.state = ApplyState::AlreadyLinked;
        return Ok((None, outcome));
    }
    outcome.state = ApplyState::Completed;
    outcome.kernel = placed.to_vec();
    Ok((Some(transaction), outcome))
}

/// Separates what is before a text from it, if it is one mapping with the text: a tool that was
/// killed did not do that.
fn joined(text: &Text, survey: &Survey) -> Option<Step> {
    let start = text.mapping.start;
    let mut mappings = survey.mappings.iter();
    let whole = mappings.find(|mapping| mapping.range.contains(&start))?;
    let before = whole.range.start.max(text.found.mapping.start)..start;
    (!before.is_empty()).then_some(Step::Separate(before))
}

/// Links all texts, whatever they were linked to before.
fn link_all(
    target: &impl Target,
    survey: &Survey,
    unit: &KernelUnit,
    kernel: &RunningKernel,
    policy: Policy,
    outcome: &mut ApplyOutcome,
) -> Result<Transaction> {
    let rooms: Vec<place::Room> = survey
        .texts
        .iter()
        .map(|text| room(text, survey, kernel))
        .collect();
    let reserved = survey.texts.iter().zip(&rooms).map(|(text, room)| {
        let mapping = &text.found.mapping;
        let pages = |pages: usize| pages as i64 * PAGE as i64;
        mapping.start.offset(-pages(room.before))..mapping.end.offset(pages(room.behind))
    });
    let reserved: Vec<Range<Avma>> = reserved.collect();
    // CRIU finds the process on its home kernel by the placeholder: it is given up last.
    let stale = dump::stale(survey, target);
    let choose = |zeros: Option<Range<Avma>>| {
        let mappings = &unit.mappings;
        let limits = kernel.limits;
        place::place(Unit { mappings }, &reserved, zeros, &survey.taken, limits)
    };
    let mut texts = survey.texts.iter();
    let placeholder = texts.find_map(|text| text.placeholder.clone());
    let is_sealed = |range: &Range<Avma>| {
        let mut sealed = survey.special.sealed.iter();
        sealed.any(|sealed| overlaps(sealed, range))
    };
    let stale = stale.filter(|stale| !is_sealed(stale));
    let placeholder = placeholder.filter(|placeholder| !is_sealed(placeholder));
    let chosen = match unit.mappings.iter().any(|part| is_sealed(&part.range)) {
        true => Err(Unreachable::sealed(Unit {
            mappings: &unit.mappings,
        })),
        false => choose(stale.clone()).or_else(|_| choose(placeholder)),
    };
    let placed = match chosen {
        Ok(place) => placed(unit, place),
        Err(unreachable) => {
            outcome.unreachable = Some(unreachable.to_string());
            in_place(unit, unreachable)?
        }
    };
    let placed = survey.origins.complete(&placed);
    let states = survey
        .has_states()
        .then(|| survey.special.droppable.clone());
    let mut transaction = Transaction {
        kernel: moves(unit, &placed)?,
        stale: states.unwrap_or_default(),
        ..Transaction::default()
    };
    let guard = dump::guard(survey, unit, &placed, kernel.limits);
    transaction.kernel.extend(guard);
    let placeholders = survey.placeholders();
    let origin = placed
        .iter()
        .find(|one| one.name == VDSO)
        .map(|one| one.from);
    for (text, room) in survey.texts.iter().zip(rooms) {
        let placement = Placement {
            image: text.found.image,
            mappings: placed
                .iter()
                .map(|placed| (placed.name.clone(), placed.to))
                .collect(),
        };
        let old = trusted(text, &survey.special);
        let what = layout::Kernel {
            build_id: kernel.build_id().to_vec(),
            placed: placed.clone(),
            placeholders: placeholders.clone(),
            base: kernel.base(text, origin),
        };
        let place = |detail| {
            let linked = link_in_detail(&old, &kernel.target(), &placement, policy, detail)?;
            let layout = Layout::new(text, &linked, what.clone(), room)?;
            Ok::<_, Error>((linked, layout))
        };
        let (linked, layout) = fitting(place)?;
        outcome.texts.push(LinkedText::new(text, &linked, &layout));
        transaction.crossings.push((text.before()?, layout.after));
        transaction.early.extend(layout.early);
        transaction.late.extend(layout.late);
    }
    let taken = placed.iter().map(Placed::range);
    let left = subtract(stale.into_iter().collect(), taken);
    transaction.late.extend(left.into_iter().map(Step::Unmap));
    transaction.late.extend(survey.discard());
    outcome.no_symbols = kernel.no_symtab().map(ToString::to_string);
    outcome.state = ApplyState::Linked;
    outcome.kernel = placed;
    Ok(transaction)
}

/// A layout with as much for unwinders as there is room for.
fn fitting(
    place: impl Fn(Detail) -> Result<(LinkedImage, Layout)>,
) -> Result<(LinkedImage, Layout)> {
    for detail in [Detail::Names, Detail::Frames] {
        match place(detail) {
            Ok((linked, layout)) if layout.is_roomy() => return Ok((linked, layout)),
            _ => {}
        }
    }
    place(Detail::InPlace)
}

/// The old image, of which `getrandom` makes the system call if not all of its states can be made
/// stale. None are known in a process without droppable memory: perhaps a restore has not kept what
/// tells them from other memory. Beside droppable memory there may be states that were there before
/// such a restore; that memory is left out of core dumps as well. Two processes restored from one
/// image must not share a key.
fn trusted<'a>(text: &'a Text, special: &SpecialMemory) -> Cow<'a, Old> {
    let mut old = Cow::Borrowed(&text.old);
    let reason = match (special.droppable.is_empty(), special.undumped.first()) {
        (true, _) => Forced::RandomStatesUnknown,
        (false, Some(memory)) => Forced::RandomStatesUnmarked { at: memory.start },
        (false, None) => return old,
    };
    old.to_mut().force_system_call(GETRANDOM, reason);
    old
}

/// The pages next to a text that are kept for its record: behind it, or else the one before it.
fn room(text: &Text, survey: &Survey, kernel: &RunningKernel) -> place::Room {
    let placeholder = text.placeholder.clone();
    let room = place::room(&text.found, placeholder, &survey.taken, kernel.limits, ROOM);
    match room.behind {
        0 => place::Room {
            behind: 0,
            before: room.before.min(1),
        },
        behind => place::Room { behind, before: 0 },
    }
}

/// Where the kernel's mappings are, and where they are to be.
pub(super) fn placed(unit: &KernelUnit, place: UnitPlace) -> Vec<Placed> {
    let mut next = match place {
        UnitPlace::Stays => None,
        UnitPlace::At(at) => Some(at),
    };
    let mappings = unit.mappings.iter();
    let placed = mappings.map(|mapping| {
        let size = mapping.range.end.0 - mapping.range.start.0;
        let to = next.unwrap_or(mapping.range.start);
        next = next.map(|next| next.offset(size as i64));
        Placed {
            name: mapping.name.to_owned(),
            size,
            from: mapping.range.start,
            to,
        }
    });
    placed.collect()
}

/// The kernel's mappings where they are: nothing of the old code can reach them, and jumps are
/// long.
fn in_place(unit: &KernelUnit, unreachable: Unreachable) -> Result<Vec<Placed>> {
    match unit.is_whole() {
        true => Ok(placed(unit, UnitPlace::Stays)),
        false => Err(Error::Unlinkable {
            what: "a process whose kernel's mappings are torn apart".to_owned(),
            reason: Unlinkable::NoPlace(unreachable),
        }),
    }
}

/// Moves the mappings that have to move.
pub(super) fn moves(unit: &KernelUnit, placed: &[Placed]) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for mapping in &unit.mappings {
        let target = placed.iter().find(|placed| placed.name == mapping.name);
        let target = target.ok_or_else(|| Error::Unlinkable {
            what: format!("the kernel's mapping {}", mapping.name),
            reason: Unlinkable::NotRecorded,
        })?;
        if target.to == mapping.range.start {
            continue;
        }
        steps.push(Step::Move {
            from: mapping.range.clone(),
            to: target.to,
        });
    }
    Ok(steps)
}
