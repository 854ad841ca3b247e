//! Printing and writing.

use std::fmt::Display;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use crate::Error;
use crate::json::{Need, Reentry};
use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table, presets};
use elf_tools::{Avma, is_obeyed, printable};
use relocator_process::persist;
use serde::Serialize;

/// Prints `value` as JSON, or `text` for a person.
///
/// Errors: [`Error::Report`].
pub(crate) fn print(json: bool, value: &impl Serialize, text: impl Display) -> Result<()> {
    Ok(try_print(json, value, text).map_err(|source| Error::Report { source })?)
}

/// The same for a command that has worked on a process, and says in its last line what became of
/// that.
///
/// Errors: [`Error::Done`].
pub(crate) fn print_done(json: bool, value: &impl Serialize, text: impl Display) -> Result<()> {
    let text = text.to_string();
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    let done = |source| Error::Done {
        done: last.to_owned(),
        source,
    };
    Ok(try_print(json, value, &text).map_err(done)?)
}

/// Prints one line about what is done. Errors: [`Error::Done`].
pub(crate) fn print_line(done: impl Display) -> Result<()> {
    let done = printable(&done.to_string()).into_owned();
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{done}").and_then(|()| out.flush());
    Ok(written.map_err(|source| Error::Done { done, source })?)
}

/// The same for a command that may have written a file.
///
/// Errors: [`Error::Done`] if it has, else [`Error::Report`].
pub(crate) fn print_written(
    json: bool,
    value: &impl Serialize,
    text: impl Display,
    file: Option<&Path>,
) -> Result<()> {
    let failed = |source| match file {
        Some(file) => Error::Done {
            done: format!("{} is written", file.display()),
            source,
        },
        None => Error::Report { source },
    };
    Ok(try_print(json, value, text).map_err(failed)?)
}

fn try_print(json: bool, value: &impl Serialize, text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match json {
        true => {
            // What is left to escape is in strings, where JSON has another way to write it.
            let json = serde_json::to_string_pretty(value)?;
            writeln!(out, "{}", escaped_json(&json))?;
        }
        false => {
            for line in text.to_string().trim_end().lines() {
                writeln!(out, "{}", printable(line.trim_end()))?;
            }
        }
    }
    out.flush()
}

/// JSON in which a terminal obeys nothing but ends of lines.
fn escaped_json(json: &str) -> String {
    let escaped = json
        .chars()
        .map(|letter| match is_obeyed(letter) && letter != '\n' {
            true => format!("\\u{:04x}", u32::from(letter)),
            false => letter.to_string(),
        });
    escaped.collect()
}

/// The message of an error, for a terminal. One with several lines keeps them.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let message = format!("{error:#}");
    let lines: Vec<_> = message.lines().map(printable).collect();
    lines.join("\n")
}

/// Prints bytes as they are.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    Ok(written.map_err(|source| Error::Report { source })?)
}

/// Writes a file whole or not at all. What exists and is no regular file, such as a pipe or `/dev/stdout`, is written to as
/// it is, since it cannot be replaced.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let existing = std::fs::metadata(path).ok();
    if existing.is_some_and(|metadata| !metadata.is_file()) {
        return std::fs::write(path, bytes).with_context(what);
    }
    persist::replace(path, bytes).with_context(what)
}

/// A table for a terminal: columns divided by space alone.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// What a relocation table needs of a kernel.
pub(crate) fn needs(needs: &[Need]) -> Table {
    let mut shown = table(&["needs", "places", "constraints", "default"]);
    for need in needs {
        let default = if need.has_default { "yes" } else { "" };
        shown.add_row([
            need.reference.clone(),
            need.places.to_string(),
            need.constraints.to_string(),
            default.to_owned(),
        ]);
    }
    shown
}

/// Where contexts of threads were not looked for, if there is such a place.
pub(crate) fn left_out(text: &mut String, ranges: &[Range<Avma>]) {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return;
    };
    let sizes = ranges.iter().map(|range| range.end.0 - range.start.0);
    *text += &format!(
        "note: stacks are so large that contexts in signal frames were not looked for in {} MiB of them, between {} and {}\n",
        sizes.sum::<u64>().div_ceil(1 << 20),
        first.start,
        last.end
    );
}

/// What becomes of threads that are stopped in an image, by boundaries.
pub(crate) fn reentry(summary: &Reentry) -> String {
    let mut text = format!(
        "{} functions, {} boundaries: {} untouched, {} re-enter, {} not recoverable",
        summary.functions, summary.boundaries, summary.untouched, summary.reenter, summary.lost
    );
    for reason in &summary.reasons {
        text += &format!("\n           {:>4}: {}", reason.boundaries, reason.reason);
    }
    text
}
