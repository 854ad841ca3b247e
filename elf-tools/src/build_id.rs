//! What tells one linked image from every other.

use std::fmt;
use std::str::FromStr;

/// A build-id: the bytes that the linker puts into an image's GNU note, 20 of them by default.
///
/// It is printed, and read, as lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(Box<[u8]>);

impl BuildId {
    /// The build-id of these bytes; `None` if there are none, since that tells nothing apart.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty()).then(|| Self(bytes.into()))
    }

    /// The bytes, of which there is at least one.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// The text is not a build-id: it must be pairs of hexadecimal digits, and at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a build-id is made of pairs of hexadecimal digits")]
#[non_exhaustive]
pub struct ParseBuildIdError;

impl FromStr for BuildId {
    type Err = ParseBuildIdError;

    fn from_str(text: &str) -> Result<Self, ParseBuildIdError> {
        let digits: Option<Vec<u8>> = text
            .chars()
            .map(|digit| digit.to_digit(16).map(|value| value as u8))
            .collect();
        let digits = digits.ok_or(ParseBuildIdError)?;
        let (pairs, []) = digits.as_chunks::<2>() else {
            return Err(ParseBuildIdError);
        };
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        Self::new(&bytes).ok_or(ParseBuildIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::BuildId;

    #[test]
    fn text_survives_a_round_trip() {
        let id = BuildId::new(&[0x00, 0x9a, 0xff]).unwrap();
        assert_eq!(id.to_string(), "009aff");
        assert_eq!("009aff".parse(), Ok(id.clone()));
        assert_eq!("009AFF".parse(), Ok(id));
    }

    #[test]
    fn what_is_no_build_id_is_refused() {
        assert_eq!(BuildId::new(&[]), None);
        for text in ["", "0", "0g", "00 1", "+1"] {
            assert!(text.parse::<BuildId>().is_err(), "{text}");
        }
    }
}
