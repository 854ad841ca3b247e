//! The file system that a guest begins with: archives in the format that kernels unpack
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`), one after the other.
//!
//! Nothing is compressed: an emulated processor unpacks slowly, and memory is copied fast.

mod modules;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

use crate::libraries;

pub(crate) use modules::modules;

/// Kernels expect each archive to begin at such an offset.
const ALIGNMENT: usize = 4;

/// One archive that is being written. Directories above each file are created by themselves.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    written: BTreeSet<PathBuf>,
    entries: u32,
}

impl Archive {
    /// An empty directory.
    pub(crate) fn directory(&mut self, at: impl AsRef<Path>) -> Result<()> {
        let at = at.as_ref();
        self.parents(at)?;
        self.entry(at, ModeFileType::Directory, 0o755, b"")
    }

    /// A file with that content.
    pub(crate) fn file(&mut self, at: impl AsRef<Path>, mode: u32, content: &[u8]) -> Result<()> {
        let at = at.as_ref();
        self.parents(at)?;
        self.entry(at, ModeFileType::Regular, mode, content)
    }

    /// A symbolic link to `target`.
    pub(crate) fn link(&mut self, at: impl AsRef<Path>, target: &str) -> Result<()> {
        let at = at.as_ref();
        self.parents(at)?;
        self.entry(at, ModeFileType::Symlink, 0o777, target.as_bytes())
    }

    /// A copy of a file of this machine.
    pub(crate) fn copy(&mut self, from: &Path, at: impl AsRef<Path>) -> Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        let mode = fs::metadata(from).map(|file| file.permissions().mode());
        self.file(at, mode.unwrap_or(0o755) & 0o7777, &content)
    }

    /// Copies of all files below a directory of this machine.
    pub(crate) fn copy_tree(&mut self, from: &Path, at: &Path) -> Result<()> {
        self.directory(at)?;
        let entries = fs::read_dir(from).with_context(|| from.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            let (kind, at) = (entry.file_type()?, at.join(entry.file_name()));
            if kind.is_dir() {
                self.copy_tree(&entry.path(), &at)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.link(&at, &target.to_string_lossy())?;
            } else if kind.is_file() {
                self.copy(&entry.path(), &at)?;
            }
        }
        Ok(())
    }

    /// The libraries of a program, into one directory of the guest.
    pub(crate) fn libraries(&mut self, program: &Path, root: &Path, into: &Path) -> Result<()> {
        for (name, path) in libraries::closure(program, &libraries::directories(root))? {
            self.copy(&path, into.join(name))?;
        }
        Ok(())
    }

    /// The finished archive.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        let mut bytes = trailer(self.bytes)?;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        Ok(bytes)
    }

    fn parents(&mut self, at: &Path) -> Result<()> {
        let mut above: Vec<&Path> = at.ancestors().skip(1).collect();
        above.pop();
        for directory in above.into_iter().rev() {
            self.entry(directory, ModeFileType::Directory, 0o755, b"")?;
        }
        Ok(())
    }

    /// Writes an entry unless there is one of that name.
    fn entry(&mut self, at: &Path, kind: ModeFileType, mode: u32, content: &[u8]) -> Result<()> {
        let relative = at.strip_prefix("/").unwrap_or(at);
        if relative.as_os_str().is_empty() || !self.written.insert(relative.to_owned()) {
            return Ok(());
        }
        self.entries += 1;
        let size = u32::try_from(content.len()).context("a file of 4 GiB")?;
        let name = relative.to_str().context("a name that is no UTF-8")?;
        let mut writer = Builder::new(name)
            .ino(self.entries)
            .mode(mode)
            .set_mode_file_type(kind)
            .write(&mut self.bytes, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use cpio::newc::Reader;

    use super::*;

    fn entries(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut rest = bytes;
        let mut entries = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            entries.push((name, mode, content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.file("/lab/images/one", 0o644, b"1").unwrap();
        archive.file("lab/two", 0o755, b"22").unwrap();
        archive.link("/lab/three", "two").unwrap();
        archive.file("/lab/two", 0o755, b"another").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let entries = entries(&bytes);
        let found: Vec<(&str, u32, &[u8])> = entries
            .iter()
            .map(|(name, mode, content)| (name.as_str(), *mode, content.as_slice()))
            .collect();
        assert_eq!(
            found,
            [
                ("lab", 0o40755, b"".as_slice()),
                ("lab/images", 0o40755, b""),
                ("lab/images/one", 0o100_644, b"1"),
                ("lab/two", 0o100_755, b"22"),
                ("lab/three", 0o120_777, b"two"),
            ]
        );
    }

    #[test]
    fn a_tree_is_copied_with_its_links() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("file", directory.path().join("sub/link")).unwrap();
        let mut archive = Archive::default();
        archive
            .copy_tree(directory.path(), Path::new("/t"))
            .unwrap();
        let bytes = archive.finish().unwrap();
        let mut found = entries(&bytes);
        found.sort();
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["t", "t/sub", "t/sub/file", "t/sub/link"]);
        assert_eq!(found[3].2, b"file");
    }
}
