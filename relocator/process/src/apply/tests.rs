//! A pretended process is surveyed, planned, linked and rolled back: everything but the kernel.

use elf_tools::Avma;
use elf_tools::reentry::Register;
use relocator::placement::{END, PAGE};
use relocator::source::Source;
use relocator::tables;
use relocator::threads::Memory as _;
use relocator::threads::{Registers, Thread};

use super::outcome::ApplyState;
use super::place::Limits;
use super::pretend::{self, OLD, READ, UNIT};
use super::recognise::{Own, recognise};
use super::record::Record;
use super::survey::Survey;
use super::text::Known;
use super::{ApplyOptions, RunningKernel, Work, apply_to, rollback_of};
use crate::Error;
use crate::targets::pretended::Pretended;
use crate::targets::{Mapping, Protection, Step, StoppedTarget, Target};

/// Where the program is.
pub(super) const PROGRAM: u64 = 0x40_0000;

/// A stack of two pages.
pub(super) const STACK: u64 = 0x7fff_ffe0_0000;

/// Memory of random states.
pub(super) const STATES: u64 = 0x7fff_e000_0000;

pub(super) fn kernel() -> RunningKernel {
    let limits = Limits {
        lowest: 0x1_0000,
        highest: END,
    };
    RunningKernel::of(pretend::kernel(), limits, &tables::Options::default()).unwrap()
}

pub(super) fn thread(id: i32, pc: u64) -> Thread {
    let mut general = [0; Register::COUNT];
    general[Register::RSP.index()] = STACK + 0x1800;
    Thread {
        id,
        registers: Registers {
            general,
            pc: Avma(pc),
            system_call: -1,
        },
    }
}

/// A restored process with an old vDSO that is called `name`, and threads at these places.
pub(super) fn process(name: &str, places: &[u64]) -> Pretended {
    let mut process = Pretended::restored(&pretend::image(name));
    let data = Protection {
        write: true,
        ..READ
    };
    process.put(
        PROGRAM,
        pretend::CODE,
        "/bin/program",
        Some(vec![0x90; 0x1000]),
    );
    process.put(STACK, data, "[stack]", Some(vec![0; 2 * PAGE as usize]));
    process.put(STATES, data, "", Some(vec![7; PAGE as usize]));
    process.auxv = Some(Avma(OLD));
    process.special.droppable = vec![Avma(STATES)..Avma(STATES + PAGE)];
    let threads = places.iter().zip(1..);
    process.threads = threads.map(|(&place, id)| thread(id, place)).collect();
    process
}

/// Where a function of the old vDSO begins.
fn entry(process: &Pretended, name: &str) -> u64 {
    let found = recognise(process, &Own::of(&pretend::kernel()).unwrap()).unwrap();
    let image = elf_tools::image::Image::parse(&found.old[0].bytes).unwrap();
    image.export(name).unwrap().address.at(Avma(OLD)).0
}

pub(super) fn options() -> ApplyOptions {
    ApplyOptions::default()
}

pub(super) const NOTHING: &[Source] = &[];

#[test]
fn a_pretended_process_is_linked_and_rolled_back() {
    let kernel = kernel();
    let clock = entry(&process("got", &[]), "__vdso_clock_gettime");
    let mut process = process("got", &[PROGRAM, clock]);
    let before = process.clone();

    let outcome = apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(outcome.state, ApplyState::Linked, "{outcome:?}");
    assert_eq!(outcome.unreachable, None);
    assert_eq!(outcome.crossed.threads, 2);
    assert!(!outcome.texts[0].functions.is_empty());
    // The kernel's mappings are together, below the old text, where the placeholder was if they
    // fit.
    let found = recognise(&process, &kernel.own).unwrap();
    let unit = found.kernel.as_ref().unwrap();
    assert!(unit.is_whole(), "{unit:?}");
    let vdso = unit.vdso().unwrap().range.start;
    assert!(vdso.0.abs_diff(OLD) < super::place::REACH);
    assert_ne!(vdso, Avma(UNIT + 6 * PAGE));
    for (placed, mapping) in outcome.kernel.iter().zip(&unit.mappings) {
        assert_eq!(
            (placed.name.as_str(), placed.to),
            (mapping.name, mapping.range.start)
        );
    }
    // The text has its record, which is complete.
    let text = &found.old[0];
    let record = Record::find(&text.bytes, text.mapping.start)
        .unwrap()
        .unwrap()
        .record;
    assert!(record.is_complete(&text.bytes, text.mapping.start).unwrap());
    assert_eq!(record.kernel, outcome.kernel);
    // This image keeps no states, so memory for them is another's; a thread at an entry stays there.
    assert_eq!(process.part(STATES).1, Some(vec![7; PAGE as usize]));
    assert_eq!(process.threads, before.threads);

    let again = apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(again.state, ApplyState::AlreadyLinked);

    let undone = rollback_of(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(undone.state, ApplyState::RolledBack);
    assert_eq!(flat(&process), flat(&before));
    let nothing = rollback_of(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(nothing.state, ApplyState::Untouched);
}

/// What is mapped, where neighbours of one kind are one.
pub(super) fn flat(process: &Pretended) -> Vec<(Mapping, Option<Vec<u8>>)> {
    let mut all: Vec<(Mapping, Option<Vec<u8>>)> = Vec::new();
    for (mapping, content) in process.parts.clone() {
        match (all.last_mut(), content) {
            (Some((last, Some(bytes))), Some(content))
                if last.range.end == mapping.range.start
                    && last.name == mapping.name
                    && last.protection == mapping.protection =>
            {
                last.range.end = mapping.range.end;
                bytes.extend(content);
            }
            (_, content) => all.push((mapping, content)),
        }
    }
    all
}

#[test]
fn threads_inside_go_to_entries() {
    let kernel = kernel();
    let clock = entry(&process("got", &[]), "__vdso_clock_gettime");
    let mut moved = 0;
    for inside in 1..64 {
        let mut process = process("got", &[clock + inside]);
        let before = process.clone();
        match apply_to(&mut process, &kernel, NOTHING, &options()) {
            Ok(outcome) if outcome.crossed.moved == 1 => {
                assert_eq!(process.threads[0].registers.pc, Avma(clock), "{inside}");
                moved += 1;
            }
            // Behind its last read of the kernel's data, it goes on.
            Ok(_) => assert_eq!(process.threads, before.threads, "{inside}"),
            // That is within an instruction.
            Err(Error::Busy { .. }) => assert_eq!(process, before, "{inside}"),
            Err(error) => panic!("{inside}: {error}"),
        }
    }
    assert!(moved > 3, "{moved}");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let kernel = kernel();
    let dry = ApplyOptions {
        dry_run: true,
        ..options()
    };
    let clock = entry(&process("got", &[]), "__vdso_clock_gettime");
    let mut process = process("got", &[PROGRAM, clock + 1]);
    let before = process.clone();
    let planned = apply_to(&mut process, &kernel, NOTHING, &dry).unwrap();
    assert_eq!(planned.state, ApplyState::WouldBeLinked);
    let seen = planned.seen.as_ref().unwrap();
    assert_eq!((seen.threads, seen.unknown), (2, 0));
    assert_eq!(seen.inside[0].pc, Avma(clock + 1));
    assert_eq!(process, before);

    process.threads.pop();
    let done = apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(done.kernel, planned.kernel);
    let fates = |outcome: &super::outcome::ApplyOutcome| {
        let functions = outcome.texts[0].functions.iter();
        functions
            .map(|one| (one.entry, one.strategy))
            .collect::<Vec<_>>()
    };
    assert_eq!(fates(&done), fates(&planned));
    let before = process.clone();
    let planned = rollback_of(&mut process, &kernel, NOTHING, &dry).unwrap();
    assert_eq!(planned.state, ApplyState::WouldBeRolledBack);
    assert_eq!(process, before);
}

/// What is found in a process.
pub(super) fn survey(process: &Pretended, kernel: &RunningKernel, sources: &[Source]) -> Survey {
    let tables = tables::Options::default();
    let known = Known {
        sources,
        tables: &tables,
    };
    Survey::of(process, kernel, known).unwrap()
}

/// What a process would be linked or rolled back by.
pub(super) fn steps(
    process: &Pretended,
    kernel: &RunningKernel,
    sources: &[Source],
    work: Work,
) -> Vec<Step> {
    let survey = survey(process, kernel, sources);
    let (transaction, _) = work.plan(process, &survey, kernel, &options()).unwrap();
    let steps = transaction
        .unwrap()
        .steps(&survey, kernel, process, &survey.mappings);
    steps.unwrap().0
}

#[test]
fn what_an_earlier_link_had_added_is_unmapped() {
    let kernel = kernel();
    let before = process("got", &[PROGRAM]);
    let mut linked = before.clone();
    apply_to(&mut linked, &kernel, NOTHING, &options()).unwrap();
    let found = survey(&linked, &kernel, NOTHING).texts.remove(0).found;
    let record = super::record::Record::find(&found.bytes, found.mapping.start);
    let at = record.unwrap().unwrap().at;
    let mut page = vec![0; (at.end.0 - at.start.0) as usize];
    assert!(linked.read(at.start, &mut page));
    page.resize(PAGE as usize, 0);
    let code = Protection {
        execute: true,
        ..READ
    };
    for start in [before, linked] {
        let mut mapping = start.mappings().unwrap().into_iter();
        let end = mapping
            .find(|one| one.range.contains(&found.image))
            .unwrap();
        let end = end.range.end;
        let left = end..end.offset(PAGE as i64);
        let mut with = start.clone();
        with.map(left.clone(), code, "", Some(page.clone()));
        let mut expected = start.clone();
        for process in [&mut with, &mut expected] {
            apply_to(process, &kernel, NOTHING, &options()).unwrap();
            rollback_of(process, &kernel, NOTHING, &options()).unwrap();
        }
        assert_eq!(flat(&with), flat(&expected));
    }
}

#[test]
fn whoever_comes_after_a_killed_tool_can_go_on_and_go_back() {
    let kernel = kernel();
    let mut before = process("got", &[PROGRAM]);
    before.part(STATES).1 = Some(vec![0; PAGE as usize]);
    let mut linked = before.clone();
    apply_to(&mut linked, &kernel, NOTHING, &options()).unwrap();
    let mut states = std::collections::BTreeSet::new();
    for (start, work) in [(&before, Work::Link), (&linked, Work::Undo)] {
        let steps = steps(start, &kernel, NOTHING, work);
        assert!(steps.len() > 8, "{steps:?}");
        for count in 0..=steps.len() {
            let mut left = start.clone();
            left.carry_out_until_killed(&steps, count);
            let mut again = left.clone();
            let done = apply_to(&mut again, &kernel, NOTHING, &options()).unwrap();
            states.insert(done.state.code());
            let same = apply_to(&mut again, &kernel, NOTHING, &options()).unwrap();
            assert_eq!(same.state, ApplyState::AlreadyLinked, "{work:?} {count}");
            rollback_of(&mut left, &kernel, NOTHING, &options()).unwrap();
            assert_eq!(flat(&left), flat(&before), "{work:?} {count}");
            rollback_of(&mut again, &kernel, NOTHING, &options()).unwrap();
            assert_eq!(flat(&again), flat(&before), "{work:?} {count}");
        }
    }
    let expected = ["already-linked", "completed", "linked"];
    assert!(states.into_iter().eq(expected));
}

#[test]
fn a_step_that_fails_leaves_a_pretended_process_as_it_was() {
    let mut process = process("got", &[PROGRAM]);
    let before = process.clone();
    let range = |at: u64| Avma(at)..Avma(at + PAGE);
    let steps = [
        Step::Unmap(range(PROGRAM)),
        Step::Placeholder(range(PROGRAM)),
        Step::Placeholder(range(STACK)),
    ];
    process.carry_out(&steps).unwrap_err();
    assert_eq!(process, before);
    process.carry_out(&steps[..2]).unwrap();
    let mappings = process.mappings().unwrap();
    let now = mappings
        .iter()
        .find(|mapping| mapping.range == range(PROGRAM));
    assert_eq!(now.unwrap().protection, READ);
}
