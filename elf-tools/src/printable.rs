//! Text from files and processes, for a terminal.
//!
//! A name in a file can hold what a terminal obeys: colours, titles, a cursor that goes back and
//! writes over what was said before, letters that run the other way.

use std::borrow::Cow;

/// The text with everything that is no visible character as an escape, `\u{1b}`. Ends of lines
/// count as that.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|letter| match is_obeyed(letter) {
        true => letter.escape_unicode().to_string(),
        false => letter.to_string(),
    });
    Cow::Owned(escaped.collect())
}

/// The same of bytes that should be UTF-8.
pub(crate) fn printable_bytes(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes)).into_owned()
}

/// Whether a terminal does something else than to show it: control characters, ends of lines and
/// paragraphs, and what changes the direction of letters.
pub fn is_obeyed(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert!(matches!(printable("[vvar] ≥ 1"), Cow::Borrowed(_)));
        for (text, expected) in [
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\nb\rc\td", "a\\u{a}b\\u{d}c\\u{9}d"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            (
                "file\u{202e}gpj.exe\u{2069}",
                "file\\u{202e}gpj.exe\\u{2069}",
            ),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable_bytes(b"a\xff\x07"), "a\u{fffd}\\u{7}");
    }
}
