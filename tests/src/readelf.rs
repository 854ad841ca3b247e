//! What binutils say about an object. They share no code with this project.

use std::path::Path;
use std::process::{Command, Stdio};

/// Output of a tool that had nothing to complain about, `Err` with its complaint otherwise.
fn clean(tool: &str, arguments: &[&str], file: &Path) -> Result<String, String> {
    let output = Command::new(tool)
        .args(arguments)
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{tool}: {error}"))?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !complaints.is_empty() {
        return Err(format!("{tool} says {}: {complaints}", output.status));
    }
    // Without a locale that has them, readelf prints bytes of names that are not ASCII one by one.
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `readelf` prints. It must do so without a word on standard error, and without a warning in between.
pub fn readelf(arguments: &[&str], file: &Path) -> Result<String, String> {
    let shown = clean("readelf", arguments, file)?;
    match shown
        .lines()
        .find(|line| line.contains("Warning") || line.contains("<corrupt"))
    {
        None => Ok(shown),
        Some(line) => Err(format!("readelf says {line}")),
    }
}

/// What `nm` prints.
pub fn nm(file: &Path) -> Result<String, String> {
    clean("nm", &[], file)
}

/// The same for bytes that are in no file yet.
pub fn readelf_bytes(arguments: &[&str], bytes: &[u8]) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(file.path(), bytes).map_err(|error| error.to_string())?;
    readelf(arguments, file.path())
}

/// What `nm` prints about bytes that are in no file yet.
pub fn nm_bytes(bytes: &[u8]) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(file.path(), bytes).map_err(|error| error.to_string())?;
    nm(file.path())
}

/// A symbol as `readelf -sW` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Value.
    pub value: u64,
    /// Size.
    pub size: u64,
    /// Name.
    pub name: String,
    /// Index of the section, or `UND`.
    pub section: String,
}

/// The symbols of an object by `readelf -sW`.
pub fn symbols(bytes: &[u8]) -> Result<Vec<Symbol>, String> {
    let shown = readelf_bytes(&["-sW"], bytes)?;
    let symbols = shown.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [
            number,
            value,
            size,
            _type,
            _binding,
            _visibility,
            section,
            name,
        ] = words[..]
        else {
            return None;
        };
        number.strip_suffix(':')?.parse::<u32>().ok()?;
        Some(Symbol {
            value: u64::from_str_radix(value, 16).ok()?,
            // Large sizes are printed in hexadecimal.
            size: match size.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok()?,
                None => size.parse().ok()?,
            },
            name: name.to_owned(),
            section: section.to_owned(),
        })
    });
    Ok(symbols.collect())
}

/// A relocation as `readelf -rW` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Where it is applied.
    pub place: u64,
    /// Name of its type.
    pub kind: String,
    /// Name of its symbol.
    pub symbol: String,
    /// Addend.
    pub addend: i64,
}

/// The relocations of an object by `readelf -rW`.
pub fn relocations(bytes: &[u8]) -> Result<Vec<Relocation>, String> {
    let shown = readelf_bytes(&["-rW"], bytes)?;
    let mut relocations = Vec::new();
    for line in shown.lines().filter(|line| line.contains(" R_X86_64_")) {
        let read = || {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [place, _info, kind, _value, symbol, sign, addend] = words[..] else {
                return None;
            };
            let addend = i64::from_str_radix(addend, 16).ok()?;
            Some(Relocation {
                place: u64::from_str_radix(place, 16).ok()?,
                kind: kind.to_owned(),
                symbol: symbol.to_owned(),
                addend: if sign == "-" { -addend } else { addend },
            })
        };
        relocations.push(read().ok_or_else(|| format!("readelf prints {line:?}"))?);
    }
    Ok(relocations)
}
