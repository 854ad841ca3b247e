//! A comparison as text.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use relocator_verify::Approach;
use relocator_verify::compare::TimedCall;
use relocator_verify::compare::{Comparison, Ending, OldComparison, Row, Timing};

/// Width that a table is made for.
const WIDTH: u16 = 120;

/// A line below the header, and nothing else.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

const HEADER: [&str; 10] = [
    "strategy",
    "functions",
    "calls that agree",
    "clock_gettime",
    "ratio",
    "coarse",
    "gettimeofday",
    "time",
    "getres",
    "getcpu",
];

/// Columns from this one on are numbers.
const FIRST_NUMBER: usize = 3;

/// A comparison as text, for 120 columns.
pub(super) struct Text<'a>(pub(super) &'a Comparison);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.olds.iter().try_for_each(|old| write(f, old))
    }
}

/// A table with a line below its header, and nothing else.
pub(super) fn underlined() -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    table
}

/// Writes one old image: a row for each way, and below it what needs words.
fn write(f: &mut fmt::Formatter<'_>, old: &OldComparison) -> fmt::Result {
    let mut table = underlined();
    table
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    table.set_header(HEADER);
    for row in &old.rows {
        table.add_row(cells(row));
    }
    for column in table.column_iter_mut().skip(FIRST_NUMBER) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(
        f,
        "{}: clock_gettime(MONOTONIC) in ns a call, and calls as ratios to the native ones",
        old.name
    )?;
    writeln!(f, "{}", table.trim_fmt())?;
    costs(f, old)?;
    if old
        .rows
        .iter()
        .any(|row| row.timings.iter().any(|timing| timing.wrong))
    {
        writeln!(f, "  !: what is timed there is wrong")?;
    }
    for row in &old.rows {
        if let Some(mismatch) = &row.first_mismatch {
            writeln!(f, "  {} differs: {mismatch}", row.approach)?;
        }
        if let Some(reason) = row.reason.as_ref().filter(|_| row.covered < row.functions) {
            writeln!(
                f,
                "  {} covers {} of {}: {reason}",
                row.approach, row.covered, row.functions
            )?;
        }
    }
    like_native(f, old)?;
    writeln!(f)
}

const COST_HEADER: [&str; 11] = [
    "strategy",
    "link",
    "bytes written",
    "moved",
    "in flight",
    "new",
    "old",
    "wrong",
    "crashed",
    "hung",
    "stuck",
];

/// What it costs to apply a way, and what becomes of threads that are inside meanwhile.
fn costs(f: &mut fmt::Formatter<'_>, old: &OldComparison) -> fmt::Result {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(COST_HEADER);
    for row in old
        .rows
        .iter()
        .filter(|row| row.approach != Approach::Native)
    {
        let mut cells = vec![row.approach.to_string()];
        match row.cost {
            Some(cost) => cells.extend([
                format!("{:.1} µs", cost.link_us),
                cost.bytes_written.to_string(),
                format!("{} of {}", cost.boundaries_moved, cost.boundaries),
            ]),
            None => cells.extend([absent(), absent(), absent()]),
        }
        match &row.in_flight {
            Some(flight) => {
                cells.push(format!("{} of {}", flight.reached, flight.boundaries));
                cells.extend(OUTCOMES.map(|ending| grouped(flight.worst.of(ending))));
            }
            None => cells.extend((0..=OUTCOMES.len()).map(|_| absent())),
        }
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(f, "\n{}", table.trim_fmt())?;
    let reasons = old
        .rows
        .iter()
        .filter(|row| row.approach != Approach::Native);
    let mut reasons: Vec<&String> = reasons
        .filter_map(|row| row.no_in_flight.as_ref())
        .collect();
    reasons.dedup();
    for reason in reasons {
        writeln!(f, "  no threads in flight: {reason}")?;
    }
    Ok(())
}

/// In the order of columns.
const OUTCOMES: [Ending; 6] = [
    Ending::New,
    Ending::Old,
    Ending::Wrong,
    Ending::Crashed,
    Ending::Hung,
    Ending::Stuck,
];

/// States which calls agree with the running kernel's own function instead of its system call.
fn like_native(f: &mut fmt::Formatter<'_>, old: &OldComparison) -> fmt::Result {
    let rows: Vec<&Row> = old.rows.iter().filter(|row| row.like_native > 0).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let counts = rows
        .iter()
        .map(|row| format!("{} {}", row.approach, grouped(row.like_native)));
    let counts = counts.collect::<Vec<_>>().join(", ");
    writeln!(
        f,
        "  calls that agree with the native function, which differs from its system call: {counts}"
    )
}

fn cells(row: &Row) -> Vec<String> {
    let timing = |call: TimedCall| row.timing(call.name());
    let headline = timing(TimedCall::Monotonic);
    let mut cells = vec![
        row.approach.to_string(),
        format!("{} of {}", row.covered, row.functions),
        agreement(row),
        headline.map_or_else(absent, |timing| format!("{:.1} ns", timing.nanoseconds)),
    ];
    cells.extend(TimedCall::ALL.map(|call| timing(call).and_then(ratio).unwrap_or_else(absent)));
    cells
}

fn absent() -> String {
    "-".to_owned()
}

fn agreement(row: &Row) -> String {
    match row.calls {
        0 => absent(),
        calls => format!(
            "{} of {}",
            grouped(calls.saturating_sub(row.mismatches)),
            grouped(calls)
        ),
    }
}

fn ratio(timing: &Timing) -> Option<String> {
    let mark = if timing.wrong { "!" } else { "x" };
    timing.ratio.map(|ratio| format!("{ratio:.2}{mark}"))
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let head = digits.len() % 3;
    let groups = digits.as_bytes()[head..]
        .chunks(3)
        .map(|group| String::from_utf8_lossy(group).into_owned());
    let head = Some(digits[..head].to_owned()).filter(|head| !head.is_empty());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use relocator_verify::compare::Tally;

    use super::*;

    #[test]
    fn digits_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (41_230, "41,230"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
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
        let mut row = Row::empty(Approach::Relocate, 6, Some("the reason".to_owned()));
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
        let rows = vec![row, Row::empty(Approach::Native, 6, None)];
        let comparison = Comparison {
            olds: vec![OldComparison {
                name: "kernel:6.1".to_owned(),
                rows,
            }],
        };
        let table = Text(&comparison).to_string();
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
        assert!(json.contains(r#""approach":"relocate""#));
        assert_eq!(
            serde_json::from_str::<Comparison>(&json).unwrap(),
            comparison
        );
    }
}
