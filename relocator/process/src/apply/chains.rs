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
use super::{RunningKernel, Work, apply_to, rollback_of};
use crate::targets::pretended::{Part, Pretended};

/// Places of the kernel's mappings: out of reach of the old text, and within on either side.
const UNITS: [u64; 4] = [
    pretend::UNIT,
    OLD + 0x100_0000,
    OLD - 0x100_0000,
    OLD - 0x2_0000,
];

/// The old image, as a user has it.
fn source() -> Source {
    Source {
        image: Some(Image::parse(&pretend::image("got")).unwrap()),
        ..Source::named("old")
    }
}

/// A process that CRIU has restored: with its jumps and its mark.
fn restored(unit: u64, has_jumps: bool, (is_followed, calls_elsewhere): (bool, bool)) -> Pretended {
    let mut process = process("got", &[PROGRAM]);
    process.calls_elsewhere = calls_elsewhere;
    if is_followed {
        let next = OLD + pretend::image("got").len() as u64;
        process.put(next, pretend::READ, "/a/file", Some(vec![1; PAGE as usize]));
    }
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn after_any_chain_of_killed_tools_a_process_can_go_back(
        (unit, has_jumps) in (0..UNITS.len(), any::<bool>()),
        (is_followed, calls_elsewhere) in any::<(bool, bool)>(),
        kills in vec((0..3_usize, any::<u8>()), 1..8),
    ) {
        let (kernel, sources) = (kernel(), [source()]);
        let mut process = restored(UNITS[unit], has_jumps, (is_followed, calls_elsewhere));
        let before = process.clone();
        for kill in kills {
            be_killed(&mut process, &kernel, &sources, kill)?;
        }
        let failed = |error: crate::Error| TestCaseError::fail(error.to_string());
        apply_to(&mut process, &kernel, &sources, &options()).map_err(failed)?;
        let again = apply_to(&mut process, &kernel, &sources, &options()).map_err(failed)?;
        prop_assert_eq!(again.state, ApplyState::AlreadyLinked);
        rollback_of(&mut process, &kernel, &sources, &options()).map_err(failed)?;
        let (now, before) = (flat(&process), flat(&before));
        let places = |all: &[Part]| all.iter().map(|part| part.0.clone()).collect::<Vec<_>>();
        prop_assert_eq!(places(&now), places(&before));
        for ((mapping, now), (_, before)) in now.iter().zip(&before) {
            prop_assert!(now == before, "{:?}", mapping.range);
        }
    }
}
