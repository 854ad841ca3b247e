//! Replacements that have no room at entries.
//!
//! Such a replacement goes where there is room in the image or behind it, and the entry gets a short
//! jump to it. That is needed
//! for functions that are shorter than their replacement, and for those that no system call can
//! stand in for while the text of a process is replaced: their entries must change at once.

use elf_tools::Svma;

use crate::threads::Moved;
use crate::unwind::{Piece, Room};

/// What each begins at a multiple of, behind the image.
const ALIGNMENT: u64 = 16;

/// Replacements inside of an image, and behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutOfLine {
    /// What is free in the image.
    room: Room,
    /// The first byte behind the image and them that is free.
    end: Svma,
    /// Where each is, and its code.
    code: Vec<(Svma, Vec<u8>)>,
    /// The same without the code.
    pub(crate) pieces: Vec<Piece>,
    /// A thread anywhere in one can start over at the entry that led to it.
    pub(crate) back: Vec<Moved>,
}

impl OutOfLine {
    /// None yet. They will begin in `room`, and behind `end`.
    pub(crate) fn at(room: Room, end: Svma) -> Self {
        Self {
            room,
            end,
            code: Vec::new(),
            pieces: Vec::new(),
            back: Vec::new(),
        }
    }

    /// Adds one for the function at `entry`, and says where it is.
    pub(crate) fn push(&mut self, entry: Svma, code: &[u8]) -> Svma {
        let place = self.room.take(code.len()).unwrap_or_else(|| {
            let place = Svma(self.end.0.next_multiple_of(ALIGNMENT));
            self.end = Svma(place.0 + code.len() as u64);
            place
        });
        self.code.push((place, code.to_vec()));
        self.pieces.push(Piece {
            range: place.0..place.0 + code.len() as u64,
            moved: Vec::new(),
            of: entry,
        });
        let places = (place.0..).take(code.len());
        self.back.extend(places.map(|place| Moved {
            from: entry,
            to: Svma(place),
        }));
        place
    }

    /// Writes them into the image, and behind it.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        for (place, code) in &self.code {
            let end = place.index() + code.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[place.index()..end].copy_from_slice(code);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_behind_each_other_and_lead_back_to_their_entries() {
        let mut outside = OutOfLine::at(Room::default(), Svma(0x1003));
        let mut bytes = vec![1; 0x1003];
        outside.write(&mut bytes);
        assert_eq!(bytes.len(), 0x1003);
        assert_eq!(outside.push(Svma(0x100), &[2; 17]), Svma(0x1010));
        assert_eq!(outside.push(Svma(0x200), &[3; 13]), Svma(0x1030));
        outside.write(&mut bytes);
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
