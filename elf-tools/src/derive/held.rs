//! What a location still holds of the moment at which a call was made.
//!
//! Sets of values cannot tell whether a helper has written a register that its caller uses: two
//! equal sets can be different numbers, and what is one number is in two sets where the flow has
//! widened one of them and not yet the other. So the state says it by itself: for each call that
//! has not returned, which registers nothing has been written to since, and what was saved of them.

use super::fixpoint::MAX_DEPTH;

/// Calls that have not returned, by depth. The function itself is the call at depth 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Calls(u16);

const _: () = assert!(MAX_DEPTH < u16::BITS, "there is a bit for each depth");

impl Calls {
    /// Whether the call at that depth is one of them.
    pub(crate) fn contains(self, depth: u32) -> bool {
        self.0 & (1 << depth) != 0
    }

    pub(crate) fn with(self, depth: u32) -> Self {
        Self(self.0 | (1 << depth))
    }

    pub(crate) fn without(self, depth: u32) -> Self {
        Self(self.0 & !(1 << depth))
    }

    /// Those that are in both.
    pub(crate) fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// What a saved place holds: what that register held when these calls were made. No calls, if it
/// holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    pub(crate) register: u8,
    pub(crate) calls: Calls,
}

impl Kept {
    /// What a place holds that holds this on one way and `other` on another.
    pub(crate) fn common(self, other: Self) -> Self {
        let calls = self.calls.common(other.calls);
        match self.register == other.register && calls != Calls::default() {
            true => Self { calls, ..self },
            false => Self::default(),
        }
    }

    pub(crate) fn without(self, depth: u32) -> Self {
        let calls = self.calls.without(depth);
        match calls == Calls::default() {
            true => Self::default(),
            false => Self { calls, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_what_both_ways_have_put_there() {
        let calls = Calls::default().with(0).with(2);
        let kept = Kept { register: 3, calls };
        let newer = Kept {
            calls: Calls::default().with(2),
            ..kept
        };
        assert_eq!(kept.common(newer), newer);
        assert_eq!(kept.without(0), newer);
        assert!(kept.calls.contains(0) && !newer.calls.contains(0));
        let other = Kept { register: 5, calls };
        assert_eq!(kept.common(other), Kept::default());
        // Nothing is left of it, so it does not matter which register it was.
        assert_eq!(newer.without(2), Kept::default());
    }
}
