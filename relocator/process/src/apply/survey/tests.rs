//! What was planned is compared with what is there when the process has stopped: whatever has changed
//! since, nothing is written.

use super::*;
use crate::apply::Work;
use crate::apply::pretend::{OLD, UNIT};
use crate::apply::tests::{NOTHING, PROGRAM, STATES, kernel, options, process, survey};
use crate::targets::Protection;
use crate::targets::pretended::Pretended;
use relocator::placement::PAGE;

/// Whether the plan for a process still holds when `change` has been made to it.
fn holds_after(change: impl FnOnce(&mut Pretended)) -> bool {
    let kernel = kernel();
    let mut process = process("got", &[PROGRAM]);
    let survey = survey(&process, &kernel, NOTHING);
    let planned = Work::Link.plan(&process, &survey, &kernel, &options());
    let places = planned.unwrap().0.unwrap().places();
    change(&mut process);
    survey.holds(&process, &places).unwrap().is_some()
}

fn part(process: &mut Pretended, at: u64) -> &mut (Mapping, Option<Vec<u8>>) {
    let mut parts = process.parts.iter_mut();
    parts.find(|part| part.0.range.start == Avma(at)).unwrap()
}

#[test]
fn nothing_has_changed() {
    assert!(holds_after(|_| {}));
    // What does not matter may change.
    assert!(holds_after(|process| {
        let at = 0x1234_5000;
        process.map(Avma(at)..Avma(at + PAGE), Protection::default(), "", None);
    }));
}

#[test]
fn a_byte_of_an_old_text_is_another() {
    assert!(!holds_after(|process| {
        part(process, OLD).1.as_mut().unwrap()[0x123] ^= 1;
    }));
}

#[test]
fn an_old_text_has_another_protection_or_name() {
    assert!(!holds_after(|process| part(process, OLD)
        .0
        .protection
        .write = true));
    assert!(!holds_after(
        |process| part(process, OLD).0.name = "/a".to_owned()
    ));
}

#[test]
fn an_old_text_is_gone() {
    assert!(!holds_after(|process| process.parts.retain(|part| part
        .0
        .range
        .start
        != Avma(OLD))));
}

#[test]
fn a_mapping_of_the_kernels_has_moved() {
    assert!(!holds_after(|process| {
        let range = &mut part(process, UNIT).0.range;
        *range = Avma(0x1000)..Avma(0x5000);
        process.sort();
    }));
}

#[test]
fn the_mark_is_another() {
    assert!(!holds_after(|process| {
        let vdso = part(process, UNIT + 6 * PAGE).1.as_mut().unwrap();
        let mark = Mark {
            old_vdso: Avma(OLD),
            old_vvar: Avma(OLD - 2 * PAGE),
            new_vvar: Avma(UNIT),
        };
        vdso[..Mark::SIZE].copy_from_slice(&mark.bytes());
    }));
}

#[test]
fn a_placeholder_is_gone_or_can_be_written() {
    let zeros = OLD - 2 * PAGE;
    assert!(!holds_after(|process| process.parts.retain(|part| part
        .0
        .range
        .start
        != Avma(zeros))));
    assert!(!holds_after(|process| part(process, zeros)
        .0
        .protection
        .write = true));
}

#[test]
fn something_is_where_steps_map() {
    let kernel = kernel();
    let mut process = process("got", &[PROGRAM]);
    let survey = survey(&process, &kernel, NOTHING);
    let planned = Work::Link.plan(&process, &survey, &kernel, &options());
    let places = planned.unwrap().0.unwrap().places();
    let is_free = |place: &&Range<Avma>| {
        let mut mappings = survey.mappings.iter();
        !mappings.any(|mapping| overlaps(&mapping.range, place))
    };
    let Some(free) = places.iter().find(is_free) else {
        panic!("{places:?}");
    };
    let page = free.start..free.start.offset(PAGE as i64);
    process.map(page, Protection::default(), "", None);
    assert!(survey.holds(&process, &places).unwrap().is_none());
}

#[test]
fn memory_is_no_longer_droppable() {
    // An old text that keeps no states does not care.
    let kernel = kernel();
    let mut process = process("got", &[PROGRAM]);
    let survey = survey(&process, &kernel, NOTHING);
    process.special.droppable.clear();
    let holds = survey.holds(&process, &[]).unwrap().is_some();
    assert_eq!(holds, !survey.has_states());
    let range = Avma(STATES)..Avma(STATES + PAGE);
    assert_eq!(survey.special.droppable, [range]);
}

#[test]
fn limits_of_what_grows_are_others() {
    assert!(!holds_after(|process| process.growth.stack = Some(1 << 20)));
    assert!(!holds_after(
        |process| process.growth.heap = Some(Avma(0x50_0000))
    ));
}
