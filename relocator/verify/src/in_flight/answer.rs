//! What a call has answered, and how two answers compare.

use std::fmt;

/// What a call has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// What it returned.
    pub(super) code: i64,
    /// The time that it told: seconds, and a fraction.
    pub(super) moment: Option<(i64, i64)>,
    /// Everything else where it could write, which does not move.
    pub(super) rest: Vec<u8>,
}

impl Answer {
    /// Whether it is one that could be given between two others.
    pub(super) fn is_between(&self, before: &Self, after: &Self) -> bool {
        let moment = match (before.moment, self.moment, after.moment) {
            (Some(before), Some(found), Some(after)) => before <= found && found <= after,
            (None, None, None) => true,
            _ => false,
        };
        moment && self.same(before) && self.same(after)
    }

    /// Whether everything is equal that does not move.
    fn same(&self, other: &Self) -> bool {
        self.code == other.code && self.rest == other.rest
    }

    /// In words, beside another one that it should be like.
    pub(super) fn beside(&self, other: &Self) -> String {
        let mut words = self.to_string();
        if self.rest != other.rest {
            let differs = |(own, other): &(&u8, &u8)| own != other;
            let bytes = self.rest.iter().zip(&other.rest);
            if let Some(at) = bytes.clone().position(|pair| differs(&pair)) {
                let count = bytes.filter(differs).count();
                let number = |bytes: &[u8]| {
                    let start = at & !3;
                    let word = bytes
                        .get(start..start + 4)
                        .and_then(|word| word.try_into().ok());
                    word.map_or(0, i32::from_le_bytes)
                };
                let (own, other) = (number(&self.rest), number(&other.rest));
                words.push_str(&format!(
                    "; {count} bytes differ, the first at {at:#x} ({own} and not {other})"
                ));
            }
        }
        words
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        match self.moment {
            Some((seconds, fraction)) => write!(f, ", {seconds} s and {fraction}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i64, moment: Option<(i64, i64)>, rest: u8) -> Answer {
        Answer {
            code,
            moment,
            rest: vec![rest; 8],
        }
    }

    #[test]
    fn an_answer_is_between_two_others_in_every_respect() {
        let before = answer(0, Some((5, 999)), 1);
        let after = answer(0, Some((6, 1)), 1);
        for (found, expected) in [
            (answer(0, Some((5, 999)), 1), true),
            (answer(0, Some((6, 0)), 1), true),
            (answer(0, Some((6, 2)), 1), false),
            (answer(0, Some((5, 998)), 1), false),
            (answer(0, None, 1), false),
            (answer(-22, Some((6, 0)), 1), false),
            (answer(0, Some((6, 0)), 2), false),
        ] {
            assert_eq!(found.is_between(&before, &after), expected, "{found:?}");
        }
    }
}
