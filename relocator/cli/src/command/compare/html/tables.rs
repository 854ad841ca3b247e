//! Every number as text. Each states, as a JSON pointer, where it is in the JSON of the same comparison.

use serde::Serialize;

use super::markup::Markup;
use super::{OUTCOMES, title};
use crate::command::compare::table::grouped;
use crate::json::Kernel;
use crate::json::compare::{Compare, Compared};
use relocator_verify::Approach;
use relocator_verify::compare::{Row, TimedCall};

/// A number with its place in the JSON.
pub(super) fn figure(page: &mut Markup, pointer: &str, value: impl Serialize, text: &str) {
    let value = serde_json::to_string(&value).unwrap_or_default();
    let attributes = [("data-from", pointer), ("data-value", &*value)];
    page.leaf("span", &attributes, text);
}

/// Everything about one old image.
pub(super) fn old(page: &mut Markup, index: usize, old: &Compared) {
    let open: &[(&str, &str)] = if old.is_fixture() {
        &[]
    } else {
        &[("open", "open")]
    };
    page.within("details", open, |details| {
        details.leaf("summary", &[], &title(old));
        table(details, &call_header(), |body| {
            for (number, row) in old.rows.iter().enumerate() {
                call_row(body, &format!("/olds/{index}/rows/{number}"), row);
            }
        });
        table(details, &cost_header(), |body| {
            for (number, row) in old.rows.iter().enumerate() {
                if row.approach != Approach::Native {
                    cost_row(body, &format!("/olds/{index}/rows/{number}"), row);
                }
            }
        });
        notes(details, old);
    });
}

fn table(page: &mut Markup, header: &[String], rows: impl FnOnce(&mut Markup)) {
    page.within("div", &[("class", "scroll")], |scroll| {
        scroll.within("table", &[], |table| {
            table.within("thead", &[], |head| {
                head.within("tr", &[], |tr| {
                    for title in header {
                        tr.leaf("th", &[("scope", "col")], title);
                    }
                });
            });
            table.within("tbody", &[], rows);
        });
    });
}

fn call_header() -> Vec<String> {
    let header = [
        "strategy",
        "functions",
        "wrong calls",
        "of",
        "clock_gettime",
        "ratio",
        "coarse",
        "gettimeofday",
        "time",
        "getres",
        "getcpu",
    ];
    header.map(str::to_owned).to_vec()
}

fn cost_header() -> Vec<String> {
    let mut header = [
        "strategy",
        "link, µs",
        "bytes written",
        "boundaries moved",
        "stopped at",
        "of",
    ]
    .map(str::to_owned)
    .to_vec();
    header.extend(OUTCOMES.map(|(ending, _)| ending.to_string()));
    header
}

fn call_row(body: &mut Markup, at: &str, row: &Row) {
    let from = |field: &str| format!("{at}/{field}");
    body.within("tr", &[], |tr| {
        tr.leaf("th", &[("scope", "row")], &row.approach.to_string());
        tr.within("td", &[], |td| {
            figure(td, &from("covered"), row.covered, &row.covered.to_string());
            td.words(" of ");
            figure(
                td,
                &from("functions"),
                row.functions,
                &row.functions.to_string(),
            );
        });
        if let Some(other) = row.code_of {
            let span = (3 + TimedCall::ALL.len()).to_string();
            let words = format!("the code is that of {other}");
            tr.leaf("td", &[("colspan", &span), ("class", "words")], &words);
            return;
        }
        let class = if row.mismatches > 0 { "bad" } else { "" };
        cell(
            tr,
            &from("mismatches"),
            class,
            Some(row.mismatches).filter(|_| row.calls > 0),
            &|n| grouped(*n),
        );
        cell(tr, &from("calls"), "", Some(row.calls), &|n| grouped(*n));
        let timing = |call: TimedCall| row.timings.iter().position(|t| t.call == call.name());
        let headline = timing(TimedCall::Monotonic);
        let pointer = format!("{at}/timings/{}/ns", headline.unwrap_or_default());
        let value = headline.map(|index| row.timings[index].nanoseconds);
        cell(tr, &pointer, "", value, &|ns| format!("{ns:.1} ns"));
        for call in TimedCall::ALL {
            let index = timing(call);
            let pointer = format!("{at}/timings/{}/ratio", index.unwrap_or_default());
            let wrong = index.is_some_and(|index| row.timings[index].wrong);
            let class = if wrong { "bad" } else { "" };
            let value = index.and_then(|index| row.timings[index].ratio);
            let mark = if wrong { "!" } else { "" };
            cell(tr, &pointer, class, value, &|ratio| {
                format!("{ratio:.2}{mark}")
            });
        }
    });
}

fn cost_row(body: &mut Markup, at: &str, row: &Row) {
    let from = |field: &str| format!("{at}/{field}");
    let (cost, flight) = (row.cost, row.in_flight.as_ref());
    body.within("tr", &[], |tr| {
        tr.leaf("th", &[("scope", "row")], &row.approach.to_string());
        cell(
            tr,
            &from("cost/link_us"),
            "",
            cost.map(|c| c.link_us),
            &|us| format!("{us:.1}"),
        );
        let count = |n: &usize| n.to_string();
        cell(
            tr,
            &from("cost/bytes_written"),
            "",
            cost.map(|c| c.bytes_written),
            &count,
        );
        cell(
            tr,
            &from("cost/boundaries_moved"),
            "",
            cost.map(|c| c.boundaries_moved),
            &count,
        );
        let count = |n: &u64| grouped(*n);
        cell(
            tr,
            &from("in_flight/reached"),
            "",
            flight.map(|f| f.reached),
            &count,
        );
        cell(
            tr,
            &from("in_flight/boundaries"),
            "",
            flight.map(|f| f.boundaries),
            &count,
        );
        for (ending, _) in OUTCOMES {
            let value = flight.map(|flight| flight.worst.of(ending));
            let failed = ending.is_failure() && value.is_some_and(|count| count > 0);
            let class = if failed { "bad" } else { "" };
            cell(
                tr,
                &from(&format!("in_flight/worst/{ending}")),
                class,
                value,
                &count,
            );
        }
    });
}

/// A number, or a dash where it was not measured.
fn cell<T: Serialize>(
    tr: &mut Markup,
    pointer: &str,
    class: &str,
    value: Option<T>,
    text: &dyn Fn(&T) -> String,
) {
    tr.within("td", &[("class", class)], |td| match &value {
        Some(value) => figure(td, pointer, value, &text(value)),
        None => td.words("–"),
    });
}

/// What needs words: what is wrong first, why something is not covered or was not measured.
fn notes(page: &mut Markup, old: &Compared) {
    let mut notes: Vec<String> = Vec::new();
    for row in &old.rows {
        let approach = row.approach;
        let wrong = row.checks.iter().filter_map(|check| {
            let first = check.first_mismatch.as_ref()?;
            Some(format!("{approach}: {} is wrong: {first}", check.name))
        });
        notes.extend(wrong);
        let reason = row.reason.as_ref().filter(|_| row.covered < row.functions);
        notes.extend(reason.map(|reason| format!("{approach}: {reason}")));
        let flights = row.in_flight.iter().flat_map(|flight| &flight.functions);
        let first = flights.filter_map(|function| {
            let first = function.first_failure.as_ref()?;
            Some(format!("{approach}, in flight: {} {first}", function.name))
        });
        notes.extend(first);
    }
    let unswept = old
        .rows
        .iter()
        .filter(|row| row.approach != Approach::Native);
    let mut unswept: Vec<String> = unswept
        .filter_map(|row| Some(format!("threads in flight: {}", row.no_in_flight.as_ref()?)))
        .collect();
    unswept.dedup();
    notes.extend(unswept);
    if notes.is_empty() {
        return;
    }
    page.within("ul", &[("class", "notes")], |list| {
        for note in &notes {
            list.leaf("li", &[], note);
        }
    });
}

/// The kernels, by what identifies them.
pub(super) fn kernels(page: &mut Markup, report: &Compare) {
    let header = ["", "source", "version", "build-id of the vDSO", "tables"].map(str::to_owned);
    table(page, &header, |body| {
        kernel(body, "new", &report.new);
        for old in &report.olds {
            kernel(body, "old", &old.old);
        }
    });
}

fn kernel(body: &mut Markup, side: &str, kernel: &Kernel) {
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    body.within("tr", &[], |tr| {
        tr.leaf("th", &[("scope", "row")], side);
        tr.leaf("td", &[("class", "words")], &kernel.source);
        tr.leaf("td", &[("class", "words")], &or_unknown(&kernel.kernel));
        tr.within("td", &[("class", "words")], |td| {
            td.leaf("code", &[], &or_unknown(&kernel.build_id));
        });
        tr.leaf("td", &[("class", "words")], kernel.tables);
    });
}
