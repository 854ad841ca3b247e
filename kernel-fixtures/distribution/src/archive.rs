//! The Debian archives that a machine's sources lead to, and which suites of theirs have which kernels.

use std::fmt::Write as _;

use super::package::{self, Request};
use super::sources::Source;
use super::{FetchError, apt};

/// What the names of suites start with that the main archive and the security archive have.
const RELEASES: [&str; 15] = [
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
    "experimental",
    "sid",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "proposed-updates",
    "rc-buggy",
];

/// The suites that kernel series are at home in. Named by code name, which stays with a release.
const SERIES: [(&str, &[&str]); 5] = [
    ("5.10", &["bullseye", "bullseye-security"]),
    ("6.1", &["bookworm", "bookworm-security"]),
    ("6.12", &["trixie", "trixie-security"]),
    ("7.2", &["forky", "sid"]),
    ("7.3", &["experimental"]),
];

/// Suites with series that are at home in none.
const BACKPORTS: [&str; 2] = ["bookworm-backports", "trixie-backports"];

/// The archives of the machine's distribution.
#[derive(Debug, Clone)]
pub(super) struct Archives {
    main: Source,
    security: Option<Source>,
}

impl Archives {
    /// Finds the archives in the apt configuration of this machine.
    ///
    /// The files are read instead of asking apt for its sources: what it says of them depends on whether the machine
    /// ever updated its lists, and leaves out what they are signed by.
    pub(super) fn of_this_machine() -> Result<Self, FetchError> {
        Self::choose(&apt::machine_sources()?).ok_or(FetchError::NoArchive)
    }

    /// Chooses among the sources of a machine, of which others may use the names of Debian's suites too.
    fn choose(sources: &[Source]) -> Option<Self> {
        let best = |is_wanted: fn(&str) -> bool| {
            sources
                .iter()
                .filter(|source| {
                    source
                        .components
                        .iter()
                        .any(|component| component == "main")
                })
                .filter(|source| source.suites.iter().any(|suite| is_wanted(suite)))
                // The first of equals, as apt would.
                .rev()
                .max_by_key(|source| likeness(source))
        };
        Some(Self {
            main: best(is_main_suite)?.clone(),
            security: best(is_security_suite).cloned(),
        })
    }

    /// Writes a source for the suites of a group. Without a security archive its suites are left out.
    pub(super) fn sources(&self, group: &Group) -> String {
        let (security, main): (Vec<&str>, Vec<&str>) = group
            .suites
            .iter()
            .partition(|suite| is_security_suite(suite));
        let mut text = stanza(&self.main, &main);
        if let Some(source) = &self.security {
            text.push('\n');
            text.push_str(&stanza(source, &security));
        }
        text
    }
}

/// A set of suites that is searched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    name: String,
    suites: Vec<&'static str>,
}

impl Group {
    /// The sets of suites to search for a kernel, in that order: first those where its series is at home, since the
    /// lists of all together are large.
    pub(super) fn for_request(request: &Request) -> Vec<Self> {
        let series = package::series(request.version());
        let home = SERIES
            .iter()
            .find(|(home, _)| series == package::series(home))
            .map(|(name, suites)| Self {
                name: (*name).to_owned(),
                suites: suites.to_vec(),
            });
        let homes = SERIES.iter().flat_map(|(_, suites)| suites.iter());
        let all = Self {
            name: "all".to_owned(),
            suites: homes.chain(&BACKPORTS).copied().collect(),
        };
        // The lists of backports are small, and have most series that are at home nowhere.
        let elsewhere = home.is_none().then(|| Self {
            name: "backports".to_owned(),
            suites: BACKPORTS.to_vec(),
        });
        home.into_iter().chain(elsewhere).chain([all]).collect()
    }

    /// A set of suites that somebody names.
    pub(super) fn of(name: &str, suites: &[&'static str]) -> Self {
        Self {
            name: name.to_owned(),
            suites: suites.to_vec(),
        }
    }

    /// A name for files.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The suites, for messages.
    pub(super) fn suites(&self) -> String {
        self.suites.join(", ")
    }
}

/// How much a source looks like one of Debian's own, to prefer it over a third party's.
fn likeness(source: &Source) -> u32 {
    let signed = source
        .signed_by
        .as_ref()
        .is_some_and(|key| key.contains("debian-archive"));
    let is_named = |uri: &String| {
        let path = uri.trim_end_matches('/');
        path.ends_with("/debian") || path.ends_with("/debian-security")
    };
    2 * u32::from(signed) + u32::from(source.uris.iter().any(is_named))
}

fn is_main_suite(suite: &str) -> bool {
    is_of_release(suite) && !is_security_suite(suite)
}

fn is_security_suite(suite: &str) -> bool {
    is_of_release(suite) && (suite.ends_with("-security") || suite.ends_with("/updates"))
}

/// Whether a suite is a release or a part of one: `bookworm`, `bookworm-updates`.
fn is_of_release(suite: &str) -> bool {
    RELEASES.iter().any(|release| {
        suite
            .strip_prefix(release)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/']))
    })
}

/// A source in deb822 format, the one that can hold a key.
fn stanza(source: &Source, suites: &[&str]) -> String {
    let mut text = String::new();
    if suites.is_empty() {
        return text;
    }
    let mut field = |name: &str, value: &str| {
        let separator = if value.starts_with('\n') { "" } else { " " };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}:{separator}{value}");
    };
    field("Types", "deb");
    field("URIs", &source.uris.join(" "));
    field("Suites", &suites.join(" "));
    field("Components", "main");
    field("Architectures", apt::ARCHITECTURE);
    if let Some(key) = &source.signed_by {
        field("Signed-By", key);
    }
    if let Some(check) = &source.check_valid_until {
        field("Check-Valid-Until", check);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::sources::{parse_deb822, parse_list};
    use super::*;

    const LIST: &str = "deb http://third.invalid/debian12/prod bookworm main\n\
                        deb http://archive.invalid/debian bookworm main\n\
                        deb http://archive.invalid/debian bookworm-updates main\n\
                        deb http://docker.invalid/debian bookworm stable\n\
                        deb [signed-by=/k.gpg] http://security.invalid/debian-security bookworm-security main\n";

    fn groups(text: &str) -> Vec<Group> {
        Group::for_request(&Request::parse(text).unwrap())
    }

    #[test]
    fn the_distribution_is_told_from_third_parties() {
        let archives = Archives::choose(&parse_list(LIST)).unwrap();
        assert_eq!(archives.main.uris, ["http://archive.invalid/debian"]);
        assert_eq!(archives.main.suites, ["bookworm"]);
        let security = archives.security.unwrap();
        assert_eq!(security.uris, ["http://security.invalid/debian-security"]);
        assert!(Archives::choose(&parse_list("deb http://u.invalid/ubuntu noble main")).is_none());
    }

    #[test]
    fn sources_have_the_suites_of_the_group_and_the_keys_of_the_machine() {
        let archives = Archives::choose(&parse_list(LIST)).unwrap();
        let group = groups("6.12").remove(0);
        let expected = "Types: deb\nURIs: http://archive.invalid/debian\nSuites: trixie\nComponents: main\n\
                        Architectures: amd64\n\n\
                        Types: deb\nURIs: http://security.invalid/debian-security\nSuites: trixie-security\n\
                        Components: main\nArchitectures: amd64\nSigned-By: /k.gpg\n";
        assert_eq!(archives.sources(&group), expected);
    }

    #[test]
    fn a_key_of_several_lines_survives() {
        let text = "Types: deb\nURIs: http://a.invalid/debian\nSuites: sid\nComponents: main\nSigned-By:\n BEGIN\n .\n END\n";
        let archives = Archives::choose(&parse_deb822(text)).unwrap();
        let group = groups("7.3").remove(0);
        let written = parse_deb822(&archives.sources(&group)).remove(0);
        assert_eq!(written.signed_by, archives.main.signed_by);
        assert_eq!(written.suites, ["experimental"]);
    }

    #[test]
    fn a_series_is_searched_at_home_first() {
        let names =
            |text| -> Vec<String> { groups(text).iter().map(|g| g.name().to_owned()).collect() };
        assert_eq!(names("6.12"), ["6.12", "all"]);
        assert_eq!(names("6.1.0-50"), ["6.1", "all"]);
        assert_eq!(
            names("linux-binary-7.2.13+deb14-cloud-amd64"),
            ["7.2", "all"]
        );
        assert_eq!(names("6.18"), ["backports", "all"]);
    }
}
