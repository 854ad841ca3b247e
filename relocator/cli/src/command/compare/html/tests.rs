//! The page is well-formed, says what the JSON says, and keeps what it is given in its place.

use roxmltree::{Document, ParsingOptions};
use serde_json::Value;

use super::page;
use crate::json::Kernel;
use crate::json::compare::Compare;
use relocator_verify::Approach;
use relocator_verify::compare::Tally;
use relocator_verify::compare::{
    CompareOptions, Comparison, Cost, Counts, Namespaces, OldComparison, Row, TimedCall, Timing,
    Variant,
};
use relocator_verify::compare::{Flight, FunctionFlight};
use relocator_verify::in_flight::VariantCounts;

/// What nobody may be able to put into the page.
const HOSTILE: &str = "</style></svg><script>alert('x')</script> & \"quoted\" \u{7}";

fn flight(approach: Approach) -> Flight {
    let wrong = if approach.is_ours() { 0 } else { 1234 };
    let worst = Counts {
        new: 2900,
        old: 40,
        wrong,
        ..Counts::default()
    };
    Flight {
        namespaces: vec![Namespaces::ALL[0]],
        boundaries: 5000,
        reached: worst.total(),
        experiments: 98_765,
        worst,
        variants: vec![VariantCounts {
            variant: Variant::Direct,
            worst,
        }],
        functions: vec![FunctionFlight {
            name: "f".to_owned(),
            boundaries: 5000,
            reached: worst.total(),
            worst,
            first_failure: Some(HOSTILE.to_owned()).filter(|_| wrong > 0),
        }],
    }
}

fn row(approach: Approach, number: usize) -> Row {
    let mut row = Row::empty(approach, 6, Some(HOSTILE.to_owned()));
    if approach == Approach::StepOut {
        row.code_of = Some(Approach::Relocate);
        return row;
    }
    row.add(
        HOSTILE,
        true,
        Tally {
            calls: 41_230 + number as u64,
            mismatches: 7,
            first_mismatch: Some(HOSTILE.to_owned()),
            ..Tally::default()
        },
    );
    row.timings = TimedCall::ALL
        .map(|call| Timing {
            call: call.name().to_owned(),
            nanoseconds: 24.123_456 + number as f64,
            ratio: Some(0.987_654_321 * (1 + number) as f64),
            wrong: approach == Approach::Nothing,
        })
        .into();
    row.cost = (approach != Approach::Native).then_some(Cost {
        link_us: 46.789_123 + number as f64,
        bytes_written: 252 + number,
        boundaries_moved: 3,
        boundaries: 429,
    });
    match approach {
        Approach::Native => row.no_in_flight = Some("nobody".to_owned()),
        _ => row.in_flight = Some(flight(approach)),
    }
    row
}

fn report(names: &[&str]) -> Compare {
    let kernel = |source: &str| Kernel {
        source: source.to_owned(),
        build_id: Some("0123abcd".to_owned()),
        kernel: Some("6.1.192".to_owned()),
        tables: "derived",
        gaps: Vec::new(),
    };
    let olds = names.iter().map(|name| OldComparison {
        name: (*name).to_owned(),
        rows: Approach::ALL
            .into_iter()
            .zip(0..)
            .map(|(approach, number)| row(approach, number))
            .collect(),
    });
    let comparison = Comparison {
        olds: olds.collect(),
    };
    let olds = names.iter().map(|name| kernel(name)).collect();
    let command = format!("relocator compare {HOSTILE}");
    Compare::new(
        &comparison,
        olds,
        kernel("self"),
        &CompareOptions::default(),
        command,
    )
}

fn parsed(page: &str) -> Document<'_> {
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(page, options).unwrap()
}

#[test]
fn it_is_well_formed_and_nothing_breaks_out() {
    let page = page(&report(&["kernel:6.1", HOSTILE, "fixture:got"]));
    let document = parsed(&page);
    let named = |name: &str| {
        document
            .descendants()
            .filter(|n| n.has_tag_name(("http://www.w3.org/1999/xhtml", name)))
            .count()
    };
    assert_eq!(named("script"), 0);
    assert_eq!(named("style"), 1);
    assert!(named("svg") > 8 && named("td") > 200);
    let shown: String = document
        .descendants()
        .filter_map(|node| node.text())
        .collect();
    assert!(shown.contains("</style></svg><script>alert('x')</script> & \"quoted\" \u{fffd}"));
    // Nothing is fetched from anywhere.
    let mut attributes = document.descendants().flat_map(|node| node.attributes());
    assert!(attributes.all(|a| !["src", "href", "srcset", "style"].contains(&a.name())));
    assert!(!page.contains("url(") && !page.contains("@import"));
}

#[test]
fn its_numbers_are_those_of_the_json() {
    let report = report(&["kernel:6.1", "kernel:7.2", "fixture:got"]);
    let json = serde_json::to_value(&report).unwrap();
    let page = page(&report);
    let document = parsed(&page);
    let figures = document
        .descendants()
        .filter(|node| node.has_attribute("data-from"));
    let mut count = 0;
    for figure in figures {
        let pointer = figure.attribute("data-from").unwrap();
        let stated: Value = serde_json::from_str(figure.attribute("data-value").unwrap()).unwrap();
        assert_eq!(json.pointer(pointer), Some(&stated), "{pointer}");
        // What is shown is that number, rounded.
        let shown = figure.text().unwrap().replace(',', "");
        let shown: f64 = shown
            .trim_end_matches(['!', ' ', 'n', 's'])
            .parse()
            .unwrap();
        let stated = stated.as_f64().unwrap();
        assert!(
            (shown - stated).abs() <= 0.051,
            "{pointer}: {shown} for {stated}"
        );
        count += 1;
    }
    // 3 old kernels; 6 rows that were called, and 5 that were swept.
    assert!(count > 3 * (6 * 10 + 5 * 8), "{count}");
}

#[test]
fn strategies_are_summarised_over_kernels_that_exist() {
    let report = report(&["kernel:6.1", "kernel:7.2", "fixture:got"]);
    let criu = report
        .summary
        .iter()
        .find(|summary| summary.approach == Approach::Criu)
        .unwrap();
    assert_eq!((criu.olds, criu.swept, criu.functions), (2, 2, 12));
    assert_eq!(criu.in_flight.failures(), 2 * 1234);
    assert!(
        criu.sentence.contains("14 of 82,468 calls are wrong"),
        "{}",
        criu.sentence
    );
    assert!(
        criu.sentence.contains("fail at 2,468 of 8,348 boundaries"),
        "{}",
        criu.sentence
    );
    let relocate = &report.summary[0];
    assert!(
        relocate
            .sentence
            .contains("no thread in flight fails, at 5,880 boundaries")
    );
    let page = page(&report);
    for summary in &report.summary[..6] {
        let shown = parsed(&page)
            .descendants()
            .any(|node| node.text() == Some(&*summary.sentence));
        assert!(shown, "{}", summary.sentence);
    }
}

#[test]
fn nothing_compared_is_a_page_as_well() {
    let page = page(&report(&[]));
    parsed(&page);
}
