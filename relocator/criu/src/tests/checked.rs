//! Answers about images that tests make, on kernels that are fixtures.

use elf_tools::image::Image;
use elf_tools::symtab::{self, Provenance};
use elf_tools::{Avma, Svma};
use kernel_fixtures::fixture;
use relocator::criu::JUMP;
use relocator::placement::PAGE;
use relocator::source::Source;
use relocator::tables;
use relocator_process::apply::{ApplyOptions, RunningKernel};

use super::task;
use crate::check::{Answer, CheckedTask, Fate, No, Onto, check, kernel};
use crate::made::{
    DATA, Made, PID, STACK, STACK_BITS, STACK_PAGES, THREAD, VDSO, mapping, registers,
};
use crate::plain::{Breakage, PlainRestore};

/// Droppable memory: `MAP_DROPPABLE`.
const DROPPABLE_BITS: (u32, u32, u32) = (1 | 1 << 9, 0x28, 3);
/// A range of guard pages.
const GUARD_BITS: (u32, u32, u32) = (1 << 16, 0, 0);

fn source(name: &str) -> Source {
    let found = fixture::find(name).unwrap();
    Source {
        image: Some(Image::parse(found.image).unwrap()),
        symtab: found
            .symtab
            .map(|bytes| symtab::elf::read(bytes, Provenance::Exported).unwrap()),
        ..Source::named(name)
    }
}

fn onto(name: &str) -> RunningKernel {
    kernel(source(name), &tables::Options::default()).unwrap()
}

fn checked(made: &Made, kernel: &RunningKernel) -> CheckedTask {
    let task = task(&made.held).unwrap();
    let onto = Onto {
        kernel,
        old: &[],
        options: &ApplyOptions::default(),
        makes_time_namespace: true,
    };
    check(&task, &onto).unwrap()
}

/// Where a function of a fixture begins.
fn entry(fixture: &str, function: &str) -> Svma {
    let image = source(fixture).image.unwrap();
    image.export(function).unwrap().address
}

#[test]
fn a_task_outside_of_its_vdso_would_be_linked() {
    let made = Made::new("got");
    let checked = checked(&made, &onto("reordered"));
    let Answer::Linked(outcome) = &checked.answer else {
        panic!("{:?}", checked.answer);
    };
    assert_eq!(outcome.texts.len(), 1);
    assert_eq!(outcome.texts[0].image, Avma(VDSO));
    let relocated = outcome.texts[0].functions.iter();
    assert!(
        relocated
            .filter(|one| one.strategy == relocator::Strategy::Relocate)
            .count()
            > 3
    );
    assert_eq!(outcome.crossed.threads, 2);
    assert_eq!(outcome.crossed.moved, 0);
    assert_eq!(checked.vdso, Some(Avma(VDSO)));
    assert!(
        checked
            .threads
            .iter()
            .all(|thread| thread.contexts.is_empty())
    );
    let jumps = checked.plain.as_ref().unwrap().jumps();
    assert_eq!(jumps.len(), 4);
    let unknown = checked.broken.iter().filter_map(Breakage::function);
    let unknown: Vec<&str> = unknown.collect();
    assert!(unknown.contains(&"__vdso_clock_getres"), "{unknown:?}");
    assert!(!unknown.contains(&"__vdso_clock_gettime"), "{unknown:?}");
}

#[test]
fn a_thread_inside_goes_back_and_would_crash_under_a_jump() {
    let begin = entry("bare", "__vdso_clock_gettime");
    let code = relocator::link::Old::read(source("bare").image.unwrap()).unwrap();
    let instructions: Vec<u64> = {
        let function = code.code.function(begin).unwrap();
        code.code
            .reached(function)
            .map(|one| one.address.0)
            .collect()
    };
    let within = |from: u64, until: u64| {
        let mut all = instructions.iter().copied();
        all.find(|at| (begin.0 + from..begin.0 + until).contains(at))
    };
    let early = within(1, JUMP as u64).unwrap();
    let late = within(JUMP as u64, 0x400).unwrap();
    for (place, code) in [(early, "in-jump"), (late, "reads-zeros")] {
        let mut made = Made::new("bare");
        made.thread(THREAD, &registers(VDSO + place));
        let checked = checked(&made, &onto("reordered"));
        assert!(checked.answer.is_yes(), "{:?}", checked.answer);
        let thread = checked
            .threads
            .iter()
            .find(|one| one.id == THREAD.cast_signed());
        let context = &thread.unwrap().contexts[0];
        assert_eq!(context.frame, None);
        let (name, behind) = context.function.clone().unwrap();
        assert_eq!(
            (name.as_str(), behind),
            ("__vdso_clock_gettime", place - begin.0)
        );
        assert_eq!(context.fate, Fate::GoesTo(begin.at(Avma(VDSO))));
        let broken = checked.broken.iter().find(|one| one.inside().is_some());
        assert_eq!(broken.map(Breakage::code), Some(code));
    }
    // At the entry there is nothing to do, and nothing breaks.
    let mut made = Made::new("bare");
    made.thread(THREAD, &registers(VDSO + begin.0));
    let checked = checked(&made, &onto("reordered"));
    assert_eq!(checked.threads[1].contexts[0].fate, Fate::GoesOn);
    assert!(checked.broken.iter().all(|one| one.inside().is_none()));
}

/// A task that has the vDSO of a kernel, and its data in the same size.
fn at_home(kernel: &RunningKernel) -> Made {
    let size = |is_vdso: bool| {
        let all = kernel.source().live.iter();
        let own = all.filter(|one| (one.name == "[vdso]") == is_vdso);
        own.map(|one| one.size).sum::<u64>()
    };
    let mut made = Made::new("got");
    made.mappings(&[
        mapping(STACK, STACK + STACK_PAGES * PAGE, STACK_BITS),
        mapping(VDSO - size(false), VDSO, (1 | 1 << 12 | 1 << 9, 0x22, 1)),
        mapping(VDSO, VDSO + size(true), (1 | 1 << 3 | 1 << 9, 0x22, 5)),
    ]);
    made
}

#[test]
fn the_same_vdso_is_nothing_to_do() {
    let kernel = onto("got");
    let mut made = at_home(&kernel);
    let same = checked(&made, &kernel);
    assert!(matches!(same.answer, Answer::Same), "{:?}", same.answer);
    assert_eq!(same.plain, Some(PlainRestore::InPlace));
    assert!(same.broken.is_empty());
    // A new time namespace matters for threads inside.
    let begin = entry("got", "__vdso_clock_gettime");
    made.thread(THREAD, &registers(VDSO + begin.0 + 8));
    let inside = checked(&made, &kernel);
    assert!(inside.answer.is_yes());
    let codes: Vec<&str> = inside.broken.iter().map(Breakage::code).collect();
    assert_eq!(codes, ["other-time-namespace"]);
}

#[test]
fn another_vdso_that_criu_takes_for_the_same_is_told_by_its_build_id() {
    let kernel = onto("got");
    let mut made = at_home(&kernel);
    let build_id = kernel.source().build_id().unwrap().as_bytes().to_vec();
    let pages = made.held.files.get_mut("pages-1.img").unwrap();
    let mut windows = pages.windows(build_id.len());
    let at = windows.position(|window| window == build_id).unwrap();
    pages[at] ^= 1;
    let outside = checked(&made, &kernel);
    assert!(
        matches!(outside.answer, Answer::TakenForEqual),
        "{:?}",
        outside.answer
    );
    let begin = entry("got", "__vdso_clock_gettime");
    made.thread(THREAD, &registers(VDSO + begin.0 + 8));
    let inside = checked(&made, &kernel);
    let Answer::No(no @ No::TakenForEqual { .. }) = &inside.answer else {
        panic!("{:?}", inside.answer);
    };
    assert_eq!(no.code(), "taken-for-equal");
    let codes: Vec<&str> = inside.broken.iter().map(Breakage::code).collect();
    assert_eq!(codes, ["other-code"]);
}

#[test]
fn memory_that_old_kernels_do_not_know_is_a_no() {
    let kernel = onto("reordered");
    let Some(version) = kernel.source().linux_version() else {
        panic!("the fixture says no version");
    };
    let is_old = |first: (u32, u32)| version.series() < first;
    let heap = STACK + 0x10_0000;
    let mut made = Made::new("bare");
    let own = |bits| {
        [
            mapping(STACK, STACK + STACK_PAGES * PAGE, STACK_BITS),
            mapping(heap, heap + PAGE, bits),
            mapping(DATA, VDSO, (1 | 1 << 12 | 1 << 9, 0x22, 1)),
            mapping(VDSO, VDSO + 4 * PAGE, (1 | 1 << 3 | 1 << 9, 0x22, 5)),
        ]
    };
    for (bits, first, code) in [
        (DROPPABLE_BITS, (6, 11), "droppable-memory"),
        (GUARD_BITS, (6, 13), "guard-pages"),
    ] {
        made.mappings(&own(bits));
        let checked = checked(&made, &kernel);
        match (&checked.answer, is_old(first)) {
            (Answer::No(no), true) => assert_eq!(no.code(), code),
            (Answer::No(No::Refused(error)), false) => panic!("{error}"),
            (answer, is_old) => assert!(answer.is_yes() != is_old, "{answer:?}"),
        }
    }
}

#[test]
fn a_task_that_had_ended_needs_nothing() {
    let mut made = Made::new("bare");
    let mut core = crate::arch::Core::of(&registers(0));
    core.task = Some(crate::messages::TaskCore {
        state: Some(2),
        name: Some("gone".to_owned()),
        limits: None,
    });
    let bytes = prost::Message::encode_to_vec(&core);
    made.put(
        &format!("core-{PID}.img"),
        crate::image_file::Kind::Core,
        &[bytes],
    );
    made.remove("mm-7.img");
    let checked = checked(&made, &onto("got"));
    assert!(
        matches!(checked.answer, Answer::Ended),
        "{:?}",
        checked.answer
    );
}
