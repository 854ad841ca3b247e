//! Replacements that have no room at entries.
//!
//! Such a replacement goes behind the image, and the entry gets a short jump to it. That is needed
//! for functions that are shorter than their replacement, and for those that no system call can
//! stand in for while the text of a process is replaced: their entries must change at once.

use elf_tools::Svma;

use crate::threads::Moved;

/// What each begins at a multiple of.
const ALIGNMENT: u64 = 16;

/// Replacements behind an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutOfLine {
    /// Where they begin.
    start: Svma,
    /// All of them.
    code: Vec<u8>,
    /// A thread anywhere in one can start over at the entry that led to it.
    pub(crate) back: Vec<Moved>,
}

impl OutOfLine {
    /// None yet. They will begin behind `end`.
    pub(crate) fn at(end: Svma) -> Self {
        Self {
            start: Svma(end.0.next_multiple_of(ALIGNMENT)),
            code: Vec::new(),
            back: Vec::new(),
        }
    }

    /// Where the next one will be.
    pub(crate) fn end(&self) -> Svma {
        let end = self.start.0 + self.code.len() as u64;
        Svma(end.next_multiple_of(ALIGNMENT))
    }

    /// Adds one for the function at `entry`.
    pub(crate) fn push(&mut self, entry: Svma, code: &[u8]) {
        let place = self.end();
        self.code.resize((place.0 - self.start.0) as usize, 0);
        self.code.extend_from_slice(code);
        let places = (place.0..).take(code.len());
        self.back.extend(places.map(|place| Moved {
            from: entry,
            to: Svma(place),
        }));
    }

    /// Appends them to the image.
    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) {
        if !self.code.is_empty() {
            bytes.resize(self.start.index(), 0);
            bytes.extend_from_slice(&self.code);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_behind_each_other_and_lead_back_to_their_entries() {
        let mut outside = OutOfLine::at(Svma(0x1003));
        let mut bytes = vec![1; 0x1003];
        outside.append_to(&mut bytes);
        assert_eq!(bytes.len(), 0x1003);
        outside.push(Svma(0x100), &[2; 17]);
        assert_eq!(outside.end(), Svma(0x1030));
        outside.push(Svma(0x200), &[3; 13]);
        outside.append_to(&mut bytes);
        assert_eq!(bytes.len(), 0x103d);
        assert_eq!(bytes[0x1010..0x1021], [2; 17]);
        assert_eq!(bytes[0x1030..], [3; 13]);
        let of = |entry: u64| {
            outside
                .back
                .iter()
                .filter(move |back| back.from == Svma(entry))
        };
        assert_eq!((of(0x100).count(), of(0x200).count()), (17, 13));
        assert!(of(0x200).all(|back| (0x1030..0x103d).contains(&back.to.0)));
    }
}
