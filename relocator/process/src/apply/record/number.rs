//! Numbers of a stored record: LEB128, as DWARF has it, in the fewest bytes.

use elf_tools::{Error, Result};

/// Appends a number without sign.
pub(super) fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Appends a number with sign.
pub(super) fn put_signed(bytes: &mut Vec<u8>, mut value: i64) {
    loop {
        let low = value as u8 & 0x7f;
        value >>= 7;
        // The rest is only the sign, and this byte has it already.
        if (value == 0 && low & 0x40 == 0) || (value == -1 && low & 0x40 != 0) {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

/// Reads what was appended.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Offset of the next byte.
    at: usize,
}

impl<'a> Reader<'a> {
    /// Begins with the byte at offset `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Offset of the next byte.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// An error about what begins at an offset.
    pub(super) fn wrong(at: usize, reason: impl Into<String>) -> Error {
        Error::malformed("link record", at as u64, reason)
    }

    /// The next bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let left = self.bytes.get(self.at..).unwrap_or_default();
        let taken = left.get(..count).ok_or_else(|| {
            let reason = format!("{count} bytes are to follow, and only {} do", left.len());
            Self::wrong(self.at, reason)
        })?;
        self.at += count;
        Ok(taken)
    }

    /// The next number without sign.
    pub(super) fn number(&mut self) -> Result<u64> {
        let (start, mut value) = (self.at, 0);
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.take(1)?[0];
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return match byte == 0 && shift > 0 {
                    true => Err(Self::wrong(start, "a number has more bytes than it needs")),
                    false => Ok(value),
                };
            }
        }
        Err(Self::wrong(start, "a number has more than 64 bits"))
    }

    /// The next number with sign.
    pub(super) fn signed(&mut self) -> Result<i64> {
        let (start, mut value) = (self.at, 0_i128);
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.take(1)?[0];
            value |= i128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let unused = 128 - (shift + 7);
                let value = value << unused >> unused;
                let value = i64::try_from(value).ok();
                return value.ok_or_else(|| Self::wrong(start, "a number has more than 64 bits"));
            }
        }
        Err(Self::wrong(start, "a number has more than 64 bits"))
    }

    /// The next number, which is a count or a size and at most `most`.
    pub(super) fn count(&mut self, most: usize, what: &str) -> Result<usize> {
        let start = self.at;
        let value = self.number()?;
        let count = usize::try_from(value).ok().filter(|&count| count <= most);
        count.ok_or_else(|| Self::wrong(start, format!("{value} {what}; {most} are the most")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unsigned(bytes: &[u8]) -> Result<u64> {
        Reader::new(bytes, 0).number()
    }

    #[test]
    fn numbers_are_those_of_dwarf() {
        let mut bytes = Vec::new();
        put(&mut bytes, 624_485);
        assert_eq!(bytes, [0xe5, 0x8e, 0x26]);
        bytes.clear();
        put_signed(&mut bytes, -123_456);
        assert_eq!(bytes, [0xc0, 0xbb, 0x78]);
    }

    #[test]
    fn numbers_that_are_too_long_or_cut_off_are_refused() {
        let refused = |bytes: &[u8]| unsigned(bytes).unwrap_err().to_string();
        let too_large = refused(&[0xff; 11]);
        assert!(too_large.contains("more than 64 bits"), "{too_large}");
        let last = [[0x80; 9].as_slice(), &[2]].concat();
        assert!(refused(&last).contains("more than 64 bits"));
        let largest = [[0xff; 9].as_slice(), &[1]].concat();
        assert_eq!(unsigned(&largest), Ok(u64::MAX));
        assert!(refused(&[0x81, 0]).contains("than it needs"));
        assert!(refused(&[0x81]).contains("only 0 do"));
        for bytes in [
            [0xff; 10].as_slice(),
            &[[0x80; 9].as_slice(), &[1]].concat(),
        ] {
            assert!(Reader::new(bytes, 0).signed().is_err());
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, shift in 0..64_u32, signed: i64) {
            let mut bytes = Vec::new();
            put(&mut bytes, value >> shift);
            put_signed(&mut bytes, signed >> shift);
            let mut reader = Reader::new(&bytes, 0);
            prop_assert_eq!(reader.number().unwrap(), value >> shift);
            prop_assert_eq!(reader.signed().unwrap(), signed >> shift);
            prop_assert_eq!(reader.offset(), bytes.len());
        }
    }
}
