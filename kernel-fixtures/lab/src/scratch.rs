//! Directories for what is temporary. They are removed when they are dropped; one that a killed lab
//! left behind is removed by the next one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// What their names begin with; the number of the process follows.
const PREFIX: &str = "kernel-lab-";

/// A new one.
pub(crate) fn directory() -> Result<TempDir> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir();
    made.context("a temporary directory")
}

/// Removes those of processes that are gone.
pub(crate) fn clean() {
    clean_below(&std::env::temp_dir());
}

fn clean_below(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        if owner(&name.to_string_lossy()).is_some_and(|pid| !is_there(pid)) {
            // Somebody else's cannot be removed, and need not be.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that a directory belongs to, by its name.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

fn is_there(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_is_removed_and_nothing_else() {
        let temporary = tempfile::tempdir().unwrap();
        // No process has a number that large.
        let (dead, alive) = (u32::MAX, std::process::id());
        let names = [
            format!("{PREFIX}{dead}-x"),
            format!("{PREFIX}{alive}-x"),
            format!("{PREFIX}x"),
            "other".to_owned(),
        ];
        for name in &names {
            fs::create_dir(temporary.path().join(name)).unwrap();
        }
        clean_below(temporary.path());
        let left = names.map(|name| temporary.path().join(name).exists());
        assert_eq!(left, [false, true, true, true]);
    }

    #[test]
    fn a_directory_is_its_own_process_s() {
        let made = directory().unwrap();
        let name = made
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        assert_eq!(owner(&name), Some(std::process::id()));
    }
}
