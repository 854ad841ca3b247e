//! How instructions store the constants that addresses are made of.

use std::ops::RangeInclusive;

/// How a constant is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// Not at all: a memory operand without displacement. Its value is 0 as long as the instruction
    /// is not replaced.
    None,
    /// One byte, signed.
    I8,
    /// Four bytes, signed.
    I32,
}

impl Width {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::None => 0,
            Self::I8 => 1,
            Self::I32 => 4,
        }
    }

    /// The values that can be stored, as far as they are multiples of [`Width::scale`].
    pub fn range(self) -> RangeInclusive<i64> {
        match self {
            Self::None => 0..=0,
            Self::I8 => i8::MIN.into()..=i8::MAX.into(),
            Self::I32 => i32::MIN.into()..=i32::MAX.into(),
        }
    }

    /// What values are divided by before they are stored.
    pub fn scale(self) -> i64 {
        1
    }

    /// Whether `value` can be stored without changing its meaning.
    pub fn fits(self, value: i64) -> bool {
        self.range().contains(&value) && value % self.scale() == 0
    }

    /// The value that is stored in the first bytes; `None` if they are too few.
    pub fn get(self, bytes: &[u8]) -> Option<i64> {
        match self {
            Self::None => Some(0),
            Self::I8 => bytes.first().map(|&byte| i64::from(byte.cast_signed())),
            Self::I32 => bytes
                .first_chunk()
                .map(|&field| i64::from(i32::from_le_bytes(field))),
        }
    }

    /// Stores a value in the first bytes; whether it fits and they are enough.
    #[must_use]
    pub fn set(self, bytes: &mut [u8], value: i64) -> bool {
        let size = self.bytes() as usize;
        let stored = value.to_le_bytes();
        match (bytes.get_mut(..size), stored.get(..size)) {
            (Some(field), Some(stored)) if self.fits(value) => {
                field.copy_from_slice(stored);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Width;

    #[test]
    fn what_is_set_is_got() {
        for (width, value) in [
            (Width::None, 0),
            (Width::I8, -128),
            (Width::I32, 0x7fff_ffff),
        ] {
            let mut bytes = [0x55; 5];
            assert!(width.set(&mut bytes, value));
            assert_eq!(width.get(&bytes), Some(value));
            assert_eq!(bytes[width.bytes() as usize], 0x55);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_set() {
        let mut bytes = [0; 4];
        assert!(!Width::I8.set(&mut bytes, 128));
        assert!(!Width::None.set(&mut bytes, 1));
        assert!(!Width::I32.set(&mut bytes, 1 << 31));
        assert!(!Width::I32.set(&mut bytes[..3], 1));
        assert_eq!(bytes, [0; 4]);
        assert_eq!(Width::I32.get(&bytes[..3]), None);
    }
}
