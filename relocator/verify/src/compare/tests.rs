//! The running kernel's own image as the old one: everything that can be compared is.

use elf_tools::image::Image;
use elf_tools::symtab::{Provenance, elf};

use super::*;
use crate::Approach;
use crate::in_flight::VariantCounts;
use crate::tests::running;

fn options() -> CompareOptions {
    CompareOptions {
        rounds: 4,
        batches: 5,
        batch: 200,
        links: 3,
        in_flight: Vec::new(),
        ..CompareOptions::default()
    }
}

#[test]
fn every_way_is_checked_and_timed() {
    let source = relocator_process::running::own().unwrap();
    let running = Running {
        symtab: source.symtab,
        ..running()
    };
    let image = || running.image.clone();
    let derived = Old::derive(image(), running.symtab.as_ref().unwrap()).unwrap();
    let kernel = |name: &str, old| OldKernel {
        name: name.to_owned(),
        old,
        home: running.symtab.clone(),
        no_in_flight: None,
    };
    let bare = Old::with_table(image(), None).unwrap();
    let olds = [kernel("bare", bare), kernel("derived", derived)];
    let comparison = compare(&olds, &running, &options(), &|_| {}).unwrap();
    let [bare, old] = comparison.olds.as_slice() else {
        panic!("{comparison:#?}")
    };
    let relocated = &bare.rows[0];
    assert_eq!((relocated.covered, relocated.timings.len()), (0, 0));
    assert!(relocated.reason.is_some());
    let approaches: Vec<Approach> = old.rows.iter().map(|row| row.approach).collect();
    assert_eq!(approaches, Approach::ALL);
    for row in old.rows.iter().filter(|row| row.code_of.is_none()) {
        assert!(row.calls > 1000);
        assert_eq!(row.timings.len(), 6);
        let mut timings = row.timings.iter();
        assert!(timings.all(|timing| timing.nanoseconds > 0.0 && timing.ratio.is_some()));
        let checked: u64 = row.checks.iter().map(|check| check.mismatches).sum();
        assert_eq!(row.mismatches, checked);
        assert!(row.no_in_flight.is_some());
    }
    for row in old.rows.iter().filter(|row| row.approach.is_ours()) {
        assert_eq!((row.mismatches, &row.first_mismatch), (0, &None));
        assert_eq!(row.covered, row.functions, "{row:#?}");
        assert!(row.timings.iter().all(|timing| !timing.wrong));
    }
    what_is_on_zeros_is_wrong(old);
    costs_are_counted(old);
    let native = row(old, Approach::Native).timing("time").unwrap();
    assert_eq!(native.ratio, Some(1.0));
}

fn row(old: &OldComparison, approach: Approach) -> &Row {
    old.rows
        .iter()
        .find(|row| row.approach == approach)
        .unwrap()
}

/// CRIU does not know `clock_getres`; without jumps coarse clocks say 0.
fn what_is_on_zeros_is_wrong(old: &OldComparison) {
    let wrong = |approach| {
        let checks = row(old, approach).checks.iter();
        let wrong = checks.filter(|check| check.mismatches > 0);
        wrong.map(|check| check.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(wrong(Approach::Criu), ["__vdso_clock_getres"]);
    assert_eq!(row(old, Approach::Criu).covered, 4);
    let nothing = wrong(Approach::Nothing);
    for name in ["__vdso_clock_gettime", "__vdso_clock_getres", "__vdso_time"] {
        assert!(nothing.contains(&name), "{nothing:?}");
    }
    let timing = |approach, call: TimedCall| row(old, approach).timing(call.name()).unwrap();
    assert!(timing(Approach::Nothing, TimedCall::MonotonicCoarse).wrong);
    assert!(timing(Approach::Criu, TimedCall::Getres).wrong);
    assert!(!timing(Approach::Criu, TimedCall::Monotonic).wrong);
    assert!(!timing(Approach::Nothing, TimedCall::Getcpu).wrong);
}

fn costs_are_counted(old: &OldComparison) {
    let cost = |approach| row(old, approach).cost;
    for approach in [
        Approach::Relocate,
        Approach::Proxy,
        Approach::Syscall,
        Approach::Criu,
    ] {
        let cost = cost(approach).unwrap();
        assert!(
            cost.link_us > 0.0 && cost.bytes_written > 20,
            "{approach}: {cost:?}"
        );
        assert!(
            cost.boundaries > 300 && cost.boundaries_moved < 40,
            "{approach}: {cost:?}"
        );
    }
    let of = |approach| cost(approach).unwrap().boundaries_moved;
    assert!(of(Approach::Criu) > of(Approach::Relocate));
    assert_eq!(cost(Approach::Nothing).unwrap().bytes_written, 0);
    assert_eq!(cost(Approach::Native), None);
    let step_out = row(old, Approach::StepOut);
    assert_eq!(step_out.code_of, Some(Approach::Relocate));
    assert_eq!(
        step_out.cost.unwrap().bytes_written,
        cost(Approach::Relocate).unwrap().bytes_written
    );
}

/// An image of a fixture in which a function begins with an instruction that no processor has.
fn with_invalid_instruction(name: &str) -> OldKernel {
    const INVALID: [u8; 2] = [0x0f, 0x0b];
    let fixture = kernel_fixtures::fixture::find("got").unwrap();
    let mut bytes = fixture.image.to_vec();
    let image = Image::parse(&bytes).unwrap();
    let entry = image.export(name).unwrap().address.index();
    bytes[entry..entry + INVALID.len()].copy_from_slice(&INVALID);
    OldKernel {
        name: "invalid".to_owned(),
        old: Old::read(Image::parse(&bytes).unwrap()).unwrap(),
        home: fixture
            .symtab
            .map(|bytes| elf::read(bytes, Provenance::Exported).unwrap()),
        no_in_flight: None,
    }
}

#[test]
fn a_crash_costs_only_the_rows_that_execute_it() {
    let source = relocator_process::running::own().unwrap();
    let running = Running {
        symtab: source.symtab,
        ..running()
    };
    let old = with_invalid_instruction("__vdso_clock_gettime");
    let options = CompareOptions {
        in_flight: vec![Namespaces {
            old: false,
            new: false,
        }],
        ..options()
    };
    let comparison = compare(&[old], &running, &options, &|_| {}).unwrap();
    let old = &comparison.olds[0];
    for approach in [Approach::Relocate, Approach::StepOut, Approach::Nothing] {
        let failure = &row(old, approach).failure;
        let Some(Failure::Crashed { signal, doing }) = failure else {
            panic!("{approach}: {failure:?}");
        };
        assert_eq!(signal, "SIGILL");
        assert!(doing.contains("in __vdso_clock_gettime"), "{doing}");
    }
    for approach in [
        Approach::Proxy,
        Approach::Syscall,
        Approach::Native,
        Approach::Criu,
    ] {
        let row = row(old, approach);
        assert_eq!(row.failure, None, "{approach}");
        assert!(row.calls > 1000 && !row.timings.is_empty(), "{row:#?}");
        let is_right = row.mismatches == 0 || approach == Approach::Criu;
        assert!(is_right, "{row:#?}");
        assert!(row.no_in_flight.is_some(), "{row:#?}");
    }
    assert!(!comparison.is_good());
    let failures = comparison.failures();
    let wrong: Vec<Approach> = failures.iter().map(|defect| defect.approach).collect();
    assert_eq!(wrong, [Approach::Relocate, Approach::StepOut]);
    assert!(
        failures[0]
            .to_string()
            .starts_with("invalid, relocate: the process was killed by SIGILL")
    );
}

/// A row that agrees, and one that a defect is put into.
fn sound(approach: Approach) -> Row {
    Row {
        calls: 10,
        ..Row::empty(approach, 1, None)
    }
}

fn is_good(row: Row) -> bool {
    let rows = vec![row];
    let name = "an image".to_owned();
    let olds = vec![OldComparison { name, rows }];
    Comparison { olds }.is_good()
}

fn flight(direct: Counts, frames: Counts) -> Flight {
    let variants = [(Variant::Direct, direct), (Variant::Frame, frames)];
    let variants = variants.map(|(variant, worst)| VariantCounts { variant, worst });
    Flight {
        namespaces: Vec::new(),
        boundaries: 9,
        reached: 9,
        experiments: 99,
        worst: [direct, frames].iter().sum(),
        variants: variants.into(),
        functions: Vec::new(),
    }
}

/// Puts a defect into a row.
type Change = fn(&mut Row);

#[test]
fn what_ours_get_wrong_makes_a_comparison_fail() {
    let lost = |count| Counts {
        crashed: count,
        ..Counts::default()
    };
    let changes: [(&str, Change); 3] = [
        ("differs", |row| row.mismatches = 1),
        ("hangs", |row| {
            let doing = "in time".to_owned();
            row.failure = Some(Failure::Hung { doing });
        }),
        ("fails", |row| {
            let what = "sent nothing".to_owned();
            row.failure = Some(Failure::Child { what });
        }),
    ];
    for approach in Approach::ALL {
        assert!(is_good(sound(approach)));
        for (what, change) in changes {
            let mut row = sound(approach);
            change(&mut row);
            assert_eq!(is_good(row), !approach.is_ours(), "{approach} {what}");
        }
        for (direct, frames) in [(1, 0), (0, 1)] {
            let row = Row {
                in_flight: Some(flight(lost(direct), lost(frames))),
                ..sound(approach)
            };
            let excused = approach == Approach::StepOut && direct == 0;
            let good = !approach.is_ours() || excused;
            assert_eq!(is_good(row), good, "{approach}: {direct}, {frames}");
        }
        let stuck = Counts {
            stuck: 1,
            ..Counts::default()
        };
        assert!(is_good(Row {
            in_flight: Some(flight(stuck, stuck)),
            failure: Some(Failure::Refused {
                reason: "no table".to_owned()
            }),
            ..sound(approach)
        }));
    }
}

#[test]
fn failures_have_codes_in_json() {
    let failure = Failure::Crashed {
        signal: "SIGILL".to_owned(),
        doing: "in time".to_owned(),
    };
    let json = serde_json::to_value(&failure).unwrap();
    assert_eq!(json["code"], failure.code());
    assert_eq!(serde_json::from_value::<Failure>(json).unwrap(), failure);
}
