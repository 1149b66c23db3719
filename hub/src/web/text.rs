//! Text that somebody else chose: tools, servers, clients, gateways. All of it may be hostile.
//!
//! Escaping is the business of the templates. Here, what cannot be seen is made visible, and what is too
//! long is cut; templates show only what went through here.

use std::fmt;

use askama::Template;
use askama::filters::HtmlSafe;

/// Characters of a text in a list.
const LINE_CHARS_MAX: usize = 96;

/// Characters of a text where there is room for it.
const BLOCK_CHARS_MAX: usize = 4_000;

/// Characters of what a cut text shows when one points at it.
const FULL_CHARS_MAX: usize = 2_000;

/// Marks that may stand on one letter. More make a tower that covers other lines.
const MARKS_MAX: usize = 3;

/// A text as it is shown.
#[derive(Debug, Clone, Template)]
#[template(
    source = r#"{% match full %}{% when Some(full) %}<span title="{{ full }}">{{ shown }}</span>{% when None %}{{ shown }}{% endmatch %}"#,
    ext = "html"
)]
pub(crate) struct Text {
    /// With an ellipsis if it was cut.
    shown: String,
    /// If it was.
    full: Option<String>,
}

/// Its template escapes.
impl HtmlSafe for Text {}

impl Text {
    /// A text in a list: on one line, and not a long one.
    pub(crate) fn line(text: &str) -> Self {
        Self::cut(text, LINE_CHARS_MAX, false)
    }

    /// A text of its own: with its lines, and up to some thousand characters.
    pub(crate) fn block(text: &str) -> Self {
        Self::cut(text, BLOCK_CHARS_MAX, true)
    }

    fn cut(text: &str, chars_max: usize, lines: bool) -> Self {
        let Some((end, _)) = text.char_indices().nth(chars_max) else {
            return Self { shown: visible(text, lines), full: None };
        };
        let full: String = text.chars().take(FULL_CHARS_MAX).collect();
        let shown = format!("{}…", visible(&text[..end], lines));
        Self { shown, full: Some(visible(&full, lines)) }
    }

    /// The text where there can be no element: in an attribute, an option, a title.
    pub(crate) fn plain(&self) -> &str {
        &self.shown
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::line(text)
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Self::line(text)
    }
}

/// Returns the text with the code instead of every character that cannot be seen, or changes how others
/// are. Line breaks and tabs stay if there are `lines`.
pub(crate) fn visible(text: &str, lines: bool) -> String {
    use fmt::Write as _;

    let mut shown = String::with_capacity(text.len());
    let mut marks = 0;
    for char in text.chars() {
        marks = if is_mark(char) { marks + 1 } else { 0 };
        let kept = lines && matches!(char, '\n' | '\t');
        if !kept && (is_invisible(char) || marks > MARKS_MAX) {
            write!(shown, "‹U+{:04X}›", u32::from(char)).expect("a string takes everything");
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Control characters, those that turn the direction of text, those without width, those that look like
/// nothing, tags and private letters. The selector of emoji stays: it does nothing else.
fn is_invisible(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0d}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
}

fn is_mark(char: char) -> bool {
    matches!(char,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}'
        | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{6d6}'..='\u{6ed}'
        | '\u{e31}' | '\u{e34}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}' | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_shown_by_its_code() {
        let cases = [
            ("a\u{202e}b", "a‹U+202E›b"),
            ("a\0\u{1b}[31m", "a‹U+0000›‹U+001B›[31m"),
            ("zero\u{200b}width\u{feff}", "zero‹U+200B›width‹U+FEFF›"),
            ("tag\u{e0041}", "tag‹U+E0041›"),
            ("line\nbreak", "line‹U+000A›break"),
            ("grüße 你好 ✔\u{fe0f} e\u{301}", "grüße 你好 ✔\u{fe0f} e\u{301}"),
        ];

        for (text, expected) in cases {
            assert_eq!(visible(text, false), expected);
        }
        assert_eq!(visible("a\n\tb\r", true), "a\n\tb‹U+000D›");
    }

    #[test]
    fn towers_of_marks_are_taken_down() {
        let tower = format!("a{}", "\u{301}".repeat(50));

        let shown = visible(&tower, false);

        assert_eq!(shown.matches('\u{301}').count(), MARKS_MAX);
        assert_eq!(shown.matches("‹U+0301›").count(), 50 - MARKS_MAX);
    }

    #[test]
    fn a_long_text_is_cut_and_shown_whole_when_pointed_at() {
        let long = "<b>".repeat(100);

        let html = Text::line(&long).to_string();

        assert!(html.starts_with("<span title=\"&#60;b&#62;"), "{html}");
        assert!(html.ends_with("…</span>"), "{html}");
        assert_eq!(html.matches("&#60;b&#62;").count(), 100 + 32);
        assert!(Text::line(&long).plain().ends_with("<b>…"), "an option says that it was cut");
        assert_eq!(Text::line("<b>").to_string(), "&#60;b&#62;");
    }
}
