//! A report as tables for a document.

use std::fmt::Write as _;

use super::Report;
use super::text::{fates, wrong_calls};
use crate::tally::Tally;

/// A report as tables for a document.
pub(crate) fn markdown(report: &Report) -> String {
    let versions: Vec<String> = report
        .packages
        .iter()
        .map(|(what, version)| format!("{what}: {version}"))
        .collect();
    let mut text = format!("{}. {}.\n", report.machines, versions.join("; "));
    if !report.rows.is_empty() {
        text.push_str(
            "\n| dumped on | restored on | checker | CRIU | CRIU alone | wrong calls | with relocator | wrong calls |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
    }
    for row in &report.rows {
        let fault = if row.fault { " (fault 127)" } else { "" };
        let cells = |tally: &Tally| match (tally.tried, &row.ignored) {
            // The reason is in the report's text.
            (0, Some(_)) => "ignored |".to_owned(),
            _ => format!("{} | {}", fates(tally), wrong_calls(tally)),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {}{fault} | {} | {} | {} | {} |",
            row.from,
            row.to,
            row.kind,
            row.kind.criu,
            cells(&row.plain),
            cells(&row.linked),
        );
    }
    if !report.chains.is_empty() {
        text.push_str(
            "\n| chain | checker | CRIU | arrived | on each kernel |\n|---|---|---|---|---|\n",
        );
    }
    for chain in &report.chains {
        let hops: Vec<String> = chain.hops.iter().map(fates).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {}/{} | {} |",
            chain.kernels.join(" > "),
            chain.kind,
            chain.kind.criu,
            chain.arrived,
            chain.began,
            hops.join("; "),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;

    #[test]
    fn every_line_of_a_table_has_as_many_cells() {
        let text = super::markdown(&example());
        let count = |line: &str| line.matches('|').count();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 4 + 3, "{text}");
        assert!(lines[..4].iter().all(|line| count(line) == 9), "{text}");
        assert!(lines[4..].iter().all(|line| count(line) == 6), "{text}");
    }
}
