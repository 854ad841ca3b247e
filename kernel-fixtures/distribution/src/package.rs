//! Which package a kernel is in.

use super::{FetchError, pin, version};

/// The names of cloud kernels' packages. From 7.x the kernel itself is in `linux-binary-*`, on which `linux-image-*`,
/// then without contents, depends.
const PREFIXES: [&str; 2] = ["linux-image-", "linux-binary-"];

/// Flavours by the word that asks for them, with how the names of their packages end. The first one is meant where none is
/// asked for. Some end as others do: a package is of the one with the longest end.
///
/// Debian 12 has cloud kernels of newer series as well, which its own compiler has made: GCC 12.
const FLAVOURS: [(&str, &str); 4] = [
    ("cloud", "-cloud-amd64"),
    ("deb12", "+deb12-cloud-amd64"),
    ("rt", "-rt-amd64"),
    ("amd64", "-amd64"),
];

/// A package without a kernel, that only depends on another, has 1 to 2 kB.
const SMALLEST_KERNEL_PACKAGE: u64 = 1 << 20;

/// What a caller asked for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    text: String,
    /// How much of it names the flavour: `-rt` at the end.
    flavour_length: usize,
    /// Index into [`FLAVOURS`].
    flavour: usize,
}

impl Request {
    /// Checks what was asked for. It becomes a directory name and an argument, so not every character is allowed.
    pub(super) fn parse(text: &str) -> Result<Self, FetchError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".+-~_".contains(c);
        let is_version = text.starts_with(|c: char| c.is_ascii_digit());
        let is_package = PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        if !text.chars().all(allowed) || !(is_version || is_package) {
            return Err(FetchError::InvalidVersion {
                version: text.to_owned(),
            });
        }
        let flavour = FLAVOURS.iter().position(|(word, _)| {
            text.strip_suffix(word)
                .is_some_and(|rest| is_version && rest.ends_with('-'))
        });
        Ok(Self {
            text: text.to_owned(),
            flavour_length: flavour.map_or(0, |flavour| FLAVOURS[flavour].0.len() + 1),
            flavour: flavour.unwrap_or(0),
        })
    }

    /// As it was asked for.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The part of it that is a version: all but the flavour, or what is in the package name.
    pub(super) fn version(&self) -> &str {
        let text = &self.text[..self.text.len() - self.flavour_length];
        PREFIXES
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text)
    }

    /// The version in the name of a package of this flavour.
    fn version_in<'a>(&self, name: &'a str) -> Option<&'a str> {
        version_in_name(name, self.flavour)
    }

    /// Whether a package by its name alone could be what was asked for.
    ///
    /// Names do not tell releases before 6.11: the kernel of `linux-image-6.1.0-50-cloud-amd64` is 6.1.176.
    pub(super) fn could_be(&self, name: &str) -> bool {
        name == self.text
            || self
                .version_in(name)
                .is_some_and(|version| series(version) == series(self.version()))
    }

    /// Whether a package is what was asked for.
    pub(super) fn matches(&self, package: &Package) -> bool {
        let is_asked_for = || {
            let asked = self.version();
            self.version_in(&package.name).is_some_and(|named| {
                starts_with_version(named, asked)
                    || starts_with_version(version::upstream(&package.version), asked)
            })
        };
        package.size >= SMALLEST_KERNEL_PACKAGE && (package.name == self.text || is_asked_for())
    }
}

/// A package in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    /// Its name.
    pub(super) name: String,
    /// Its version, as a package.
    pub(super) version: String,
    /// How many bytes there are to download.
    pub(super) size: u64,
    /// Its hash in the archive's index, which apt checks after a download.
    pub(super) sha256: Option<String>,
}

/// Reads the package descriptions that `apt-cache show` prints. Incomplete ones are left out.
pub(super) fn parse_descriptions(text: &str) -> Vec<Package> {
    let mut packages = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key == name).then(|| value.trim())
            })
        };
        let size = field("Size").and_then(|size| size.parse().ok());
        if let (Some(name), Some(version), Some(size)) = (field("Package"), field("Version"), size)
        {
            packages.push(Package {
                name: name.to_owned(),
                version: version.to_owned(),
                size,
                sha256: field("SHA256").map(str::to_owned),
            });
        }
    }
    packages
}

/// The pinned one of the packages that match, or else the newest.
pub(super) fn choose(request: &Request, packages: Vec<Package>) -> Option<Package> {
    pin::choose(request.text(), &packages).or_else(|| newest(request, packages))
}

/// The newest of the packages that match.
fn newest(request: &Request, packages: Vec<Package>) -> Option<Package> {
    packages
        .into_iter()
        .filter(|package| request.matches(package))
        .max_by(|a, b| {
            version::compare(&a.version, &b.version)
                .then_with(|| version::compare(&a.name, &b.name))
        })
}

/// The first two numbers of a version.
pub(super) fn series(version: &str) -> Option<(&str, &str)> {
    let (major, rest) = version.split_once('.')?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((major, rest.get(..end)?))
}

/// The version in the name of a kernel's package of a flavour. Unsigned kernels and debug symbols have other names.
fn version_in_name(name: &str, flavour: usize) -> Option<&str> {
    let ends = (0..FLAVOURS.len()).filter(|&flavour| name.ends_with(FLAVOURS[flavour].1));
    let found = ends.max_by_key(|&flavour| FLAVOURS[flavour].1.len());
    let version = PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?
        .strip_suffix(FLAVOURS[flavour].1)?;
    let is_version = found == Some(flavour) && version.starts_with(|c: char| c.is_ascii_digit());
    is_version.then_some(version)
}

/// Whether a version is the asked-for one or a more precise form of it: `6.1` starts `6.1.176`, but not `6.12`.
fn starts_with_version(version: &str, asked: &str) -> bool {
    version
        .strip_prefix(asked)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, size: u64) -> Package {
        let (name, version) = (name.to_owned(), version.to_owned());
        Package {
            name,
            version,
            size,
            sha256: None,
        }
    }

    fn chosen(asked: &str) -> Option<String> {
        const MB: u64 = 1 << 20;
        let packages = vec![
            package("linux-image-5.10.0-32-cloud-amd64", "5.10.223-1", 30 * MB),
            package("linux-image-5.10.0-46-cloud-amd64", "5.10.251-1", 30 * MB),
            package("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1", 30 * MB),
            package("linux-image-6.12-cloud-amd64", "6.12.117-1", 1400),
            package(
                "linux-image-6.12.94+deb13-cloud-amd64",
                "6.12.94-1",
                30 * MB,
            ),
            package(
                "linux-image-6.12.117+deb13-cloud-amd64",
                "6.12.117-1",
                30 * MB,
            ),
            package(
                "linux-image-6.12.117+deb13-cloud-amd64-dbg",
                "6.12.117-1",
                900 * MB,
            ),
            package(
                "linux-image-6.12.118+deb13-cloud-amd64-unsigned",
                "6.12.118-1",
                30 * MB,
            ),
            package(
                "linux-image-6.12.118+deb12-cloud-amd64",
                "6.12.118-1~deb12u1",
                30 * MB,
            ),
            package("linux-image-6.12.117+deb13-amd64", "6.12.117-1", 90 * MB),
            package("linux-image-7.3-cloud-amd64", "7.3~rc7-1~exp1", 1916),
            package("linux-binary-7.3-cloud-amd64", "7.3~rc7-1~exp1", 13 * MB),
            package("linux-binary-unsigned-7.3-cloud-amd64", "7.3-1", 13 * MB),
            package("linux-image-cloud-amd64", "6.12.117-1", 1400),
            package("linux-image-6.12.116+deb13-rt-amd64", "6.12.116-1", 70 * MB),
            package("linux-image-6.12.119+deb13-amd64", "6.12.119-1", 99 * MB),
        ];
        let request = Request::parse(asked).unwrap();
        let found = packages.into_iter().filter(|p| request.could_be(&p.name));
        newest(&request, found.collect()).map(|package| package.name)
    }

    #[test]
    fn a_series_is_its_newest_kernel() {
        assert_eq!(chosen("5.10").unwrap(), "linux-image-5.10.0-46-cloud-amd64");
        assert_eq!(chosen("6.1").unwrap(), "linux-image-6.1.0-50-cloud-amd64");
        assert_eq!(
            chosen("6.12").unwrap(),
            "linux-image-6.12.117+deb13-cloud-amd64"
        );
        assert_eq!(chosen("7.3").unwrap(), "linux-binary-7.3-cloud-amd64");
        assert_eq!(chosen("6.12-cloud"), chosen("6.12"));
        assert_eq!(
            chosen("6.12-rt").unwrap(),
            "linux-image-6.12.116+deb13-rt-amd64"
        );
        assert_eq!(
            chosen("6.12.119-amd64").unwrap(),
            "linux-image-6.12.119+deb13-amd64"
        );
        assert_eq!(
            chosen("6.12-deb12").unwrap(),
            "linux-image-6.12.118+deb12-cloud-amd64"
        );
        assert_eq!(chosen("5.10-rt"), None);
        assert_eq!(chosen("6"), None);
        assert_eq!(chosen("7.2"), None);
    }

    #[test]
    fn a_release_is_found_by_the_name_or_by_the_version_of_its_package() {
        assert_eq!(
            chosen("6.12.94").unwrap(),
            "linux-image-6.12.94+deb13-cloud-amd64"
        );
        assert_eq!(
            chosen("6.1.0-50").unwrap(),
            "linux-image-6.1.0-50-cloud-amd64"
        );
        assert_eq!(
            chosen("6.1.176").unwrap(),
            "linux-image-6.1.0-50-cloud-amd64"
        );
        assert_eq!(chosen("6.12.9"), None);
        assert_eq!(chosen("6.12.118"), None);
    }

    #[test]
    fn a_package_is_found_by_its_name() {
        let name = "linux-image-6.12.117+deb13-amd64";
        assert_eq!(chosen(name).unwrap(), name);
        assert_eq!(
            chosen("linux-image-6.12-cloud-amd64"),
            None,
            "it has no contents"
        );
    }

    #[test]
    fn descriptions_are_read_and_incomplete_ones_left_out() {
        let text = "Package: linux-binary-7.3-cloud-amd64\nVersion: 7.3~rc7-1~exp1\nInstalled-Size: 9\nSize: 13885624\n\
                    Description: a kernel\n with a line: Size: 3\n\nPackage: broken\nSize: x\n\n";
        let expected = package("linux-binary-7.3-cloud-amd64", "7.3~rc7-1~exp1", 13_885_624);
        assert_eq!(parse_descriptions(text), [expected]);
        assert_eq!(parse_descriptions(""), []);
    }
}
