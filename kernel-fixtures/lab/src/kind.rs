//! Kinds of subjects: what dumps them, the language and the C library of the checker, and whether
//! they live in containers.

use std::fmt;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::guest::Container;

/// The languages that there is a checker in.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Language {
    /// C, with each C library.
    #[default]
    C,
    /// Python, with each C library that a suite has it for.
    Python,
    /// Go, which has no C library.
    Go,
}

/// The C library of a program that has none.
pub(crate) const NO_LIBC: &str = "none";

/// A kind of subjects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Kind {
    /// The version of CRIU.
    pub(crate) criu: String,
    /// The language of the checker.
    pub(crate) language: Language,
    /// The C library, or [`NO_LIBC`].
    pub(crate) libc: String,
    /// Processes in each image.
    pub(crate) processes: usize,
    /// The container that they live in.
    pub(crate) container: Option<Container>,
}

impl Kind {
    /// A kind in C, of one process without a container.
    pub(crate) fn usual(criu: &str, libc: &str) -> Self {
        Self {
            criu: criu.to_owned(),
            language: Language::C,
            libc: libc.to_owned(),
            processes: 1,
            container: None,
        }
    }

    /// The name of the image of one subject: each kind has its own.
    pub(crate) fn image(&self, number: usize) -> String {
        let language = match self.language {
            Language::C => "",
            Language::Python => "python-",
            Language::Go => "go-",
        };
        let container = match self.container {
            None => String::new(),
            Some(container) => format!("{container}-"),
        };
        let Self { criu, libc, .. } = self;
        format!("{criu}-{language}{libc}-{container}{number}")
    }

    /// The directory of a guest that has the checker with what it needs.
    pub(crate) fn directory(&self) -> String {
        match self.language {
            Language::C => format!("/opt/libc-{}", self.libc),
            Language::Python => format!("/opt/python-{}", self.libc),
            Language::Go => "/opt/go".to_owned(),
        }
    }
}

/// What differs from the usual, besides CRIU: "2.36", "Python, newest, 3 processes, container".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.language {
            Language::C => f.write_str(&self.libc)?,
            Language::Python => write!(f, "Python, {}", self.libc)?,
            Language::Go => f.write_str("Go")?,
        }
        if self.processes > 1 {
            write!(f, ", {} processes", self.processes)?;
        }
        match self.container {
            None => Ok(()),
            Some(Container::Usual) => f.write_str(", container"),
            Some(Container::Time) => f.write_str(", container with time"),
            Some(Container::Inside) => f.write_str(", container, from inside"),
        }
    }
}

/// All kinds of these versions of CRIU, languages, C libraries and containers.
///
/// # Errors
///
/// There is no Python for the C library.
pub(crate) fn all(
    criu: &[String],
    languages: &[Language],
    libcs: &[String],
    processes: usize,
    containers: &[Container],
) -> Result<Vec<Kind>> {
    let containers: Vec<Option<Container>> = match containers.is_empty() {
        true => vec![None],
        false => containers.iter().copied().map(Some).collect(),
    };
    let none = [NO_LIBC.to_owned()];
    let mut kinds = Vec::new();
    for criu in criu {
        for &language in languages {
            let libcs = if language == Language::Go {
                &none[..]
            } else {
                libcs
            };
            for libc in libcs {
                if language == Language::Python && !crate::packages::has_python(libc) {
                    bail!("there is no Python with C library {libc}");
                }
                kinds.extend(containers.iter().map(|&container| Kind {
                    language,
                    processes,
                    container,
                    ..Kind::usual(criu, libc)
                }));
            }
        }
    }
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn each_kind_has_images_of_its_own() {
        let languages = [Language::C, Language::Python, Language::Go];
        let containers = [Container::Usual, Container::Time, Container::Inside];
        let libcs = words(&["2.36", "newest"]);
        let mut kinds = Vec::new();
        for containers in [&[][..], &containers] {
            kinds.extend(all(&words(&["4.1", "4.3"]), &languages, &libcs, 1, containers).unwrap());
        }
        // Go has no C library.
        assert_eq!(kinds.len(), 2 * 5 * 4);
        let images: BTreeSet<String> = kinds.iter().map(|kind| kind.image(0)).collect();
        let texts: BTreeSet<String> = kinds.iter().map(Kind::to_string).collect();
        assert_eq!((images.len(), texts.len()), (kinds.len(), kinds.len() / 2));
    }

    #[test]
    fn a_kind_is_said_by_what_differs() {
        let mut kind = Kind::usual("4.3", "2.36");
        assert_eq!(kind.to_string(), "2.36");
        kind.processes = 3;
        kind.language = Language::Python;
        kind.container = Some(Container::Usual);
        assert_eq!(kind.to_string(), "Python, 2.36, 3 processes, container");
    }

    #[test]
    fn there_is_not_every_python() {
        let musl = words(&["musl"]);
        all(&musl, &[Language::C, Language::Go], &musl, 1, &[]).unwrap();
        all(&musl, &[Language::Python], &musl, 1, &[]).unwrap_err();
    }
}
