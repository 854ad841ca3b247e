//! `--old` of `relocator check`: the kernel of a dump, as container engines record it.

use std::path::Path;
use std::str::FromStr;

use relocator::source::Source;
use serde_json::Value;

use crate::source::{Spec, read_file};
use crate::{Error, Result};

/// The annotation in which container engines keep the kernel of a checkpoint: `uname -r`.
const ANNOTATION: &str = "org.criu.checkpoint.host.kernel";

/// The kernel of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OldKernel {
    /// By a source.
    Source(Spec),
    /// By its release, which says of which version it is, and not which build.
    Release(String),
}

impl OldKernel {
    /// Opens it.
    pub(super) fn open(&self) -> Result<Source> {
        match self {
            Self::Source(spec) => spec.open(),
            Self::Release(release) => Spec::Kernel(series(release).unwrap_or_default()).open(),
        }
    }
}

impl FromStr for OldKernel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let path = Path::new(text);
        if !path.is_file() {
            return match series(text) {
                Some(_) => Ok(Self::Release(text.to_owned())),
                None => text.parse().map(Self::Source),
            };
        }
        let bytes = read_file(path)?;
        let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        if !is_json {
            return text.parse().map(Self::Source);
        }
        let bad = |reason: String| Error::Source {
            text: text.to_owned(),
            reason,
        };
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let release = annotation(&value).filter(|release| series(release).is_some());
        let release = release.ok_or_else(|| {
            bad(format!(
                "the file has no annotation {ANNOTATION} with a release"
            ))
        })?;
        Ok(Self::Release(release.to_owned()))
    }
}

/// The annotation, wherever in the value it is: engines keep it at different places.
fn annotation(value: &Value) -> Option<&str> {
    match value {
        Value::Object(fields) => {
            let own = fields.get(ANNOTATION).and_then(Value::as_str);
            own.or_else(|| fields.values().find_map(annotation))
        }
        Value::Array(values) => values.iter().find_map(annotation),
        _ => None,
    }
}

/// The first two numbers of a release: `6.1` of `6.1.0-28-amd64`.
fn series(release: &str) -> Option<String> {
    let mut numbers = release.splitn(3, ['.', '-']);
    let number = |text: Option<&str>| text?.parse::<u32>().ok();
    let (major, minor) = (number(numbers.next())?, number(numbers.next())?);
    Some(format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<OldKernel> {
        text.parse()
    }

    #[test]
    fn releases_and_sources_are_told_apart() {
        let release = |text: &str| OldKernel::Release(text.to_owned());
        for text in ["6.1.0-28-amd64", "6.18.44", "5.10"] {
            assert_eq!(parse(text).unwrap(), release(text));
        }
        assert_eq!(series("6.1.0-28-amd64").as_deref(), Some("6.1"));
        assert_eq!(parse("self").unwrap(), OldKernel::Source(Spec::Own));
        let kernel = OldKernel::Source(Spec::Kernel("6.12".to_owned()));
        assert_eq!(parse("kernel:6.12").unwrap(), kernel);
    }

    #[test]
    fn annotations_are_found_in_files_of_engines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spec.dump");
        let put = |text: &str| std::fs::write(&path, text).unwrap();
        let read = || parse(path.to_str().unwrap());
        put(r#" {"annotations": {"a": "b", "org.criu.checkpoint.host.kernel": "6.1.0-28-amd64"}}"#);
        assert_eq!(
            read().unwrap(),
            OldKernel::Release("6.1.0-28-amd64".to_owned())
        );
        put(r#"{"manifests": [{"org.criu.checkpoint.host.kernel": "6.12.9"}]}"#);
        assert_eq!(read().unwrap(), OldKernel::Release("6.12.9".to_owned()));
        for bad in [
            "{}",
            "{",
            r#"{"org.criu.checkpoint.host.kernel": "new"}"#,
            r#"{"org.criu.checkpoint.host.kernel": 6}"#,
        ] {
            put(bad);
            assert!(read().is_err(), "{bad}");
        }
        put("\x7fELF");
        assert_eq!(read().unwrap(), OldKernel::Source(Spec::File(path.clone())));
    }
}
