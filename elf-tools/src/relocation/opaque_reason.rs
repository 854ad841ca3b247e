//! Why a table cannot state what an instruction depends on.

use std::fmt;

use crate::reason::{self, Pattern, same_by_text};

/// Why an instruction is [`Opaque`](super::Opaque). Two reasons are equal if they say the same.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum OpaqueReason {
    /// An address goes into an instruction that the analysis does not follow.
    AddressComputed,
    /// An instruction uses the stack in a way that the analysis does not follow.
    StackUsed,
    /// An instruction changes the stack pointer in a way that the analysis does not follow.
    StackPointerChanged,
    /// Control leaves the code of the image.
    ControlLeaves,
    /// Calls are nested more deeply than the analysis goes.
    NestedTooDeeply,
    /// The function takes more steps than the analysis makes.
    TooComplex,
    /// More addresses meet at the instruction than the analysis keeps apart.
    TooManyAddresses,
    /// The instruction writes to the vvar.
    Written,
    /// The address is the sum of two.
    AddressesAdded,
    /// No constant of the code that may change is part of the address of that symbol.
    FixedAddress(String),
    /// The symbol table lacks that symbol, so that an array has no stride.
    NoSize(String),
    /// No symbol is at that address.
    NoSymbolAt(String),
    /// That address can mean more than one symbol.
    Ambiguous(String),
    /// The instruction refers to the vvar, and the analysis made nothing of it.
    NoSymbol,
    /// What a stored table says.
    Stored(String),
}

const PATTERNS: [Pattern; 14] = [
    Pattern::whole(
        "address-computed",
        "an address is computed with in a way that is not understood",
    ),
    Pattern::whole(
        "stack-used",
        "the stack is used in a way that is not understood",
    ),
    Pattern::whole(
        "stack-pointer-changed",
        "the stack pointer is changed in a way that is not understood",
    ),
    Pattern::whole("control-leaves", "control leaves the code"),
    Pattern::whole("nested-too-deeply", "calls are nested too deeply"),
    Pattern::whole("too-complex", "the function is too complex to be followed"),
    Pattern::whole(
        "too-many-addresses",
        "more addresses meet here than can be followed",
    ),
    Pattern::whole("written", "the vvar is written to"),
    Pattern::whole("addresses-added", "an address is added to another"),
    Pattern::around("fixed-address", "the address of `", "` is fixed"),
    Pattern::around("no-size", "`", "` has no size"),
    Pattern::around("no-symbol-at", "no symbol is at ", ""),
    Pattern::around("ambiguous", "", " can mean more than one thing"),
    Pattern::whole("no-symbol", "refers to the vvar, but to no symbol"),
];

impl OpaqueReason {
    /// What it says is made of: the pattern, and what is between its ends.
    fn parts(&self) -> Result<(&'static Pattern, &str), &str> {
        let (index, between) = match self {
            Self::AddressComputed => (0, ""),
            Self::StackUsed => (1, ""),
            Self::StackPointerChanged => (2, ""),
            Self::ControlLeaves => (3, ""),
            Self::NestedTooDeeply => (4, ""),
            Self::TooComplex => (5, ""),
            Self::TooManyAddresses => (6, ""),
            Self::Written => (7, ""),
            Self::AddressesAdded => (8, ""),
            Self::FixedAddress(symbol) => (9, symbol.as_str()),
            Self::NoSize(symbol) => (10, symbol.as_str()),
            Self::NoSymbolAt(address) => (11, address.as_str()),
            Self::Ambiguous(address) => (12, address.as_str()),
            Self::NoSymbol => (13, ""),
            Self::Stored(text) => return Err(text),
        };
        Ok((&PATTERNS[index], between))
    }

    /// A word for programs, which does not change. It is `stored` for a text that is none of ours.
    pub fn code(&self) -> &'static str {
        match self.parts() {
            Ok((pattern, _)) => pattern.code,
            Err(text) => reason::code(&PATTERNS, text),
        }
    }
}

impl fmt::Display for OpaqueReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Ok((pattern, between)) => f.write_str(&pattern.text(between)),
            Err(text) => f.write_str(text),
        }
    }
}

same_by_text!(OpaqueReason);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_reason_is_the_reason() {
        let some = || "image-0x3f80".to_owned();
        let all = [
            OpaqueReason::AddressComputed,
            OpaqueReason::StackUsed,
            OpaqueReason::StackPointerChanged,
            OpaqueReason::ControlLeaves,
            OpaqueReason::NestedTooDeeply,
            OpaqueReason::TooComplex,
            OpaqueReason::TooManyAddresses,
            OpaqueReason::Written,
            OpaqueReason::AddressesAdded,
            OpaqueReason::FixedAddress(some()),
            OpaqueReason::NoSize(some()),
            OpaqueReason::NoSymbolAt(some()),
            OpaqueReason::Ambiguous(some()),
            OpaqueReason::NoSymbol,
        ];
        let mut codes = std::collections::BTreeSet::new();
        for reason in &all {
            let stored = OpaqueReason::Stored(reason.to_string());
            assert_eq!(&stored, reason);
            assert_eq!(stored.code(), reason.code());
            codes.insert(reason.code());
        }
        assert_eq!(codes.len(), all.len());
        assert_eq!(OpaqueReason::from("somebody else's").code(), "stored");
    }
}
