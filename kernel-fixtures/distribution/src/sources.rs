//! The package sources that apt is configured with, in both of its formats.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A package source, reduced to what makes another one of the same archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Where the archive is; several are alternatives.
    pub(super) uris: Vec<String>,
    /// Its suites, by name or by code name.
    pub(super) suites: Vec<String>,
    /// The components of the suites.
    pub(super) components: Vec<String>,
    /// What signs them: files, fingerprints, or in deb822 sources a whole key, over several lines.
    pub(super) signed_by: Option<String>,
    /// Whether an expired index is an error, which it is not on snapshots.
    pub(super) check_valid_until: Option<String>,
}

/// Reads the sources from a list file and a directory with more of them. What cannot be read is not there for apt
/// either.
pub(super) fn read(list: &Path, directory: &Path) -> Vec<Source> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .map(|entries| {
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        })
        .unwrap_or_default();
    files.sort();
    files.insert(0, list.to_owned());
    files.iter().flat_map(|file| read_file(file)).collect()
}

fn read_file(file: &Path) -> Vec<Source> {
    let parse = match file.extension().and_then(|extension| extension.to_str()) {
        Some("list") => parse_list,
        Some("sources") => parse_deb822,
        _ => return Vec::new(),
    };
    fs::read_to_string(file).map_or_else(|_| Vec::new(), |text| parse(&text))
}

/// Reads the one-line format: `deb [option=value ...] uri suite component ...`.
pub(super) fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest
        .starts_with([' ', '\t', '['])
        .then(|| rest.trim_start())?;
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let option = |name: &str| {
        options.split_whitespace().find_map(|option| {
            let (key, value) = option.split_once('=')?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: option("signed-by"),
        check_valid_until: option("check-valid-until"),
    })
}

/// Reads the deb822 format: stanzas of fields.
pub(super) fn parse_deb822(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .filter_map(parse_stanza)
        .collect()
}

fn parse_stanza(lines: &[&str]) -> Option<Source> {
    let fields = fields(lines);
    let words = |name: &str| -> Vec<String> {
        let value = fields.get(name).map(String::as_str).unwrap_or_default();
        value.split_whitespace().map(str::to_owned).collect()
    };
    let is_disabled = words("enabled")
        .first()
        .is_some_and(|value| ["no", "false", "0"].contains(&value.to_ascii_lowercase().as_str()));
    let is_binary = words("types").iter().any(|kind| kind == "deb");
    let source = Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: fields.get("signed-by").cloned(),
        check_valid_until: fields.get("check-valid-until").cloned(),
    };
    let is_complete = !source.uris.is_empty() && !source.suites.is_empty();
    (is_binary && is_complete && !is_disabled).then_some(source)
}

/// The fields of a stanza by lower-case name. Lines that continue a value start with white space, which is kept.
fn fields(lines: &[&str]) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in lines {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = current.as_ref().and_then(|name| fields.get_mut(name)) {
                value.push('\n');
                value.push_str(line.trim_end());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let name = name.trim().to_ascii_lowercase();
            fields.insert(name.clone(), value.trim().to_owned());
            current = Some(name);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn one_line_format() {
        let text = "# deb http://commented.invalid/debian bookworm main\n\
                    deb http://archive.invalid/debian bookworm main contrib # a comment\n\
                    deb [ arch=amd64 signed-by=/k.gpg Check-Valid-Until=no ] http://archive.invalid/debian-security bookworm-security main\n\
                    deb[signed-by=/k.gpg] http://tight.invalid/ ./\n\
                    deb-src http://archive.invalid/debian bookworm main\n\
                    deb [broken http://archive.invalid/debian bookworm main\n\
                    deb\n\n";
        let sources = parse_list(text);
        assert_eq!(sources.len(), 3);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[0].signed_by, None);
        let expected = Source {
            uris: strings(&["http://archive.invalid/debian-security"]),
            suites: strings(&["bookworm-security"]),
            components: strings(&["main"]),
            signed_by: Some("/k.gpg".to_owned()),
            check_valid_until: Some("no".to_owned()),
        };
        assert_eq!(sources[1], expected);
        assert_eq!(sources[2].suites, ["./"]);
    }

    #[test]
    fn deb822_format() {
        let text = "# a comment\nTypes: deb deb-src\n# inside\nURIs: http://a.invalid/debian\n http://b.invalid/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/k.gpg\n\n\n\
                    Types: deb-src\nURIs: http://a.invalid/debian\nSuites: sid\n \n\
                    types: deb\nuris: http://c.invalid/debian\nsuites: sid\nenabled: no\n\n\
                    Types: deb\nURIs: http://d.invalid/debian\nSuites: sid\nComponents: main\n\
                    Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY\n";
        let sources = parse_deb822(text);
        assert_eq!(sources.len(), 2);
        assert_eq!(
            sources[0].uris,
            ["http://a.invalid/debian", "http://b.invalid/debian"]
        );
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(
            sources[0].signed_by.as_deref(),
            Some("/usr/share/keyrings/k.gpg")
        );
        let key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY";
        assert_eq!(sources[1].signed_by.as_deref(), Some(key));
    }

    #[test]
    fn files_are_read_by_their_extension() {
        let directory = tempfile::tempdir().unwrap();
        let parts = directory.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        let list = directory.path().join("sources.list");
        fs::write(&list, "deb http://1.invalid sid main").unwrap();
        fs::write(parts.join("b.list"), "deb http://3.invalid sid main").unwrap();
        fs::write(
            parts.join("a.sources"),
            "Types: deb\nURIs: http://2.invalid\nSuites: sid",
        )
        .unwrap();
        fs::write(parts.join("c.list.save"), "deb http://4.invalid sid main").unwrap();
        let uris: Vec<String> = read(&list, &parts)
            .into_iter()
            .flat_map(|source| source.uris)
            .collect();
        assert_eq!(
            uris,
            ["http://1.invalid", "http://2.invalid", "http://3.invalid"]
        );
    }
}
