//! A table of the vDSOs and what came of them.

use std::fmt::Write as _;

use anyhow::Result;
use comfy_table::Table;

use crate::judge::Judgement;
use crate::variant::Variant;

/// What came of a vDSO; the error is why it could not be built or judged.
pub(crate) struct Entry {
    pub(crate) variant: Variant,
    pub(crate) judgement: Result<Judgement>,
}

const COLUMNS: [&str; 11] = [
    "vDSO",
    "relocations",
    "not attributed",
    "boundaries",
    "no recipe",
    "relocated",
    "proxied",
    "no namespaces",
    "wrong calls",
    "threads",
    "failures",
];

impl Entry {
    pub(crate) fn is_good(&self) -> bool {
        self.judgement.as_ref().is_ok_and(Judgement::is_good)
    }

    fn cells(&self) -> Option<[String; COLUMNS.len()]> {
        let judgement = self.judgement.as_ref().ok()?;
        Some([
            self.variant.to_string(),
            judgement.relocations.to_string(),
            judgement.opaque.to_string(),
            judgement.boundaries.to_string(),
            judgement.without_recipe.to_string(),
            judgement.relocated.to_string(),
            judgement.proxied.to_string(),
            judgement.excluded.to_string(),
            format!("{} of {}", judgement.mismatches, judgement.calls),
            judgement.threads.to_string(),
            judgement.failures.to_string(),
        ])
    }

    /// One line, and what is not as it should be.
    pub(crate) fn text(&self) -> String {
        let mut text = match &self.judgement {
            Ok(judgement) if judgement.is_good() => format!("{}: good", self.variant),
            Ok(_) => format!("{}: NOT GOOD", self.variant),
            Err(error) => format!("{}: FAILED: {error:#}", self.variant),
        };
        if let Ok(judgement) = &self.judgement {
            for complaint in judgement.complaints.iter().chain(&judgement.left_out) {
                let _ = write!(text, "\n    {complaint}");
            }
        }
        text
    }
}

/// The table for a screen.
pub(crate) fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new();
    table.set_header(COLUMNS);
    for cells in entries.iter().filter_map(Entry::cells) {
        table.add_row(cells);
    }
    table
}

/// The table as Markdown.
pub(crate) fn markdown(entries: &[Entry]) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = row(&COLUMNS.map(str::to_owned));
    text.push_str(&row(&COLUMNS.map(|_| "---".to_owned())));
    for entry in entries {
        match entry.cells() {
            Some(cells) => text.push_str(&row(&cells)),
            None => text.push_str(&row(&[entry.text()])),
        }
    }
    text
}

/// All of them in one line.
pub(crate) fn verdict(entries: &[Entry]) -> String {
    let good = entries.iter().filter(|entry| entry.is_good()).count();
    let judged = || {
        entries
            .iter()
            .filter_map(|entry| entry.judgement.as_ref().ok())
    };
    let sum = |of: fn(&Judgement) -> usize| judged().map(of).sum::<usize>();
    format!(
        "{good} of {} vDSOs are as they should be; not attributed: {}, boundaries without recipe: {}, functions proxied: {}",
        entries.len(),
        sum(|j| j.opaque),
        sum(|j| j.without_recipe),
        sum(|j| j.proxied),
    )
}
