//! The Python interpreter of this machine, for guests whose tests start one.
//!
//! A guest gets the files that a running interpreter has mapped or imported, at the paths that they
//! have here. Without an interpreter tests say that there is none, and are ignored.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run::Guest;

/// How tests call it.
const NAME: &str = "python3";

/// Where a guest finds it.
const PLACE: &str = "/usr/bin/python3";

/// Says which files it is made of, with what tests import. The first line is the interpreter.
const PROGRAM: &str = "
import ctypes, os, sys, threading, time, traceback
import encodings.ascii, encodings.latin_1, encodings.utf_8
print(sys.executable)
for module in list(sys.modules.values()):
    print(getattr(module, '__file__', None) or '')
for line in open('/proc/self/maps'):
    print(line.split(None, 5)[5].strip() if '/' in line else '')
";

/// Adds the interpreter, if there is one.
pub(super) fn add(guest: &mut Guest) -> Result<()> {
    let mut command = Command::new(NAME);
    let output = command.args(["-c", PROGRAM]).stdin(Stdio::null()).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return Ok(());
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let mut files = said.lines().map(Path::new);
    let interpreter = files.next().context("python3 says nothing")?;
    guest.files(interpreter)?;
    for file in files.filter(|file| file.is_absolute() && file.is_file()) {
        guest.files(file)?;
        for link in links(file)? {
            guest.link(&link, file)?;
        }
    }
    guest.link(Path::new(PLACE), interpreter)
}

/// The links beside a file that lead to it: libraries are asked for by such names.
fn links(file: &Path) -> Result<Vec<PathBuf>> {
    if !file.to_string_lossy().contains(".so.") {
        return Ok(Vec::new());
    }
    let beside = file.parent().context("a file's directory")?.read_dir()?;
    let links = beside.filter_map(|entry| Some(entry.ok()?.path()));
    let leads =
        |link: &PathBuf| link.is_symlink() && link.canonicalize().is_ok_and(|to| to == file);
    Ok(links.filter(leads).collect())
}
