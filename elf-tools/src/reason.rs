//! Reasons that tables store as text.
//!
//! The analysis says why something cannot be done as a value. A table keeps the text of it, and
//! that is all that its reader gets: text that is stored and the value that it came from are the
//! same reason, with the same code.

/// How the text of a reason with a certain code looks.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) code: &'static str,
    start: &'static str,
    /// Nothing where `start` is all.
    end: Option<&'static str>,
}

impl Pattern {
    /// The text is always the same.
    pub(crate) const fn whole(code: &'static str, text: &'static str) -> Self {
        Self {
            code,
            start: text,
            end: None,
        }
    }

    /// Something is said between `start` and `end`.
    pub(crate) const fn around(code: &'static str, start: &'static str, end: &'static str) -> Self {
        Self {
            code,
            start,
            end: Some(end),
        }
    }

    fn fits(&self, text: &str) -> bool {
        match (text.strip_prefix(self.start), self.end) {
            (Some(rest), Some(end)) => rest.ends_with(end),
            (Some(rest), None) => rest.is_empty(),
            (None, _) => false,
        }
    }

    /// The text, with what is said in between.
    pub(crate) fn text(&self, between: &str) -> String {
        [self.start, between, self.end.unwrap_or_default()].concat()
    }
}

/// The code of a text that was stored; `stored` if it is none of ours.
pub(crate) fn code(patterns: &[Pattern], text: &str) -> &'static str {
    let found = patterns.iter().find(|pattern| pattern.fits(text));
    found.map_or("stored", |pattern| pattern.code)
}

/// Two reasons are the same if they say the same.
macro_rules! same_by_text {
    ($reason:ty) => {
        impl PartialEq for $reason {
            fn eq(&self, other: &Self) -> bool {
                self.to_string() == other.to_string()
            }
        }

        impl Eq for $reason {}

        impl PartialOrd for $reason {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $reason {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.to_string().cmp(&other.to_string())
            }
        }

        impl std::hash::Hash for $reason {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.to_string().hash(state);
            }
        }

        impl From<String> for $reason {
            fn from(text: String) -> Self {
                Self::Stored(text)
            }
        }

        impl From<&str> for $reason {
            fn from(text: &str) -> Self {
                Self::Stored(text.to_owned())
            }
        }
    };
}

pub(crate) use same_by_text;
