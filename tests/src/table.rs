//! A symbol table, written by the command, and what becomes of it in the hands of others.

use std::ffi::OsStr;

use serde_json::Value;

use crate::command;
use crate::readelf::{nm, readelf};
use crate::trials::ensure;

/// What `relocator ARGUMENTS --json` prints.
fn json(arguments: &[&OsStr]) -> Result<Value, String> {
    let ran = command::run(arguments.iter().chain(&[OsStr::new("--json")]));
    ensure(ran.status == Some(0) && ran.stderr.is_empty(), || {
        format!("{arguments:?}: {ran:?}")
    })?;
    serde_json::from_str(&ran.stdout).map_err(|error| error.to_string())
}

/// How the functions of `fixture:got` that are relocated onto a source come out.
fn relocated(onto: &OsStr) -> Result<Vec<Value>, String> {
    let report = json(
        &["link", "fixture:got", "--onto"]
            .map(OsStr::new)
            .into_iter()
            .chain([onto])
            .collect::<Vec<_>>(),
    )?;
    let functions = report["functions"].as_array().cloned().unwrap_or_default();
    let own = |function: &Value| function["strategy"] == "relocate";
    Ok(functions.into_iter().filter(own).collect())
}

/// Writes the table of a source, has `readelf` and `nm` show it, reads it back, and links to it.
pub fn survives(source: &OsStr) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = directory.path().join("vvar.so");
    let file = path.as_os_str();
    let (symtab, output) = (OsStr::new("symtab"), OsStr::new("-o"));
    let written = json(&[symtab, source, output, file])?;
    let (shown, listed) = (readelf(&["-aW"], &path)?, nm(&path)?);
    let symbols = written["symbols"].as_array().ok_or("no symbols")?;
    ensure(symbols.len() > 40, || format!("{} symbols", symbols.len()))?;
    for symbol in symbols {
        let name = symbol["name"].as_str().ok_or("no name")?;
        let spelled = match symbol["version"].as_u64() {
            Some(1) => format!(" {name}\n"),
            version => format!(" {name}:{}\n", version.ok_or("no version")?),
        };
        ensure(
            shown.contains(&spelled) && listed.contains(&spelled),
            || format!("readelf or nm do not show{spelled}"),
        )?;
    }
    let read = json(&[symtab, file])?;
    for member in ["symbols", "mappings", "build_id", "kernel"] {
        ensure(read[member] == written[member], || {
            format!("{member}: {} became {}", written[member], read[member])
        })?;
    }
    ensure(read["tables"] == "file", || read["tables"].to_string())?;
    let [by_source, by_file] = [source, file].map(relocated);
    let (by_source, by_file) = (by_source?, by_file?);
    ensure(by_source == by_file && by_source.len() >= 2, || {
        format!("{by_source:?} by the source, {by_file:?} by the file")
    })
}
