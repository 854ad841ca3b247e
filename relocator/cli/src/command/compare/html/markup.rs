//! Writing elements, so that whatever is in a text or an attribute is escaped, and what is opened is closed.
//!
//! The result is HTML that is well-formed XML as well.

use std::fmt::Write;

/// Attributes of an element.
pub(super) type Attributes<'a> = &'a [(&'a str, &'a str)];

/// Elements in the making.
#[derive(Debug, Default)]
pub(super) struct Markup {
    text: String,
}

impl Markup {
    /// What was written.
    pub(super) fn finish(self) -> String {
        self.text
    }

    /// An element with others in it.
    pub(super) fn within(
        &mut self,
        name: &str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        self.text.push('>');
        content(self);
        let _ = write!(self.text, "</{name}>");
        if is_block(name) {
            self.text.push('\n');
        }
    }

    /// An element with text in it.
    pub(super) fn leaf(&mut self, name: &str, attributes: Attributes<'_>, text: &str) {
        self.within(name, attributes, |element| element.words(text));
    }

    /// An element with nothing in it, of those that never have anything.
    pub(super) fn empty(&mut self, name: &str, attributes: Attributes<'_>) {
        self.open(name, attributes);
        self.text.push_str("/>");
    }

    /// Text.
    pub(super) fn words(&mut self, text: &str) {
        escape(text, &mut self.text);
    }

    /// A style sheet, which must not have anything in it that would have to be escaped.
    pub(super) fn style(&mut self, sheet: &str) {
        debug_assert!(!sheet.contains(['<', '&']), "not a style sheet");
        let _ = writeln!(self.text, "<style>{sheet}</style>");
    }

    fn open(&mut self, name: &str, attributes: Attributes<'_>) {
        let _ = write!(self.text, "<{name}");
        for (name, value) in attributes {
            let _ = write!(self.text, " {name}=\"");
            escape(value, &mut self.text);
            self.text.push('"');
        }
    }
}

/// Where a line break between elements is no space between words.
fn is_block(name: &str) -> bool {
    matches!(
        name,
        "head"
            | "body"
            | "header"
            | "section"
            | "footer"
            | "article"
            | "div"
            | "figure"
            | "table"
            | "tr"
            | "thead"
            | "tbody"
            | "h1"
            | "h2"
            | "h3"
            | "p"
            | "ul"
            | "li"
            | "dl"
            | "dd"
            | "details"
            | "svg"
            | "g"
    )
}

fn escape(text: &str, into: &mut String) {
    for character in text.chars() {
        match character {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            // No document may have others.
            '\n' | '\t' => into.push(character),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => {
                into.push('\u{fffd}');
            }
            other => into.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped() {
        let mut markup = Markup::default();
        markup.within("p", &[("title", "\"a\" & 'b' <c>")], |p| {
            p.words("<script>alert(1)</script> & \0\u{1b} ü");
            p.empty("br", &[]);
        });
        let expected = "<p title=\"&quot;a&quot; &amp; &#39;b&#39; &lt;c&gt;\">\
            &lt;script&gt;alert(1)&lt;/script&gt; &amp; \u{fffd}\u{fffd} ü<br/></p>\n";
        assert_eq!(markup.finish(), expected);
    }
}
