//! Programs of the distribution, with the libraries that they need, unpacked and not installed.
//!
//! apt chooses the packages as if nothing were installed, so a tree does not depend on what the
//! machine has. Its programs run with the tree's own dynamic linker and libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::archive::{Archives, Group};
use super::package::Request;
use super::{Cache, FetchError, Kernel, apt, file_name};

/// The packages that a tree is unpacked from.
const RECORD: &str = "packages.txt";

/// The files of a tree.
const ROOT: &str = "root";

/// What a tree is made of.
#[derive(Debug, Clone, Copy)]
pub struct TreeRequest<'a> {
    /// Its name, which is that of its directory. One name stands for one request.
    pub name: &'a str,
    /// The suites that its packages are looked for in, by code name: "trixie".
    pub suites: &'a [&'static str],
    /// Its packages: `NAME`, `NAME/SUITE` or `NAME=VERSION`.
    pub packages: &'a [&'a str],
}

/// CRIU 4.3, in its newest packages. One of its libraries has to be named, because `apt` takes
/// another version of that by itself.
pub const CRIU: TreeRequest<'static> = TreeRequest {
    name: "criu-4.3",
    suites: &["experimental", "sid"],
    packages: &["criu=4.3*", "libcompel1=4.3*"],
};

/// Unpacked packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The directory that stands for `/`.
    pub root: PathBuf,
    /// The packages, by name, with their versions.
    pub packages: Vec<(String, String)>,
}

impl Tree {
    /// The version of one of its packages.
    pub fn version(&self, package: &str) -> Option<&str> {
        let found = self.packages.iter().find(|(name, _)| name == package);
        found.map(|(_, version)| version.as_str())
    }
}

impl Cache {
    /// A tree from the cache, or else from the distribution. A tree stays what it was when it was
    /// first fetched, until its directory is removed.
    ///
    /// # Errors
    ///
    /// See [`FetchError`]. The cache is never left with an incomplete tree.
    pub fn tree(&self, request: &TreeRequest<'_>) -> Result<Tree, FetchError> {
        self.tree_from(request.name, |archives| {
            let group = Group::of(request.name, request.suites);
            let _lock = self.lock(&format!("apt-{}", group.name()))?;
            let apt = self.apt(&group)?;
            apt.download_closure(archives, &group, request.packages)
        })
    }

    /// The modules of a kernel, below `lib/modules` or `usr/lib/modules` of the tree.
    ///
    /// # Errors
    ///
    /// As for [`Cache::tree`]. The archive may have replaced the package of a kernel that was
    /// fetched some time ago; its modules are gone then.
    pub fn modules(&self, kernel: &Kernel) -> Result<Tree, FetchError> {
        let request = Request::parse(&kernel.package)?;
        // From 7.x the kernel and its modules are in packages of their own.
        let name = kernel
            .package
            .replacen("linux-binary-", "linux-modules-", 1);
        self.tree_from(&format!("modules-{}", kernel.version), |archives| {
            let mut failure = None;
            for group in Group::for_request(&request) {
                let _lock = self.lock(&format!("apt-{}", group.name()))?;
                let apt = self.apt(&group)?;
                match apt.download_exact(archives, &group, &name, &kernel.package_version) {
                    Ok(file) => return Ok(vec![file]),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            Err(failure.unwrap_or(FetchError::NoArchive))
        })
    }

    fn apt(&self, group: &Group) -> Result<apt::Apt, FetchError> {
        apt::Apt::set_up(self.root.join("apt").join(group.name()))
    }

    fn tree_from(
        &self,
        name: &str,
        download: impl FnOnce(&Archives) -> Result<Vec<PathBuf>, FetchError>,
    ) -> Result<Tree, FetchError> {
        let directory = self.root.join("trees").join(name);
        if let Some(tree) = read(&directory) {
            return Ok(tree);
        }
        let _lock = self.lock(&format!("tree-{name}"))?;
        // Another process may have fetched it while this one waited for the lock.
        if let Some(tree) = read(&directory) {
            return Ok(tree);
        }
        let archives = Archives::of_this_machine()?;
        let files = download(&archives)?;
        unpack(&files, &directory)?;
        for file in &files {
            fs::remove_file(file).map_err(FetchError::io(file))?;
        }
        read(&directory).ok_or_else(|| FetchError::Unpack {
            package: name.to_owned(),
            reason: "there is nothing in it".to_owned(),
        })
    }
}

/// Reads a tree; `None` if there is no complete one.
fn read(directory: &Path) -> Option<Tree> {
    let record = fs::read_to_string(directory.join(RECORD)).ok()?;
    let packages = record.lines().filter_map(|line| {
        let (name, version) = line.split_once(' ')?;
        Some((name.to_owned(), version.to_owned()))
    });
    Some(Tree {
        root: directory.join(ROOT),
        packages: packages.collect(),
    })
}

/// Unpacks packages into a new tree. The record comes last: it says that the tree is complete.
fn unpack(files: &[PathBuf], directory: &Path) -> Result<(), FetchError> {
    let root = directory.join(ROOT);
    if root.exists() {
        fs::remove_dir_all(&root).map_err(FetchError::io(&root))?;
    }
    fs::create_dir_all(&root).map_err(FetchError::io(&root))?;
    let mut record = String::new();
    for file in files {
        unpack_one(file, &root)?;
        let (name, version) = name_and_version(file_name(file));
        record.push_str(&format!("{name} {version}\n"));
    }
    let new = tempfile::NamedTempFile::new_in(directory).map_err(FetchError::io(directory))?;
    fs::write(new.path(), record).map_err(FetchError::io(new.path()))?;
    let path = directory.join(RECORD);
    let persisted = new.persist(&path).map_err(|error| error.error);
    persisted.map(drop).map_err(FetchError::io(&path))
}

fn unpack_one(file: &Path, root: &Path) -> Result<(), FetchError> {
    let output = Command::new("dpkg-deb")
        .arg("--extract")
        .args([file, root])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|source| FetchError::MissingProgram {
        program: "dpkg-deb".to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().last().unwrap_or("dpkg-deb failed").to_owned();
    let package = file_name(file).to_owned();
    Err(FetchError::Unpack { package, reason })
}

/// What apt's name of a file says: `NAME_VERSION_ARCHITECTURE.deb`, with `%3a` for a colon.
fn name_and_version(file: &str) -> (String, String) {
    let mut parts = file.split('_');
    let mut part = || parts.next().unwrap_or_default().replace("%3a", ":");
    (part(), part())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_say_what_they_are() {
        let (name, version) = name_and_version("seabios_1%3a1.16.3-2_all.deb");
        assert_eq!((name.as_str(), version.as_str()), ("seabios", "1:1.16.3-2"));
    }

    #[test]
    fn a_tree_is_complete_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let broken = directory.path().join("x_1_all.deb");
        fs::write(&broken, "no package").unwrap();
        let target = directory.path().join("tree");
        unpack(&[broken], &target).unwrap_err();
        assert_eq!(read(&target), None);
        // What an interrupted attempt left is gone afterwards.
        fs::write(target.join("root/left"), "").unwrap();
        unpack(&[], &target).unwrap();
        let tree = read(&target).unwrap();
        assert_eq!(tree.packages, []);
        assert!(!tree.root.join("left").exists());
        assert_eq!(tree.version("x"), None);
    }

    #[test]
    fn a_tree_says_what_it_is_from() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(RECORD), "libc6 2.43-1\nbusybox 1:1\n").unwrap();
        let tree = read(directory.path()).unwrap();
        assert_eq!(tree.version("libc6"), Some("2.43-1"));
        assert_eq!(tree.version("busybox"), Some("1:1"));
    }
}
