//! Addresses that cannot be mixed up.

use std::fmt;

/// An address relative to the image it belongs to: "stated virtual memory address".
///
/// A vDSO is linked at 0, so for it this is also the offset into its bytes. Stock kernels let their
/// vvar pages have *negative* image-relative addresses; those wrap around, see [`Svma::signed`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Svma(pub u64);

/// An address in a process: "actual virtual memory address".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Avma(pub u64);

impl Svma {
    /// The distance from the image's base, negative for what lies before it.
    pub fn signed(self) -> i64 {
        self.0 as i64
    }

    /// The address `distance` bytes further on, wrapping as address arithmetic does.
    pub fn offset(self, distance: i64) -> Self {
        Self(self.0.wrapping_add_signed(distance))
    }

    /// Where this address is when the image it belongs to is mapped at `base`.
    pub fn at(self, base: Avma) -> Avma {
        Avma(base.0.wrapping_add(self.0))
    }

    /// The address as an index into the image's bytes.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Avma {
    /// The address `distance` bytes further on, wrapping as address arithmetic does.
    pub fn offset(self, distance: i64) -> Self {
        Self(self.0.wrapping_add_signed(distance))
    }

    /// The signed distance from `origin` to this address.
    pub fn distance_from(self, origin: Avma) -> i64 {
        self.0.wrapping_sub(origin.0) as i64
    }
}

/// Prints hexadecimal; negative distances as such, since `-0x4000` says more than
/// `0xffffffffffffc000`.
impl fmt::Display for Svma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = self.signed();
        if signed < 0 {
            write!(f, "-{:#x}", signed.unsigned_abs())
        } else {
            write!(f, "{signed:#x}")
        }
    }
}

impl fmt::Display for Avma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Svma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Svma({self})")
    }
}

impl fmt::Debug for Avma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Avma({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_svma_prints_as_distance() {
        assert_eq!(Svma(0).offset(-0x4000).to_string(), "-0x4000");
        assert_eq!(Svma(0xaf0).to_string(), "0xaf0");
    }

    #[test]
    fn svma_and_avma_convert_through_a_base() {
        let base = Avma(0x7fff_0000_0000);
        assert_eq!(Svma(0).offset(-0x1000).at(base), Avma(0x7ffe_ffff_f000));
        assert_eq!(Avma(0x1000).distance_from(Avma(0x3000)), -0x2000);
    }
}
