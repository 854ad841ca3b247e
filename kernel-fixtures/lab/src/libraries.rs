//! Which shared libraries a program needs, found as a dynamic linker would, without running it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::elf::{self, FileHeader64};
use object::endian::Endianness;
use object::read::elf::FileHeader as _;

use crate::arch;

/// The directories of a root that libraries are looked for in.
pub(crate) fn directories(root: &Path) -> Vec<PathBuf> {
    arch::LIBRARY_DIRECTORIES
        .map(|below| root.join(below))
        .into()
}

/// The libraries that a program needs, by the name that it asks for, with those that they need, and
/// the dynamic linker among them if the program asks for one. Nothing for a static program.
pub(crate) fn closure(
    program: &Path,
    directories: &[PathBuf],
) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut left = vec![program.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(file) = left.pop() {
        for name in needed(&file)? {
            if !seen.insert(name.clone()) {
                continue;
            }
            let places = directories.iter().map(|directory| directory.join(&name));
            let Some(path) = places.into_iter().find(|path| path.is_file()) else {
                bail!("{}: needs {name}, which is nowhere", file.display());
            };
            left.push(path.clone());
            found.insert(name, path);
        }
    }
    Ok(found)
}

/// The names of libraries in an ELF file's dynamic table, and the file name of its interpreter.
fn needed(file: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let names = parse(&bytes).with_context(|| file.display().to_string())?;
    Ok(names)
}

fn parse(bytes: &[u8]) -> Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let mut names = Vec::new();
    for segment in header.program_headers(endian, bytes)? {
        use object::read::elf::ProgramHeader as _;
        if let Some(interpreter) = segment.interpreter(endian, bytes)? {
            let interpreter = String::from_utf8_lossy(interpreter).into_owned();
            let name = Path::new(&interpreter).file_name();
            names.extend(name.map(|name| name.to_string_lossy().into_owned()));
        }
    }
    let table = header
        .sections(endian, bytes)?
        .dynamic_table(endian, bytes)?;
    for entry in table.iter() {
        if entry.tag == elf::DT_NEEDED {
            names.push(String::from_utf8_lossy(table.string(entry)?).into_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_a_c_library() {
        let own = std::env::current_exe().unwrap();
        let found = closure(&own, &directories(Path::new("/"))).unwrap();
        assert!(
            found.keys().any(|name| name.starts_with("libc.so")),
            "{found:?}"
        );
        assert!(found.contains_key(arch::DYNAMIC_LINKER_NAME), "{found:?}");
    }

    #[test]
    fn a_missing_library_is_named() {
        let own = std::env::current_exe().unwrap();
        let error = closure(&own, &[]).unwrap_err().to_string();
        assert!(error.contains("which is nowhere"), "{error}");
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        assert!(parse(b"#!/bin/sh\n").is_err());
    }
}
