//! The running kernel's own image as the old one: everything that can be compared is.

use super::*;
use crate::tests::running;

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
