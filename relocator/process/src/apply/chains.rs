//! Tools that are killed one after the other, each of which finds what those before have left: in
//! the end the process can be linked, and becomes what it was.

use elf_tools::Avma;
use elf_tools::image::Image;
use proptest::collection::vec;
use proptest::prelude::*;
use relocator::criu::{self, Mark};
use relocator::placement::PAGE;
use relocator::source::Source;

use super::outcome::ApplyState;
use super::pretend::{self, OLD};
use super::tests::{PROGRAM, STATES, flat, kernel, options, process, survey};
use super::{RunningKernel, Work, apply_to, prepare_of, rollback_of};
use crate::targets::pretended::{Part, Pretended};

/// Places of the kernel's mappings: out of reach of the old text, and within on either side.
const UNITS: [u64; 4] = [
    pretend::UNIT,
    OLD + 0x100_0000,
    OLD - 0x100_0000,
    OLD - 0x2_0000,
];

/// The old image, as a user has it; perhaps with nothing free behind it.
fn source(is_full: bool) -> Source {
    let mut bytes = pretend::image("got");
    if is_full {
        fill(&mut bytes);
    }
    Source {
        image: Some(Image::parse(&bytes).unwrap()),
        ..Source::named("old")
    }
}

/// Makes an image as large as its pages, but for what the tool adds to it besides the record: its
/// section headers, with which it ends, come last.
fn fill(bytes: &mut [u8]) {
    const LEFT: usize = 600;
    const OFFSET: std::ops::Range<usize> = 40..48;
    let word = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let size = word(58) * word(60);
    let offset = u64::from_le_bytes(bytes[OFFSET].try_into().unwrap()) as usize;
    let place = (bytes.len() - LEFT - size) / 8 * 8;
    bytes.copy_within(offset..offset + size, place);
    bytes[OFFSET].copy_from_slice(&(place as u64).to_le_bytes());
}

/// Makes the text of a process full, and maps a library behind it: a link record has room before
/// the text alone.
fn enclose(process: &mut Pretended) {
    let text = process.part(OLD).1.as_mut().unwrap();
    fill(text);
    let behind = OLD + text.len() as u64;
    let code = vec![0x90; PAGE as usize];
    process.put(behind, pretend::CODE, "/lib/library", Some(code));
    process.sort();
}

/// A process that CRIU has restored: with its jumps and its mark.
fn restored(unit: u64, has_jumps: bool) -> Pretended {
    let mut process = process("got", &[PROGRAM]);
    process.parts.retain(|part| !part.0.name.starts_with("[v"));
    process.unit(unit);
    process.sort();
    process.part(STATES).1 = Some(vec![0; PAGE as usize]);
    let vdso = unit + 6 * PAGE;
    if has_jumps {
        let parse = |bytes: &[u8]| Image::parse(bytes).unwrap();
        let (old, new) = (parse(&pretend::image("got")), parse(&pretend::new()));
        let patched = criu::patch(&old, &new, Avma(vdso)).unwrap();
        process.part(OLD).1 = Some(patched.bytes);
    }
    let mark = Mark {
        old_vdso: Avma(OLD),
        old_vvar: Avma(OLD - 2 * PAGE),
        new_vvar: Avma(unit),
    };
    let bytes = process.part(vdso).1.as_mut().unwrap();
    bytes[..Mark::SIZE].copy_from_slice(&mark.bytes());
    process
}

/// A tool begins, and is killed after some of its steps: of 256 parts so many.
fn be_killed(
    process: &mut Pretended,
    kernel: &RunningKernel,
    sources: &[Source],
    (work, part): (usize, u8),
) -> Result<(), TestCaseError> {
    let work = [Work::Link, Work::Undo, Work::Prepare][work];
    let survey = survey(process, kernel, sources);
    let planned = work.plan(process, &survey, kernel, &options());
    let failed = |error: crate::Error| TestCaseError::fail(format!("{work:?}: {error}"));
    let (transaction, _) = planned.map_err(failed)?;
    let Some(transaction) = transaction else {
        return Ok(());
    };
    let steps = transaction.steps(&survey, kernel, process, &survey.mappings);
    let steps = steps.map_err(failed)?.0;
    let count = steps.len() * (usize::from(part) + 1) / 256;
    process.carry_out_until_killed(&steps, count);
    Ok(())
}

/// A record that has room before the text alone.
#[test]
fn a_dump_finds_a_text_with_a_record_before_it() {
    let (kernel, sources) = (kernel(), [source(true)]);
    for has_jumps in [false, true] {
        let mut process = restored(pretend::UNIT, has_jumps);
        enclose(&mut process);
        let before = process.clone();
        let linked = apply_to(&mut process, &kernel, &sources, &options()).unwrap();
        assert_eq!(linked.state, ApplyState::Linked);
        let found = survey(&process, &kernel, &sources).texts.remove(0);
        assert_eq!(found.found.mapping.start, Avma(OLD - PAGE));
        assert!(found.record.is_some());
        process.part(OLD);
        // As a tool that is killed leaves it, the text is joined with the page before.
        let page = process.part(OLD - PAGE).1.take().unwrap();
        process
            .parts
            .retain(|part| part.0.range.start != Avma(OLD - PAGE));
        let (mapping, content) = process.part(OLD);
        mapping.range.start = Avma(OLD - PAGE);
        content.as_mut().unwrap().splice(0..0, page);
        let done = apply_to(&mut process, &kernel, &sources, &options()).unwrap();
        assert_eq!(done.state, ApplyState::Completed);
        process.part(OLD);
        // Prepared, its placeholder is one mapping.
        let mut prepared = process.clone();
        prepare_of(&mut prepared, &kernel, &sources, &options()).unwrap();
        let zeros = prepared.part(OLD - 2 * PAGE);
        assert_eq!(zeros.0.range.end, Avma(OLD));
        for mut process in [process, prepared] {
            rollback_of(&mut process, &kernel, &sources, &options()).unwrap();
            assert_eq!(flat(&process), flat(&before));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn after_any_chain_of_killed_tools_a_process_can_go_back(
        (unit, has_jumps) in (0..UNITS.len(), any::<bool>()),
        (is_full, calls_elsewhere) in any::<(bool, bool)>(),
        kills in vec((0..3_usize, any::<u8>()), 1..8),
    ) {
        let (kernel, sources) = (kernel(), [source(is_full)]);
        let mut process = restored(UNITS[unit], has_jumps);
        process.calls_elsewhere = calls_elsewhere;
        if is_full {
            enclose(&mut process);
        }
        let before = process.clone();
        for kill in kills {
            be_killed(&mut process, &kernel, &sources, kill)?;
        }
        let failed = |error: crate::Error| TestCaseError::fail(error.to_string());
        apply_to(&mut process, &kernel, &sources, &options()).map_err(failed)?;
        let again = apply_to(&mut process, &kernel, &sources, &options()).map_err(failed)?;
        prop_assert_eq!(again.state, ApplyState::AlreadyLinked);
        let is_apart = process.parts.iter().any(|part| part.0.range.start == Avma(OLD));
        prop_assert!(is_apart, "a dump does not find the text");
        rollback_of(&mut process, &kernel, &sources, &options()).map_err(failed)?;
        let (now, before) = (flat(&process), flat(&before));
        let places = |all: &[Part]| all.iter().map(|part| part.0.clone()).collect::<Vec<_>>();
        prop_assert_eq!(places(&now), places(&before));
        for ((mapping, now), (_, before)) in now.iter().zip(&before) {
            let mark = |bytes: &Option<Vec<u8>>| bytes.as_ref().and_then(|bytes| Mark::read(bytes));
            prop_assert_eq!(mark(now), mark(before));
            prop_assert!(now == before, "{:?}", mapping.range);
        }
    }
}
