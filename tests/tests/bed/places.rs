//! Where things are put, and what is refused.

use std::process::{Command, Stdio};
use std::thread;

use elf_tools::Avma;
use relocator_tests::bed::Bed;
use relocator_tests::bed::control::COVERED;
use relocator_tests::trials::ensure;

use crate::hammered::hammer;
use crate::look::{looks_restored, maps};
use crate::{SECOND, any};

const PAGE: u64 = 4096;

/// There is as much room as was asked for, and the unit is where it was to be.
pub(crate) fn places_can_be_chosen() -> Result<(), String> {
    let chosen = Bed {
        text: Some(Avma(0x7e12_3456_7000)),
        park: Avma(0x7a00_0000_0000),
        room_below: Some(0),
        room_behind: Some(2 * PAGE),
        ..any()?
    };
    let hammer = hammer(&chosen, 2, 0)?;
    hammer.control.set_right(COVERED);
    looks_restored(&chosen, &hammer.restored)?;
    let maps = maps(hammer.restored.pid())?;
    let (zeros, text) = (&hammer.restored.zeros, &hammer.restored.text);
    ensure(Some(text.start) == chosen.text, || format!("{text:?}"))?;
    let starts = |at: u64| maps.iter().any(|map| map.address.0 == at);
    let ends = |at: u64| maps.iter().any(|map| map.address.1 == at);
    ensure(ends(zeros.start.0) && !starts(text.end.0), || {
        format!("{maps:?}")
    })?;
    ensure(starts(text.end.0 + 2 * PAGE), || format!("{maps:?}"))?;
    thread::sleep(SECOND / 4);
    hammer.finish().map(drop)
}

/// What cannot be is refused, and nothing is left behind.
pub(crate) fn what_cannot_be_is_refused() -> Result<(), String> {
    let good = any()?;
    let start = |bed: &Bed, program: &str| {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        bed.launch(command).map(drop)
    };
    let refusals = [
        (start(&good, "/proc/nothing"), "No such file"),
        (
            start(
                &Bed {
                    text: Some(Avma(0x1234)),
                    ..good.clone()
                },
                "true",
            ),
            "start of a page",
        ),
        (
            start(
                &Bed {
                    text: Some(Avma(0x1000)),
                    ..good.clone()
                },
                "true",
            ),
            "too low",
        ),
        (
            start(
                &Bed {
                    text: Some(Avma(u64::MAX - 0xfff)),
                    ..good.clone()
                },
                "true",
            ),
            "too high",
        ),
        (
            start(
                &Bed {
                    text: Some(Avma(0xffff_8000_0000_0000)),
                    ..good.clone()
                },
                "true",
            ),
            "mapping",
        ),
        (
            start(
                &Bed {
                    park: Avma(0xffff_8000_0000_0000),
                    ..good.clone()
                },
                "true",
            ),
            "moving",
        ),
    ];
    for (refusal, words) in refusals {
        let is_right = refusal
            .as_ref()
            .is_err_and(|error| relocator::in_words(error).contains(words));
        ensure(is_right, || format!("{words}: {refusal:?}"))?;
    }
    Ok(())
}
