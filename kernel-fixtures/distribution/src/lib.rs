//! Real kernels, fetched from the distribution by package name.
//!
//! Everything is taken from the apt configuration of the machine - archive, keys, proxy - with other suites of the same
//! archive put in. apt works in a state directory of its own inside the cache: nothing is installed, nothing of the
//! machine's own state is touched, and no privileges are needed. Signatures and hashes are checked by apt as always.
//!
//! ```text
//! CACHE/kernels/VERSION/vmlinuz     a kernel, complete if there is
//! CACHE/kernels/VERSION/kernel.txt  what it is
//! CACHE/locks/                      one lock for each version and each apt directory
//! CACHE/apt/SERIES/                 apt's lists and unfinished downloads
//! CACHE/trees/NAME/                 unpacked packages with all that they depend on
//! ```
//!
//! A kernel stays what it was when it was first fetched, until its directory is removed. Of the series in [`VERSIONS`], the
//! package is taken that figures in tests and documents were counted on, as long as the archive has it: [`Pin`].

mod apt;
mod archive;
mod error;
mod message;
mod package;
mod pin;
mod progress;
mod record;
mod sources;
mod tree;
mod unpack;
mod version;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use error::FetchError;
pub use pin::Pin;
pub use tree::{CRIU, Tree, TreeRequest};

use archive::{Archives, Group};
use package::Request;

/// The kernel series that comparisons are made over: one for each generation of the vvar layout, and the newest ones.
pub const VERSIONS: [&str; 5] = ["5.10", "6.1", "6.12", "7.2", "7.3"];

/// The environment variable that says where the cache is.
const CACHE_VARIABLE: &str = "RELOCATOR_KERNEL_FIXTURES";

/// A kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The version as it was asked for: "6.12".
    pub version: String,
    /// The package it is from: "linux-image-6.12.94+deb13-cloud-amd64".
    pub package: String,
    /// The version of that package: "6.12.94-1".
    pub package_version: String,
    /// Whether it is the one that figures were counted on.
    pub pin: Pin,
    /// The kernel file, a bzImage.
    pub path: PathBuf,
}

/// A directory of kernels.
///
/// Any number of processes and threads may use one directory at the same time: who comes second waits for the download
/// of the first.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The usual cache: the directory in `RELOCATOR_KERNEL_FIXTURES`, else `target/kernel-fixtures` of the cargo
    /// workspace around the current directory, else `relocator/kernel-fixtures` in the user's cache directory.
    pub fn locate() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = variable(CACHE_VARIABLE)
            .map(PathBuf::from)
            .or_else(|| Some(workspace()?.join("target/kernel-fixtures")))
            .unwrap_or_else(|| {
                variable("XDG_CACHE_HOME")
                    .map(PathBuf::from)
                    .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))
                    .unwrap_or_else(std::env::temp_dir)
                    .join("relocator/kernel-fixtures")
            });
        Self::at(root)
    }

    /// A cache in a directory, which is created when it is first needed.
    pub fn at(root: PathBuf) -> Self {
        // apt gets options with paths in it, and is run in another directory.
        let root = std::path::absolute(&root).unwrap_or(root);
        Self { root }
    }

    /// Where the cache is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A kernel that was fetched before. Does no network access and never waits.
    pub fn cached(&self, version: &str) -> Option<Kernel> {
        let request = Request::parse(version).ok()?;
        record::read(&self.directory(&request), version)
    }

    /// All kernels that were fetched before, oldest first.
    pub fn all_cached(&self) -> Vec<Kernel> {
        let Ok(entries) = fs::read_dir(self.root.join("kernels")) else {
            return Vec::new();
        };
        let mut kernels: Vec<Kernel> = entries
            .filter_map(|entry| self.cached(entry.ok()?.file_name().to_str()?))
            .collect();
        kernels.sort_by(|a, b| {
            version::compare(&a.package_version, &b.package_version)
                .then_with(|| a.version.cmp(&b.version))
        });
        kernels
    }

    /// A kernel from the cache, or else from the distribution.
    ///
    /// `version` is a series ("6.12": its newest kernel), a release ("6.12.94", "6.1.0-50") or the full name of a
    /// package. Cloud kernels for x86-64 are fetched, 13 to 35 MB each, unless a package is named or another flavour is
    /// asked for ("6.12-rt", "6.12-amd64").
    ///
    /// A download that was interrupted is continued by the next call. While another process is fetching the same
    /// kernel, this waits for it.
    ///
    /// # Errors
    ///
    /// See [`FetchError`]. The cache is never left with an incomplete kernel.
    pub fn fetch(&self, version: &str) -> Result<Kernel, FetchError> {
        let request = Request::parse(version)?;
        let directory = self.directory(&request);
        if let Some(kernel) = record::read(&directory, version) {
            return Ok(kernel);
        }
        let _lock = self.lock(&format!("kernel-{version}"))?;
        // Another process may have fetched it while we waited for the lock.
        if let Some(kernel) = record::read(&directory, version) {
            return Ok(kernel);
        }
        let archives = Archives::of_this_machine()?;
        let mut failure = None;
        for group in Group::for_request(&request) {
            match self.fetch_from(&archives, &group, &request) {
                Ok(kernel) => return Ok(kernel),
                // Kernels move on from suite to suite, and suites to other archives; the rest may still have it.
                // The last group has all suites.
                Err(error @ FetchError::NoSuchPackage { .. }) => failure = Some(error),
                Err(error @ FetchError::Apt { .. }) => failure = failure.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or(FetchError::NoArchive))
    }

    /// Fetches a kernel from the suites of one group.
    fn fetch_from(
        &self,
        archives: &Archives,
        group: &Group,
        request: &Request,
    ) -> Result<Kernel, FetchError> {
        let _lock = self.lock(&format!("apt-{}", group.name()))?;
        let apt = apt::Apt::set_up(self.root.join("apt").join(group.name()))?;
        let package = apt.find(archives, group, request)?;
        let deb = apt.download(&package)?;
        let kernel = unpack::kernel(&deb, &package, &self.directory(request), request.text());
        // A package that could not be unpacked is of no more use than one that could.
        fs::remove_file(&deb).map_err(FetchError::io(&deb))?;
        kernel
    }

    fn directory(&self, request: &Request) -> PathBuf {
        self.root.join("kernels").join(request.text())
    }

    /// Takes the lock of that name, which is held until the file is dropped.
    fn lock(&self, name: &str) -> Result<File, FetchError> {
        let directory = self.root.join("locks");
        fs::create_dir_all(&directory).map_err(FetchError::io(&directory))?;
        let path = directory.join(name);
        let file = File::create(&path).map_err(FetchError::io(&path))?;
        fs4::FileExt::lock(&file).map_err(FetchError::io(&path))?;
        Ok(file)
    }
}

/// The root of the cargo workspace around the current directory.
fn workspace() -> Option<PathBuf> {
    let current = std::env::current_dir().ok()?;
    let is_root = |directory: &&Path| {
        fs::read_to_string(directory.join("Cargo.toml"))
            .is_ok_and(|manifest| manifest.lines().any(|line| line.trim() == "[workspace]"))
    };
    current.ancestors().find(is_root).map(Path::to_owned)
}

/// The name of a file, as text.
fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cache_has_nothing_and_creates_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("cache"));
        assert_eq!(cache.cached("6.12"), None);
        assert_eq!(cache.all_cached(), []);
        assert!(!cache.root().exists());
    }

    #[test]
    fn kernels_are_listed_oldest_first() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().to_owned());
        for (version, package_version) in [
            ("7.3", "7.3~rc7-1"),
            ("6.12", "6.12.94-1"),
            ("6.1", "6.1.9-1"),
        ] {
            let request = Request::parse(version).unwrap();
            let package = package::Package {
                name: format!("linux-image-{version}-cloud-amd64"),
                version: package_version.to_owned(),
                size: 1 << 20,
                sha256: None,
            };
            record::write(&cache.directory(&request), version, &package, |file| {
                fs::write(file, "kernel").map_err(FetchError::io(file))
            })
            .unwrap();
        }
        let versions: Vec<String> = cache
            .all_cached()
            .into_iter()
            .map(|kernel| kernel.version)
            .collect();
        assert_eq!(versions, ["6.1", "6.12", "7.3"]);
        assert_eq!(cache.fetch("6.12").unwrap(), cache.cached("6.12").unwrap());
    }

    #[test]
    fn versions_cannot_lead_out_of_the_cache() {
        let cache = Cache::at(PathBuf::from("/nonexistent"));
        for version in [
            "",
            "..",
            "../6.12",
            "6.12/..",
            "/etc",
            "6 12",
            "-6",
            "linux-image-$(x)",
        ] {
            let error = cache.fetch(version).unwrap_err();
            assert!(
                matches!(error, FetchError::InvalidVersion { .. }),
                "{version}: {error}"
            );
        }
    }

    #[test]
    fn a_failing_cache_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Cache::at(file).fetch("6.12").unwrap_err();
        assert!(error.to_string().contains("file/locks"), "{error}");
    }
}
