//! What a processor can execute beyond what every processor of its architecture can.
//!
//! A dumped image has the instructions that suited the processor of its own kernel: boot-time
//! [alternatives](crate::image::alternatives) have put them there. The processor that runs the
//! image later may not have them.

use std::fmt;

use crate::arch;

/// A set of extensions of an instruction set. The architecture of the image says what each is
/// called; names are those that Linux prints in `/proc/cpuinfo`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ProcessorFeatures(u64);

impl ProcessorFeatures {
    /// What every processor has.
    pub const BASE: Self = Self(0);

    /// The extensions that this crate does not know by name. No processor is taken to have them.
    pub(crate) const UNKNOWN: Self = Self(1 << 63);

    /// The extension with a number of [`arch::PROCESSOR_FEATURES`].
    pub(crate) const fn of(index: usize) -> Self {
        Self(1 << index)
    }

    /// All extensions that have names.
    pub fn all() -> Self {
        let names = arch::PROCESSOR_FEATURES.iter();
        names
            .enumerate()
            .fold(Self::BASE, |all, (index, _)| all.with(Self::of(index)))
    }

    /// The extension that Linux calls by a name, if code may need it.
    pub fn named(name: &str) -> Option<Self> {
        let mut names = arch::PROCESSOR_FEATURES.iter();
        names.position(|known| *known == name).map(Self::of)
    }

    /// Those of either set.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that the other set does not have.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names. What has none is called `unknown`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let names = arch::PROCESSOR_FEATURES.iter().enumerate();
        let known = names.filter(move |(index, _)| self.0 & Self::of(*index).0 != 0);
        let rest = self.without(Self::all());
        let rest = (!rest.is_empty()).then_some("unknown");
        known.map(|(_, name)| *name).chain(rest)
    }

    /// Those that a list as in `/proc/cpuinfo` names, words between white space. Other words are
    /// passed over.
    pub fn listed(text: &str) -> Self {
        let named = text.split_whitespace().filter_map(Self::named);
        named.fold(Self::BASE, Self::with)
    }
}

impl fmt::Display for ProcessorFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ProcessorFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_names() {
        let names: Vec<_> = arch::PROCESSOR_FEATURES.to_vec();
        let text = names.join(" ");
        assert_eq!(ProcessorFeatures::listed(&text), ProcessorFeatures::all());
        assert!(ProcessorFeatures::all().names().eq(names.iter().copied()));
        let (first, last) = (names[0], names[names.len() - 1]);
        let two = ProcessorFeatures::listed(&format!("nosuch {last}\t{first} {last}"));
        assert_eq!(two.to_string(), format!("{first}, {last}"));
        let one = ProcessorFeatures::named(first).unwrap();
        assert_eq!(format!("{:?}", two.without(one)), format!("{{{last:?}}}"));
        assert!(two.without(ProcessorFeatures::all()).is_empty());
        let unknown = one.with(ProcessorFeatures::UNKNOWN);
        assert_eq!(unknown.to_string(), format!("{first}, unknown"));
        assert_eq!(ProcessorFeatures::named("unknown"), None);
        assert!(ProcessorFeatures::BASE.is_empty());
    }
}
