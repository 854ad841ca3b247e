//! Processes as a restore leaves them: what is recognised in them, and where the kernel's mappings would go.

use std::ops::Range;
use std::process::Command;

use elf_tools::Avma;
use relocator::placement::PAGE;
use relocator_cli::source::Spec;
use relocator_process::apply::place::{Limits, REACH, Unit, UnitPlace, place, room};
use relocator_process::apply::recognise::{KernelMapping, Own, Seen};
use relocator_process::targets::live::Running;
use relocator_tests::bed::{Bed, Restored, old_vdso};

const LIMITS: Limits = Limits {
    lowest: 0x1_0000,
    highest: 1 << 47,
};

fn own() -> Own {
    Own::of(&Spec::Own.open().unwrap()).unwrap()
}

fn bed() -> Bed {
    Bed::new(old_vdso(&"fixture:operands".parse().unwrap()).unwrap())
}

fn launch(bed: &Bed) -> Restored {
    let mut command = Command::new("sleep");
    command.arg("60");
    bed.launch(command).unwrap()
}

fn size(unit: &[KernelMapping]) -> u64 {
    let sizes = unit
        .iter()
        .map(|part| part.range.end.0 - part.range.start.0);
    sizes.sum()
}

fn overlaps(one: &Range<Avma>, other: &Range<Avma>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Where the kernel's mappings would go in a process, which must not meet anything there but zeros.
fn placed(seen: &Seen) -> Range<Avma> {
    let unit = &seen.found.kernel.as_ref().unwrap().mappings;
    let [text] = &seen.found.old[..] else {
        panic!("{:?}", seen.found);
    };
    let texts = [text.mapping.clone()];
    let zeros = seen.placeholders[0].clone().unwrap();
    let unit = Unit { mappings: unit };
    let placed = place(unit, &texts, Some(zeros.clone()), &seen.mappings, LIMITS).unwrap();
    let UnitPlace::At(at) = placed else {
        panic!("{placed:?}");
    };
    let range = at..Avma(at.0 + size(unit.mappings));
    for mapping in &seen.mappings {
        assert!(
            !overlaps(&range, &mapping.range) || mapping.range == zeros,
            "{range:?}: {mapping:?}"
        );
    }
    assert!(range.end.0.abs_diff(texts[0].start.0) <= REACH);
    assert!(range.start.0.abs_diff(texts[0].end.0) <= REACH);
    range
}

#[test]
fn the_place_is_that_of_the_old_vvar_if_there_is_room() {
    let own = own();
    for pages in [0, 1, 64] {
        let bed = Bed {
            room_below: Some(pages * PAGE),
            ..bed()
        };
        let restored = launch(&bed);
        let seen = Seen::of(&Running::of(restored.pid()), &own).unwrap();
        let range = placed(&seen);
        let size = range.end.0 - range.start.0;
        let zeros = restored.zeros.end.0 - restored.zeros.start.0;
        let is_room = zeros + pages * PAGE >= size;
        assert_eq!(range.end == restored.text.start, is_room, "{pages}");
        let text = &seen.found.old[0];
        let room = |zeros| room(text, zeros, &seen.mappings, LIMITS, 1000);
        let before = room(seen.placeholders[0].clone()).before as u64;
        assert_eq!(before, zeros / PAGE + pages);
        assert_eq!(room(None).before, 0);
    }
}

#[test]
fn a_program_with_libraries_has_no_old_vdso() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    // Until it is executed it is a copy of this process, which has none either.
    let seen = Seen::of(&Running::of(child.id().cast_signed()), &own());
    child.kill().unwrap();
    child.wait().unwrap();
    let seen = seen.unwrap();
    assert!(seen.found.old.is_empty(), "{:?}", seen.found.old);
    assert!(seen.found.kernel.unwrap().is_whole());
    assert!(
        seen.found.misleading_names.is_empty(),
        "{:?}",
        seen.found.misleading_names
    );
}

#[test]
fn a_process_that_has_ended_is_an_error() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let error = Seen::of(&Running::of(child.id().cast_signed()), &own());
    assert!(error.is_err(), "{error:?}");
}
