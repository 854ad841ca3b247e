//! Why a kernel could not be fetched.

use std::io;
use std::path::{Path, PathBuf};

/// Why a kernel could not be fetched, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// What was asked for is neither a version nor a package name.
    #[error(
        "`{version}` is no kernel version: ask for one like 6.12 or 6.12.94, or for a package by its full name"
    )]
    InvalidVersion {
        /// As it was asked for.
        version: String,
    },
    /// A program that fetching is built on is not there.
    #[error(
        "cannot run {program}; kernels are fetched with the tools of a Debian machine (apt, dpkg, tar), \
         elsewhere copy the cache of such a machine"
    )]
    MissingProgram {
        /// The program's name.
        program: String,
        /// Why it could not be run.
        source: io::Error,
    },
    /// The machine's apt configuration names no Debian archive.
    #[error(
        "apt on this machine is not set up for a Debian archive: add one with component main to its sources"
    )]
    NoArchive,
    /// The archive could not be reached.
    #[error(
        "the package archive could not be reached ({reason}): check the network and apt's proxy settings, then try again; what was downloaded is kept"
    )]
    Network {
        /// What apt said, without the names of hosts.
        reason: String,
    },
    /// apt failed for another reason than the network.
    #[error("apt could not {action}: {reason}")]
    Apt {
        /// What it was to do.
        action: String,
        /// What it said, without the names of hosts.
        reason: String,
    },
    /// The archive has no such kernel.
    #[error(
        "no package with kernel {version} in {suites}: distributions drop old kernels, ask for another version \
         (or for its series, like 6.12)"
    )]
    NoSuchPackage {
        /// As it was asked for.
        version: String,
        /// The suites that were searched.
        suites: String,
    },
    /// A package was fetched, and there is no kernel to be had from it.
    #[error("package {package} cannot be unpacked: {reason}")]
    Unpack {
        /// The package.
        package: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cache could not be read or written.
    #[error("kernel cache: {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong with it.
        source: io::Error,
    },
}

impl FetchError {
    /// For `map_err` on file operations.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
