//! Canonical symbol names, and the references that images make to them.
//!
//! A name is a path of segments joined by dots; a segment that is an array's element ends in `[]`.
//! A reference may add a semantic version (`time.clock[].seq:2`), which defaults to 1, and may ask
//! for the distance between two symbols of one object: `offsetof(time.clock[],time.clock[].seq)`.
//! `docs/abi.md` is the specification.

use std::fmt;

use crate::{Error, Result};

/// Longest reference that is accepted, in bytes. The longest one in the vocabulary has 71.
pub const MAX_LEN: usize = 255;

/// Checks that `name` is a canonical name without semantic version.
pub fn check(name: &str) -> Result<()> {
    if is_canonical(name) {
        return Ok(());
    }
    let reason = "not a canonical name: two or more lower-case segments joined by dots, each with an optional []";
    Err(Error::symbol(
        name.chars().take(MAX_LEN).collect::<String>(),
        reason,
    ))
}

/// Whether `name` is a canonical name of at least two segments, without semantic version.
pub fn is_canonical(name: &str) -> bool {
    let segment = |segment: &str| {
        let word = segment.strip_suffix("[]").unwrap_or(segment).as_bytes();
        word.first()
            .is_some_and(|&b| b.is_ascii_lowercase() || b == b'_')
            && word
                .iter()
                .all(|&b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    name.len() <= MAX_LEN && name.contains('.') && name.split('.').all(segment)
}

/// A canonical name with the semantic version that is meant, in certain elements of its arrays.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VersionedName {
    /// Canonical name.
    pub name: String,
    /// Which element of each array in the name is meant, outermost first: one number for each `[]`.
    pub indices: Vec<u64>,
    /// Semantic version, from 1.
    pub version: u32,
}

impl VersionedName {
    /// Version 1 of a canonical name, in the first element of its arrays.
    pub fn first(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            indices: vec![0; name.matches("[]").count()],
            version: 1,
        }
    }

    /// Reads `NAME` (version 1) or `NAME:VERSION`, where `[N]` in the name means element N and `[]`
    /// the first one.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, version) = match text.split_once(':') {
            None => (text, 1),
            Some((name, digits)) => {
                let version = digits
                    .parse::<u32>()
                    .ok()
                    .filter(|&v| v > 1 && !digits.starts_with(['0', '+']));
                let Some(version) = version else {
                    return Err(Error::symbol(
                        text,
                        "a stated semantic version is a decimal number from 2 on",
                    ));
                };
                (name, version)
            }
        };
        let (name, indices) = split_indices(name)?;
        check(&name)?;
        Ok(Self {
            name,
            indices,
            version,
        })
    }
}

/// Version 1 and index 0 are not written.
impl fmt::Display for VersionedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut indices = self.indices.iter();
        for (position, part) in self.name.split("[]").enumerate() {
            if position > 0 {
                match indices.next() {
                    None | Some(0) => f.write_str("[]")?,
                    Some(index) => write!(f, "[{index}]")?,
                }
            }
            f.write_str(part)?;
        }
        match self.version {
            1 => Ok(()),
            version => write!(f, ":{version}"),
        }
    }
}

/// Takes the numbers out of the brackets: `a.b[2].c` is element 2 of `a.b[].c`.
fn split_indices(text: &str) -> Result<(String, Vec<u64>)> {
    let mut name = String::with_capacity(text.len());
    let mut indices = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((digits, behind)) = after.split_once(']') else {
            return Err(Error::symbol(text, "an index without its end"));
        };
        let index = match digits {
            "" => Some(0),
            _ if digits.starts_with(['0', '+']) => None,
            _ => digits.parse::<u32>().ok().map(u64::from),
        };
        let Some(index) = index else {
            let reason = "an index is a decimal number from 1 on; [] is the first element";
            return Err(Error::symbol(text, reason));
        };
        name.push_str(before);
        name.push_str("[]");
        indices.push(index);
        rest = behind;
    }
    name.push_str(rest);
    Ok((name, indices))
}

/// What an image's table asks the linker for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// The address of a symbol, or its size where the relocation type asks for that.
    Place(VersionedName),
    /// The distance in bytes from `object` to `member`, as C's `offsetof`.
    OffsetOf {
        /// Where the distance starts.
        object: VersionedName,
        /// Where it ends.
        member: VersionedName,
    },
}

impl Reference {
    /// Reads a reference as it is spelled in a symbol table.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(arguments) = text.strip_prefix("offsetof(") else {
            return Ok(Self::Place(VersionedName::parse(text)?));
        };
        let Some((object, member)) = arguments.strip_suffix(')').and_then(|a| a.split_once(','))
        else {
            return Err(Error::symbol(text, "expected offsetof(OBJECT,MEMBER)"));
        };
        Ok(Self::OffsetOf {
            object: VersionedName::parse(object)?,
            member: VersionedName::parse(member)?,
        })
    }

    /// The symbol whose absence makes the reference unresolvable; for a distance, the member.
    pub fn target(&self) -> &VersionedName {
        match self {
            Self::Place(name) | Self::OffsetOf { member: name, .. } => name,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(name) => name.fmt(f),
            Self::OffsetOf { object, member } => write!(f, "offsetof({object},{member})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_survive_a_round_trip() {
        for text in [
            "time.clock[].basetime[].sec",
            "time.clock[].basetime[].nsec:2",
            "offsetof(time.clock[],time.clock[].seq)",
            "offsetof(time.clock[]:3,time.clock[].seq:12)",
            "time.clock[1].basetime[11].nsec:3",
            "time.clock[].basetime[1].nsec",
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        for text in [
            "",
            ".",
            "time.",
            "time",
            "Time.clock",
            "time..clock",
            "time.[]",
            "time.clock[0].seq",
            "time.clock[01].seq",
            "time.clock[+1].seq",
            "time.clock[1.seq",
            "time.clock[1]x.seq",
            "time.clock[4294967296].seq",
            "time.clock:1",
            "time.clock:0",
            "time.clock:02",
            "time.clock:+2",
            "time.clock:",
            "time.clock:4294967296",
            "offsetof(time.clock[])",
            "offsetof(time.clock[],)",
            "offsetof(a.b,a.c",
            "memcpy@GLIBC_2.14",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        assert!(Reference::parse(&"a.".repeat(200)).is_err());
    }
}
