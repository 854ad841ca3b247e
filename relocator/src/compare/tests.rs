//! The running kernel's own image as the old one: everything that can be compared is.

use super::*;
use crate::source::{Source, Spec};
use crate::verify::tests::running;

fn options() -> Options {
    Options {
        rounds: 4,
        batches: 5,
        batch: 200,
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
    let olds = [
        ("bare".to_owned(), Old::with_table(image(), None).unwrap()),
        ("derived".to_owned(), derived),
    ];
    let comparison = compare(&olds, &running, &options()).unwrap();
    let [bare, old] = comparison.olds.as_slice() else {
        panic!("{comparison:#?}")
    };
    let relocated = &bare.rows[0];
    assert_eq!((relocated.covered, relocated.timings.len()), (0, 0));
    assert!(relocated.reason.is_some());
    let ways: Vec<Way> = old.rows.iter().map(|row| row.way).collect();
    assert_eq!(ways, Way::ALL);
    for row in &old.rows {
        assert_eq!((row.mismatches, &row.first_mismatch), (0, &None));
        assert_eq!(row.covered, row.functions, "{row:#?}");
        assert!(row.calls > 1000);
        assert_eq!(row.timings.len(), 6);
        assert!(
            row.timings
                .iter()
                .all(|timing| timing.nanoseconds > 0.0 && timing.ratio.is_some())
        );
    }
    let native = old.rows[3].timing("time").unwrap();
    assert_eq!(native.ratio, Some(1.0));
}

#[test]
fn a_table_fits_its_width_and_says_everything() {
    let timing = |call: &str| Timing {
        call: call.to_owned(),
        nanoseconds: 123.45,
        ratio: Some(12.345),
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
