//! How a function that was verified ran.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

use crate::plan::Strategy;

/// How a function ran: linked in some way, or as it is on its own kernel. In JSON it is the word that it prints as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// As linking has made it.
    Linked(Strategy),
    /// Unlinked, on its own kernel.
    Native,
}

const ALL: [How; 5] = [
    How::Linked(Strategy::Keep),
    How::Linked(Strategy::Relocate),
    How::Linked(Strategy::Proxy),
    How::Linked(Strategy::Syscall),
    How::Native,
];

impl From<Strategy> for How {
    fn from(strategy: Strategy) -> Self {
        Self::Linked(strategy)
    }
}

impl PartialEq<Strategy> for How {
    fn eq(&self, other: &Strategy) -> bool {
        *self == Self::Linked(*other)
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linked(strategy) => strategy.fmt(f),
            Self::Native => f.write_str("native"),
        }
    }
}

impl Serialize for How {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for How {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let found = ALL.into_iter().find(|how| how.to_string() == word);
        found.ok_or_else(|| Error::custom(format!("`{word}` is no way to run")))
    }
}
