//! What the environment of CRIU says to the plugin.

use std::ffi::OsString;
use std::path::PathBuf;

/// With the value `off` the plugin does nothing.
const SWITCH: &str = "RELOCATOR_PLUGIN";

/// Where tables are kept for processes that are dumped again: as for the command.
const TABLES: &str = "RELOCATOR_TABLES";

/// Where they are kept otherwise. CRIU runs as root.
const USUAL_TABLES: &str = "/var/cache/relocator";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Nothing is to be done.
    pub(crate) is_off: bool,
    /// A directory of tables besides those that lie beside the images.
    pub(crate) tables: PathBuf,
}

impl Options {
    pub(crate) fn from_environment() -> Self {
        Self::from(|name| std::env::var_os(name))
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let given = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            is_off: given(SWITCH).is_some_and(|value| value == "off"),
            tables: given(TABLES).unwrap_or(USUAL_TABLES.into()).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_unless_it_is_switched_off() {
        let with = |pairs: &'static [(&str, &str)]| {
            Options::from(|name| {
                let found = pairs.iter().find(|pair| pair.0 == name);
                found.map(|pair| pair.1.into())
            })
        };
        assert!(!with(&[]).is_off);
        assert!(!with(&[(SWITCH, "")]).is_off);
        assert!(with(&[(SWITCH, "off")]).is_off);
        assert_eq!(with(&[(TABLES, "")]).tables, PathBuf::from(USUAL_TABLES));
        assert_eq!(with(&[(TABLES, "/a")]).tables, PathBuf::from("/a"));
    }
}
