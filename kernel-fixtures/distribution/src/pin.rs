//! Which packages tests take, so that what they count does not depend on the day.
//!
//! An archive replaces packages as it gets newer ones. As long as it has the pinned one, that one is fetched; afterwards the
//! newest is, and [`Kernel::pin`](super::Kernel::pin) says so.

use super::package::Package;

/// A package that is taken rather than a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pinned {
    /// What a caller asks for.
    request: &'static str,
    package: &'static str,
    package_version: &'static str,
    /// Of the package, as the archive's index has it.
    sha256: &'static str,
}

/// The packages that the figures in tests and documents were counted on.
const PINNED: [Pinned; 5] = [
    Pinned {
        request: "5.10",
        package: "linux-image-5.10.0-46-cloud-amd64",
        package_version: "5.10.262-1",
        sha256: "18d94781d1b3052e21967ac2262239e5f14fbf511d6c3e110629d7aa35340760",
    },
    Pinned {
        request: "6.1",
        package: "linux-image-6.1.0-56-cloud-amd64",
        package_version: "6.1.192-2",
        sha256: "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee",
    },
    Pinned {
        request: "6.12",
        package: "linux-image-6.12.118+deb13-cloud-amd64",
        package_version: "6.12.118-1",
        sha256: "07f23ba1de88377d700e1e2f5b2ee495ff89b0d0bb73fdbd3eac8f6b27609b9a",
    },
    Pinned {
        request: "7.2",
        package: "linux-binary-7.2.13+deb14-cloud-amd64",
        package_version: "7.2.13-1",
        sha256: "03e41f1c34c16583462f029e81944a85ebcdb78098c258dedfa1cfdd680a27f8",
    },
    Pinned {
        request: "7.3",
        package: "linux-binary-7.3-cloud-amd64",
        package_version: "7.3~rc7-1~exp1",
        sha256: "f607118da820d8ba7f06826bff27e84a30b95dbd4a9bdb646f38d8481b1e4268",
    },
];

/// Whether a kernel is the one that figures were counted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// It is, by package version and hash.
    Pinned,
    /// It is another one: the archive no longer has the version that is given here, or has another package under it.
    Other(String),
    /// No figures were counted on what was asked for.
    None,
}

impl Pinned {
    fn of(request: &str) -> Option<&'static Self> {
        PINNED.iter().find(|pinned| pinned.request == request)
    }

    fn is(&self, package: &Package) -> bool {
        package.name == self.package
            && package.version == self.package_version
            && package.sha256.as_deref() == Some(self.sha256)
    }
}

/// The pinned one among packages that an archive has.
pub(super) fn choose(request: &str, packages: &[Package]) -> Option<Package> {
    let pinned = Pinned::of(request)?;
    packages.iter().find(|package| pinned.is(package)).cloned()
}

/// Whether a package is the pinned one.
pub(super) fn of(request: &str, package: &Package) -> Pin {
    match Pinned::of(request) {
        None => Pin::None,
        Some(pinned) if pinned.is(package) => Pin::Pinned,
        Some(pinned) => Pin::Other(pinned.package_version.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(version: &str, sha256: &str) -> Package {
        Package {
            name: PINNED[1].package.to_owned(),
            version: version.to_owned(),
            size: 1 << 24,
            sha256: Some(sha256.to_owned()),
        }
    }

    #[test]
    fn the_pinned_package_is_taken_as_long_as_there_is_one() {
        let pinned = package(PINNED[1].package_version, PINNED[1].sha256);
        let newer = package("6.1.999-1", "00");
        let packages = [newer.clone(), pinned.clone()];
        assert_eq!(choose("6.1", &packages), Some(pinned.clone()));
        assert_eq!(choose("6.1", std::slice::from_ref(&newer)), None);
        assert_eq!(choose("6.1-rt", &packages), None);
        assert_eq!(of("6.1", &pinned), Pin::Pinned);
        assert_eq!(of("6.1", &newer), Pin::Other("6.1.192-2".to_owned()));
        assert_eq!(of("6.1-rt", &newer), Pin::None);
    }

    #[test]
    fn another_package_under_the_same_version_is_not_the_pinned_one() {
        let forged = package(PINNED[1].package_version, "00");
        assert_eq!(choose("6.1", std::slice::from_ref(&forged)), None);
        assert_eq!(of("6.1", &forged), Pin::Other("6.1.192-2".to_owned()));
    }

    /// Each series that comparisons are made over has one.
    #[test]
    fn every_series_is_pinned() {
        assert_eq!(super::super::VERSIONS, PINNED.map(|pinned| pinned.request));
    }
}
