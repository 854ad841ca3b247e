//! A comparison on one screen of 100 columns: what each approach gets wrong, what it costs, and a verdict.

use std::fmt::{self, Write};

use comfy_table::CellAlignment;
use relocator_verify::Approach;
use relocator_verify::compare::{Comparison, Row};

use super::table::{grouped, underlined};
use crate::json::compare::Compare;
use crate::json::compare::Summary;

/// Calls that are shown, by what the comparison calls them.
const SHOWN: [(&str, &str); 3] = [
    ("clock_gettime", "clock_gettime(MONOTONIC)"),
    ("coarse", "clock_gettime(MONOTONIC_COARSE)"),
    ("getres", "clock_getres"),
];

/// Columns from this one on are numbers.
const FIRST_NUMBER: usize = 1;

/// The comparison as text.
pub(super) fn text(report: &Compare, comparison: &Comparison) -> String {
    let mut text = String::new();
    for old in &comparison.olds {
        let _ = write!(text, "{}\n{}\n\n", old.name, Table(&old.rows));
    }
    let place = match report.time_namespace {
        true => ", in a time namespace",
        false => "",
    };
    let _ = writeln!(text, "onto {}{place}", report.new);
    for summary in &report.summary {
        let _ = writeln!(text, "{:9} {}", summary.approach.name(), verdict(summary));
    }
    for defect in comparison.failures() {
        let _ = writeln!(text, "FAILED    {defect}");
    }
    text
}

/// One old image, an approach a line.
struct Table<'a>(&'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = underlined();
        let calls = SHOWN.iter().map(|(name, _)| *name);
        let mut flights = self.0.iter().filter_map(|row| row.in_flight.as_ref());
        let stopped = match flights.next() {
            Some(flight) => format!("of {} in flight fail", grouped(flight.reached)),
            None => "in flight".to_owned(),
        };
        let header = ["", "functions", "wrong calls"].into_iter().chain(calls);
        table.set_header(header.chain([stopped.as_str()]));
        for row in self.0 {
            table.add_row(cells(row));
        }
        for column in table.column_iter_mut().skip(FIRST_NUMBER) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for line in table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn cells(row: &Row) -> Vec<String> {
    let wrong = match (&row.failure, row.calls) {
        (Some(failure), _) => failure.code().to_owned(),
        (None, 0) => "-".to_owned(),
        (None, calls) => format!("{} of {}", grouped(row.mismatches), grouped(calls)),
    };
    let mut cells = vec![
        row.approach.to_string(),
        format!("{} of {}", row.covered, row.functions),
        wrong,
    ];
    cells.extend(SHOWN.map(|(_, call)| timing(row, call)));
    cells.push(flight(row));
    cells
}

/// What a call costs, as a ratio to the native one.
fn timing(row: &Row, call: &str) -> String {
    let Some(timing) = row.timings.iter().find(|timing| timing.call == call) else {
        return "-".to_owned();
    };
    match (timing.wrong, timing.ratio) {
        (true, _) => "wrong".to_owned(),
        (false, _) if row.approach == Approach::Native => {
            format!("{:.1} ns", timing.nanoseconds)
        }
        (false, Some(ratio)) => format!("{ratio:.2}x"),
        (false, None) => "-".to_owned(),
    }
}

/// At how many boundaries a thread that was stopped there failed.
fn flight(row: &Row) -> String {
    let Some(flight) = &row.in_flight else {
        return "-".to_owned();
    };
    let worst = &flight.worst;
    let kinds = [
        (worst.wrong, "wrong"),
        (worst.crashed, "crashed"),
        (worst.hung, "hung"),
        (worst.stuck, "stuck"),
    ];
    let failures: Vec<String> = kinds
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{} {word}", grouped(count)))
        .collect();
    match failures.is_empty() {
        true => "0".to_owned(),
        false => failures.join(", "),
    }
}

/// What to think of an approach, in a line.
fn verdict(summary: &Summary) -> String {
    if summary.approach == Approach::Native {
        return "what a program calls that starts on the new kernel: the measure".to_owned();
    }
    let mut parts = Vec::new();
    match (summary.calls, summary.mismatches) {
        (0, _) if summary.approach.code_of().is_some() => {
            parts.push("the code of relocate".to_owned());
        }
        (0, _) => parts.push("nothing was called".to_owned()),
        (_, 0) => parts.push("every call is right".to_owned()),
        (_, wrong) => parts.push(format!("{} calls wrong", grouped(wrong))),
    }
    if let Some(ratios) = summary.ratios {
        parts.push(format!("right ones cost {:.2}x", ratios.median));
    }
    let left = summary.functions - summary.covered;
    if left > 0 && summary.calls > 0 {
        parts.push(format!("{left} functions untouched"));
    }
    if summary.swept > 0 {
        parts.push(match summary.in_flight.failures() {
            0 => "no thread in flight fails".to_owned(),
            failures => format!(
                "{} of {} in flight fail",
                grouped(failures),
                grouped(summary.in_flight.total())
            ),
        });
    }
    parts.join("; ")
}
