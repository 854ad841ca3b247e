//! A report as text.

use std::fmt::Write as _;

use comfy_table::{LineStyle, Table, TableStyle};

use super::Report;
use crate::chain::Chain;
use crate::matrix::Row;
use crate::tally::Tally;

/// A line below the header, and nothing else.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A report as text.
pub(crate) fn text(report: &Report) -> String {
    let mut text = format!("{}\n", report.machines);
    for (what, version) in &report.packages {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{what}: {version}");
    }
    if !report.rows.is_empty() {
        let _ = write!(text, "\n{}\n", matrix(&report.rows));
    }
    if !report.chains.is_empty() {
        let _ = write!(text, "\n{}\n", chains(&report.chains));
    }
    let reasons = reasons(report);
    if !reasons.is_empty() {
        let _ = write!(text, "\n{reasons}");
    }
    for ignored in &report.ignored {
        let _ = writeln!(text, "ignored: {ignored}");
    }
    let _ = writeln!(text, "\n{} s", report.seconds.round());
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(header);
    table
}

fn matrix(rows: &[Row]) -> Table {
    let mut table = table(&[
        "dumped on",
        "restored on",
        "checker",
        "CRIU",
        "CRIU alone",
        "wrong calls",
        "with relocator",
        "wrong calls",
        "carried",
        "stopped",
    ]);
    for row in rows {
        let fault = if row.fault { " (fault 127)" } else { "" };
        table.add_row([
            row.from.clone(),
            format!("{}{fault}", row.to),
            row.kind.to_string(),
            row.kind.criu.clone(),
            fates(&row.plain),
            wrong_calls(&row.plain),
            fates(&row.linked),
            wrong_calls(&row.linked),
            row.linked.carried.to_string(),
            format!("{:.0} ms", row.linked.longest_stop_ms),
        ]);
    }
    table
}

fn chains(chains: &[Chain]) -> Table {
    let mut table = table(&["chain", "checker", "CRIU", "arrived", "on each kernel"]);
    for chain in chains {
        let hops: Vec<String> = chain.hops.iter().map(fates).collect();
        table.add_row([
            chain.kernels.join(" > "),
            chain.kind.to_string(),
            chain.kind.criu.clone(),
            format!("{}/{}", chain.arrived, chain.began),
            hops.join(" | "),
        ]);
    }
    table
}

/// What became of processes: "4/5 right, 1 lost".
pub(super) fn fates(tally: &Tally) -> String {
    if tally.tried == 0 {
        return "-".to_owned();
    }
    let mut text = format!("{}/{} right", tally.right, tally.tried);
    for (count, word) in [
        (tally.wrong, "wrong"),
        (tally.refused, "refused"),
        (tally.lost, "lost"),
        (tally.not_restored, "not restored"),
        (tally.not_dumped, "not dumped"),
        (tally.repeated_random, "random numbers twice"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {word}");
        }
    }
    text
}

/// How many calls were wrong, and of which functions.
pub(super) fn wrong_calls(tally: &Tally) -> String {
    let by_function: Vec<String> = tally
        .wrong_by_function
        .iter()
        .map(|(name, wrong)| format!("{name} {wrong}"))
        .collect();
    match by_function.is_empty() {
        true => tally.wrong_calls.to_string(),
        false => format!("{} ({})", tally.wrong_calls, by_function.join(", ")),
    }
}

/// Why something was not right: each reason once, with where it was first and how often.
fn reasons(report: &Report) -> String {
    let mut found: Vec<(String, String, usize)> = Vec::new();
    let mut add = |place: String, reason: &str| {
        let kind = kind(reason);
        match found.iter_mut().find(|(known, ..)| *known == kind) {
            Some((.., count)) => *count += 1,
            None => found.push((kind, format!("{place}: {reason}"), 1)),
        }
    };
    for row in &report.rows {
        let pair = format!("{} > {}, {}", row.from, row.to, row.kind);
        for (tally, who) in [(&row.plain, "CRIU alone"), (&row.linked, "with relocator")] {
            for reason in &tally.reasons {
                add(format!("{pair}, {who}"), reason);
            }
        }
    }
    for chain in &report.chains {
        for (hop, to) in chain.hops.iter().zip(chain.kernels.iter().skip(1)) {
            for reason in &hop.reasons {
                add(format!("{}, on {to}", chain.kernels.join(" > ")), reason);
            }
        }
    }
    let mut text = String::new();
    for (.., words, count) in found {
        let again = if count > 1 {
            format!(" (and {} more)", count - 1)
        } else {
            String::new()
        };
        let _ = writeln!(text, "{words}{again}");
    }
    for row in &report.rows {
        if let Some(reason) = &row.ignored {
            let _ = writeln!(
                text,
                "ignored: {} > {}, {}, CRIU {}: {reason}",
                row.from, row.to, row.kind, row.kind.criu
            );
        }
    }
    for chain in &report.chains {
        if let Some(reason) = &chain.ignored {
            let _ = writeln!(text, "ignored: {}: {reason}", chain.kernels.join(" > "));
        }
    }
    text
}

/// A reason without its numbers, which differ from process to process.
fn kind(reason: &str) -> String {
    let words = reason.split_whitespace().map(|word| {
        let is_number = word.contains(|c: char| c.is_ascii_digit());
        if is_number { "#" } else { word }
    });
    words.collect::<Vec<&str>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;

    #[test]
    fn a_reason_is_the_same_with_other_numbers() {
        let kinds = ["spin 0: 1.5 between 2 and 3", "spin 7: 0.0 between 9 and 9"].map(super::kind);
        assert_eq!(kinds[0], kinds[1]);
        assert_ne!(kinds[0], super::kind("SIGSEGV"));
    }

    #[test]
    fn everything_is_said() {
        let text = super::text(&example());
        for words in [
            "0/5 right, 4 wrong, 1 lost",
            "20000 (getres 20000)",
            "5/5 right",
            "6.1 > 6.12 > 6.1",
            "4/5",
            "5.10 > 6.12, 2.36, CRIU alone: SIGSEGV <1>",
            "ignored: 6.12 > 5.10, 2.36, CRIU 4.3: CRIU: it does not know",
            "ignored: Linux 6.18: no package",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
    }
}
