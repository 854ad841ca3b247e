//! A pretended process is made ready for a dump, and the tool is killed behind every step.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::image::Image;
use relocator::criu::Mark;
use relocator::placement::PAGE;
use relocator::threads::Memory;

use super::super::outcome::ApplyState;
use super::super::pretend::{self, OLD, READ, UNIT};
use super::super::recognise::{Own, recognise};
use super::super::tests::{NOTHING, PROGRAM, flat, kernel, options, process, steps};
use super::super::{RunningKernel, Work, apply_to, prepare_of, rollback_of};
use super::*;
use crate::targets::pretended::Pretended;
use crate::targets::{Mapping, StoppedTarget, Target};

/// The pages of zeros before the old vDSO.
const ZEROS: Range<Avma> = Avma(OLD - 2 * PAGE)..Avma(OLD);

/// A process as CRIU leaves it: with its mark.
fn restored(places: &[u64]) -> Pretended {
    let mut process = process("got", places);
    let mark = Mark {
        old_vdso: Avma(OLD),
        old_vvar: ZEROS.start,
        new_vvar: Avma(UNIT),
    };
    let vdso = process.part(UNIT + 6 * PAGE).1.as_mut().unwrap();
    vdso[..Mark::SIZE].copy_from_slice(&mark.bytes());
    process
}

fn mark(process: &Pretended, kernel: &RunningKernel) -> Mark {
    let found = recognise(process, &kernel.own).unwrap();
    found.kernel.unwrap().mark.unwrap()
}

fn vvar(process: &Pretended) -> Avma {
    let mappings = process.mappings().unwrap();
    let found = mappings.iter().find(|mapping| mapping.name == "[vvar]");
    found.unwrap().range.start
}

fn mapping(process: &Pretended, start: Avma) -> Option<Mapping> {
    let mappings = process.mappings().unwrap();
    mappings
        .into_iter()
        .find(|mapping| mapping.range.start == start)
}

/// Without megabytes of words.
fn assert_same(process: &Pretended, before: &Pretended, what: &str) {
    let (now, before) = (flat(process), flat(before));
    let mappings = |all: &[(Mapping, Option<Vec<u8>>)]| -> Vec<_> {
        let names = all
            .iter()
            .map(|(one, _)| (one.range.clone(), one.name.clone()));
        names.collect()
    };
    assert_eq!(mappings(&now), mappings(&before), "{what}");
    for (now, before) in now.iter().zip(&before) {
        assert!(now == before, "{what}: {:?}", now.0);
    }
}

/// The old text and what its entries of functions lead to, for which a system call stands in.
fn assert_prepared(process: &Pretended, kernel: &RunningKernel, what: &str) {
    let expected = Mark {
        old_vdso: Avma(OLD),
        old_vvar: ZEROS.start,
        new_vvar: vvar(process),
    };
    assert_eq!(mark(process, kernel), expected, "{what}");
    // A dump finds the text and the placeholder as mappings by themselves, as large as they were.
    let original = pretend::image("got");
    let text = mapping(process, Avma(OLD)).unwrap();
    assert_eq!(text.size(), original.len() as u64, "{what}");
    assert_eq!(
        mapping(process, ZEROS.start).unwrap().range,
        ZEROS,
        "{what}"
    );
    assert_eq!(mapping(process, ZEROS.start).unwrap().protection, READ);
    let mut bytes = vec![0; original.len()];
    assert!(process.read(Avma(OLD), &mut bytes));
    let image = Image::parse(&original).unwrap();
    let mut expected = original.clone();
    for name in ["clock_gettime", "gettimeofday", "time", "getcpu"] {
        let entry = image.export(&format!("__vdso_{name}")).unwrap().address;
        let at = entry.index();
        let distance = i32::from_le_bytes(bytes[at + 1..at + 5].try_into().unwrap());
        assert_eq!(bytes[at], 0xe9, "{what}: {name}");
        let stub = Avma(OLD + at as u64 + 5).offset(distance.into());
        assert!(!text.range.contains(&stub), "{what}: {name}");
        let call = proxy::system_call(name).unwrap();
        let mut code = [0; 8];
        assert!(process.read(stub, &mut code), "{what}: {name}");
        assert_eq!(code, proxy::plain_system_call(call), "{what}: {name}");
        expected[at..at + 5].copy_from_slice(&bytes[at..at + 5]);
    }
    let random = image
        .export("__vdso_getrandom")
        .map(|export| export.address.index());
    let others = image
        .export("__vdso_clock_getres")
        .map(|export| export.address.index());
    for at in random.into_iter().chain(others) {
        assert_eq!(bytes[at], 0xe9, "{what}");
        expected[at..at + 5].copy_from_slice(&bytes[at..at + 5]);
    }
    assert!(bytes == expected, "{what}: the text is another");
}

#[test]
fn a_linked_process_is_guarded_by_a_decoy() {
    let kernel = kernel();
    let mut process = restored(&[PROGRAM]);
    let before = process.clone();
    let linked = apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(linked.state, ApplyState::Linked);
    // The placeholder stays whole, and the mark leads to something else, which is no vvar of any
    // kernel.
    assert_eq!(mapping(&process, ZEROS.start).unwrap().range, ZEROS);
    let guarded = mark(&process, &kernel);
    let decoy = mapping(&process, guarded.old_vvar).unwrap();
    assert_eq!((decoy.size(), decoy.protection), (PAGE, READ));
    assert!(decoy.range.start > vvar(&process));
    assert_eq!(guarded.new_vvar, Mark::NOWHERE);
    assert_eq!(guarded.old_vdso, Avma(OLD));

    let again = apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(again.state, ApplyState::AlreadyLinked);
    rollback_of(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(mark(&process, &kernel), mark(&before, &kernel));
    assert_eq!(process.mappings().unwrap(), before.mappings().unwrap());
}

/// Zeros that a restore has left where linked code read are made use of, and do not become more.
#[test]
fn generations_do_not_grow() {
    let kernel = kernel();
    let mut process = restored(&[PROGRAM]);
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let linked = apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
        assert_eq!(linked.state, ApplyState::Linked);
        sizes.push(process.parts.len());
        // What a dump and a restore make of it.
        let guarded = mark(&process, &kernel);
        let at = vvar(&process);
        process.parts.retain(|part| !part.0.name.starts_with("[v"));
        process.put(at.0, READ, "", Some(vec![0; 6 * PAGE as usize]));
        process.unit(UNIT);
        let mark = Mark {
            new_vvar: Avma(UNIT),
            ..guarded
        };
        let image = Image::parse(&pretend::image("got")).unwrap();
        let clock = image.export("__vdso_clock_gettime").unwrap().address;
        let new = Image::parse(&pretend::new()).unwrap();
        let target = new.export("__vdso_clock_gettime").unwrap().address;
        let jump = criu::jump(target.at(Avma(UNIT + 6 * PAGE)));
        let text = process.part(OLD).1.as_mut().unwrap();
        text[clock.index()..][..jump.len()].copy_from_slice(&jump);
        let vdso = process.part(UNIT + 6 * PAGE).1.as_mut().unwrap();
        vdso[..Mark::SIZE].copy_from_slice(&mark.bytes());
    }
    assert!(sizes.iter().all(|&size| size == sizes[0]), "{sizes:?}");
}

#[test]
fn a_process_is_prepared_linked_and_rolled_back() {
    let kernel = kernel();
    let found = recognise(&restored(&[]), &Own::of(&pretend::kernel()).unwrap()).unwrap();
    let image = Image::parse(&found.old[0].bytes).unwrap();
    let clock = image.export("__vdso_clock_gettime").unwrap().address;
    for is_linked in [false, true] {
        let mut process = restored(&[PROGRAM, clock.at(Avma(OLD)).0]);
        process.part(super::super::tests::STATES).1 = Some(vec![0; PAGE as usize]);
        let before = process.clone();
        if is_linked {
            apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
        }
        let prepared = prepare_of(&mut process, &kernel, NOTHING, &options()).unwrap();
        assert_eq!(prepared.state, ApplyState::Prepared);
        assert_prepared(&process, &kernel, "prepared");
        assert_eq!(process.threads, before.threads);
        let again = prepare_of(&mut process, &kernel, NOTHING, &options()).unwrap();
        assert_eq!(again.state, ApplyState::AlreadyPrepared);

        let mut linked = process.clone();
        let done = apply_to(&mut linked, &kernel, NOTHING, &options()).unwrap();
        assert_eq!(done.state, ApplyState::Linked);
        let same = apply_to(&mut linked, &kernel, NOTHING, &options()).unwrap();
        assert_eq!(same.state, ApplyState::AlreadyLinked);
        for mut process in [process, linked] {
            rollback_of(&mut process, &kernel, NOTHING, &options()).unwrap();
            assert_same(&process, &before, &format!("{is_linked}"));
        }
    }
}

/// The kernel's mappings are where the old vvar was, as other versions of this tool left them.
#[test]
fn the_kernels_mappings_make_way_for_the_placeholder() {
    let kernel = kernel();
    let mut process = restored(&[PROGRAM]);
    process
        .parts
        .retain(|part| part.0.range != ZEROS && !part.0.name.starts_with("[v"));
    let at = OLD - 7 * PAGE - pretend::new().len() as u64 + PAGE;
    process.unit(at);
    let vdso = process.part(at + 6 * PAGE).1.as_mut().unwrap();
    let mark = Mark {
        old_vdso: Avma(OLD),
        old_vvar: ZEROS.start,
        new_vvar: Avma(at),
    };
    vdso[..Mark::SIZE].copy_from_slice(&mark.bytes());
    let mut survey = super::super::tests::survey(&process, &kernel, NOTHING);
    let text = survey.texts.first_mut().unwrap();
    text.placeholder = Some(ZEROS);
    let (transaction, _) = plan(&survey, &kernel).unwrap();
    let transaction = transaction.unwrap();
    let steps = transaction.steps(&survey, &kernel, &process, &survey.mappings);
    process.carry_out(&steps.unwrap().0).unwrap();
    assert_prepared(&process, &kernel, "in the way");
}

#[test]
fn threads_leave_the_text_and_the_new_vdso() {
    let kernel = kernel();
    let image = Image::parse(&pretend::image("got")).unwrap();
    let new = Image::parse(&pretend::new()).unwrap();
    let entry = |image: &Image| image.export("__vdso_clock_gettime").unwrap().address;
    let old = entry(&image).at(Avma(OLD));
    let inside_new = entry(&new).at(Avma(UNIT + 6 * PAGE));
    let mut moved = 0;
    for offset in 0..64 {
        for place in [old, inside_new] {
            let mut process = restored(&[place.0 + offset]);
            let before = process.clone();
            match prepare_of(&mut process, &kernel, NOTHING, &options()) {
                Ok(outcome) => {
                    let now = process.threads[0].registers.pc;
                    // Where it reads nothing any more, it may go on behind what a restore overwrites.
                    let stays = now == old.offset(offset as i64) && offset >= criu::JUMP as u64;
                    assert!(
                        now == old || stays && place == old,
                        "{place} + {offset}: {now}"
                    );
                    moved += outcome.crossed.moved;
                }
                Err(Error::Busy { .. }) => assert_eq!(process, before, "{place} + {offset}"),
                Err(error) => panic!("{place} + {offset}: {error}"),
            }
        }
    }
    assert!(moved > 10, "{moved}");
}

/// The copies of the text.
fn copies(process: &Pretended) -> Vec<Range<Avma>> {
    let copies = process.parts.iter().filter(|(mapping, content)| {
        let bytes = content.as_ref();
        let is_elf = bytes.is_some_and(|bytes| bytes.starts_with(b"\x7fELF"));
        mapping.name.is_empty() && mapping.range.start != Avma(OLD) && is_elf
    });
    copies.map(|part| part.0.range.clone()).collect()
}

#[test]
fn threads_leave_stubs_that_go() {
    let kernel = kernel();
    let mut process = restored(&[PROGRAM]);
    prepare_of(&mut process, &kernel, NOTHING, &options()).unwrap();
    let copy = copies(&process);
    assert_eq!(copy.len(), 1, "{copy:?}");
    let image = Image::parse(&pretend::image("got")).unwrap();
    let entry = image.export("__vdso_time").unwrap().address.at(Avma(OLD));
    let mut word = [0; 5];
    assert!(process.read(entry, &mut word));
    let distance = i32::from_le_bytes(word[1..].try_into().unwrap());
    let stub = entry.offset(5 + i64::from(distance));
    let stack = process.threads[0].registers.general[elf_tools::reentry::Register::RSP.index()];
    let caller = PROGRAM + 0x10;
    for (offset, expected, depth) in [(0, entry.0, 0), (5, entry.0, 0), (7, caller, 8)] {
        let mut process = process.clone();
        process.threads[0].registers.pc = stub.offset(offset);
        let bytes = process
            .parts
            .iter_mut()
            .find(|part| part.0.range.contains(&Avma(stack)));
        let (mapping, content) = bytes.unwrap();
        let at = (stack - mapping.range.start.0) as usize;
        content.as_mut().unwrap()[at..at + 8].copy_from_slice(&caller.to_le_bytes());
        apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
        let registers = process.threads[0].registers;
        assert_eq!(registers.pc, Avma(expected), "{offset}");
        let now = registers.general[elf_tools::reentry::Register::RSP.index()];
        assert_eq!(now, stack + depth, "{offset}");
        assert_eq!(copies(&process), [], "{offset}");
    }
}

#[test]
fn a_copy_that_a_thread_is_in_stays() {
    let kernel = kernel();
    let mut process = restored(&[PROGRAM]);
    prepare_of(&mut process, &kernel, NOTHING, &options()).unwrap();
    let copy = copies(&process);
    assert_eq!(copy.len(), 1, "{copy:?}");
    process.threads[0].registers.pc = copy[0].end.offset(-8);
    let before = process.threads.clone();
    apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(process.threads, before);
    assert_eq!(copies(&process), copy);
    // When it is left, the next tool that has something to do removes it.
    process.threads[0].registers.pc = Avma(PROGRAM);
    rollback_of(&mut process, &kernel, NOTHING, &options()).unwrap();
    assert_eq!(copies(&process), []);
}

#[test]
fn whoever_comes_after_a_killed_tool_can_prepare_link_and_go_back() {
    let kernel = kernel();
    let mut before = restored(&[PROGRAM]);
    before.part(super::super::tests::STATES).1 = Some(vec![0; PAGE as usize]);
    let mut linked = before.clone();
    apply_to(&mut linked, &kernel, NOTHING, &options()).unwrap();
    let mut prepared = linked.clone();
    prepare_of(&mut prepared, &kernel, NOTHING, &options()).unwrap();
    let starts = [
        (&before, Work::Prepare),
        (&linked, Work::Prepare),
        (&prepared, Work::Link),
        (&prepared, Work::Undo),
    ];
    for (number, (start, work)) in starts.into_iter().enumerate() {
        let steps = steps(start, &kernel, NOTHING, work);
        assert!(steps.len() > 5, "{steps:?}");
        for count in 0..=steps.len() {
            let what = format!("{number}: {work:?} {count}");
            let mut left = start.clone();
            left.carry_out_until_killed(&steps, count);
            let mut ready = left.clone();
            prepare_of(&mut ready, &kernel, NOTHING, &options()).unwrap();
            assert_prepared(&ready, &kernel, &what);
            for mut process in [ready, left.clone()] {
                apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
                let same = apply_to(&mut process, &kernel, NOTHING, &options()).unwrap();
                assert_eq!(same.state, ApplyState::AlreadyLinked, "{what}");
                rollback_of(&mut process, &kernel, NOTHING, &options()).unwrap();
                assert_same(&process, &before, &what);
            }
            rollback_of(&mut left, &kernel, NOTHING, &options()).unwrap();
            assert_same(&left, &before, &what);
        }
    }
}
