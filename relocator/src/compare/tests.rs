//! The running kernel's own image as the old one: everything that can be compared is.

use super::*;
use crate::source::{Source, Spec};
use crate::verify::calls::Tally;
use crate::verify::tests::running;

fn options() -> Options {
    Options {
        rounds: 4,
        batches: 5,
        batch: 200,
        links: 3,
        in_flight: Vec::new(),
        ..Options::default()
    }
}

#[test]
fn every_way_is_checked_and_timed() {
    let source = Source::open(&Spec::Own).unwrap();
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
    let ways: Vec<Way> = old.rows.iter().map(|row| row.way).collect();
    assert_eq!(ways, Way::ALL);
    for row in old.rows.iter().filter(|row| row.code_of.is_none()) {
        assert!(row.calls > 1000);
        assert_eq!(row.timings.len(), 6);
        let mut timings = row.timings.iter();
        assert!(timings.all(|timing| timing.nanoseconds > 0.0 && timing.ratio.is_some()));
        let checked: u64 = row.checks.iter().map(|check| check.mismatches).sum();
        assert_eq!(row.mismatches, checked);
        assert!(row.no_in_flight.is_some());
    }
    for row in old.rows.iter().filter(|row| row.way.is_ours()) {
        assert_eq!((row.mismatches, &row.first_mismatch), (0, &None));
        assert_eq!(row.covered, row.functions, "{row:#?}");
        assert!(row.timings.iter().all(|timing| !timing.wrong));
    }
    what_is_on_zeros_is_wrong(old);
    costs_are_counted(old);
    let native = row(old, Way::Native).timing("time").unwrap();
    assert_eq!(native.ratio, Some(1.0));
}

fn row(old: &OldComparison, way: Way) -> &Row {
    old.rows.iter().find(|row| row.way == way).unwrap()
}

/// CRIU does not know `clock_getres`; without jumps coarse clocks say 0.
fn what_is_on_zeros_is_wrong(old: &OldComparison) {
    let wrong = |way| {
        let checks = row(old, way).checks.iter();
        let wrong = checks.filter(|check| check.mismatches > 0);
        wrong.map(|check| check.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(wrong(Way::Criu), ["__vdso_clock_getres"]);
    assert_eq!(row(old, Way::Criu).covered, 4);
    let nothing = wrong(Way::Nothing);
    for name in ["__vdso_clock_gettime", "__vdso_clock_getres", "__vdso_time"] {
        assert!(nothing.contains(&name), "{nothing:?}");
    }
    let timing = |way, call: TimedCall| row(old, way).timing(call.name()).unwrap();
    assert!(timing(Way::Nothing, TimedCall::MonotonicCoarse).wrong);
    assert!(timing(Way::Criu, TimedCall::Getres).wrong);
    assert!(!timing(Way::Criu, TimedCall::Monotonic).wrong);
    assert!(!timing(Way::Nothing, TimedCall::Getcpu).wrong);
}

fn costs_are_counted(old: &OldComparison) {
    let cost = |way| row(old, way).cost;
    for way in [Way::Relocate, Way::Proxy, Way::Syscall, Way::Criu] {
        let cost = cost(way).unwrap();
        assert!(
            cost.link_us > 0.0 && cost.bytes_written > 20,
            "{way}: {cost:?}"
        );
        assert!(
            cost.boundaries > 300 && cost.boundaries_moved < 40,
            "{way}: {cost:?}"
        );
    }
    let of = |way| cost(way).unwrap().boundaries_moved;
    assert!(of(Way::Criu) > of(Way::Relocate));
    assert_eq!(cost(Way::Nothing).unwrap().bytes_written, 0);
    assert_eq!(cost(Way::Native), None);
    let step_out = row(old, Way::StepOut);
    assert_eq!(step_out.code_of, Some(Way::Relocate));
    assert_eq!(
        step_out.cost.unwrap().bytes_written,
        cost(Way::Relocate).unwrap().bytes_written
    );
}

#[test]
fn a_table_fits_its_width_and_says_everything() {
    let timing = |call: &str| Timing {
        call: call.to_owned(),
        nanoseconds: 123.45,
        ratio: Some(12.345),
        wrong: false,
    };
    let calls = [
        "clock_gettime(MONOTONIC)",
        "clock_gettime(MONOTONIC_COARSE)",
        "gettimeofday",
        "time",
    ];
    let mut row = Row::empty(Way::Relocate, 6, Some("the reason".to_owned()));
    let first_mismatch = Some("the difference".to_owned());
    row.add(
        "f",
        true,
        Tally {
            like_home: 0,
            calls: 41_230,
            mismatches: 2,
            repeated: 0,
            like_native: 1234,
            first_mismatch,
        },
    );
    row.timings = calls.map(timing).into();
    let rows = vec![row, Row::empty(Way::Native, 6, None)];
    let comparison = Comparison {
        olds: vec![OldComparison {
            name: "kernel:6.1".to_owned(),
            rows,
        }],
    };
    let table = comparison.table();
    assert!(
        table.lines().all(|line| line.chars().count() <= 120),
        "{table}"
    );
    for expected in [
        "kernel:6.1",
        "1 of 6",
        "41,228 of 41,230",
        "123.5 ns",
        "12.35x",
        "the reason",
        "the difference",
        "relocate 1,234",
    ] {
        assert!(table.contains(expected), "{expected} in\n{table}");
    }
    let json = serde_json::to_string(&comparison).unwrap();
    assert!(json.contains(r#""strategy":"relocate""#));
    assert_eq!(
        serde_json::from_str::<Comparison>(&json).unwrap(),
        comparison
    );
}
