//! A [`Strategy`] in JSON is the word that it prints as.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

use crate::plan::Strategy;

const ALL: [Strategy; 4] = [
    Strategy::Keep,
    Strategy::Relocate,
    Strategy::Proxy,
    Strategy::Syscall,
];

pub(super) fn serialize<S: Serializer>(
    strategy: &Strategy,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(strategy)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Strategy, D::Error> {
    let word = String::deserialize(deserializer)?;
    let found = ALL
        .into_iter()
        .find(|strategy| strategy.to_string() == word);
    found.ok_or_else(|| Error::custom(format!("`{word}` is no strategy")))
}
