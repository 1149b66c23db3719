//! Payloads as people read them: JSON with lines and indents, its order and its numbers as they were.
//!
//! Nothing is decoded: what stands in a string stays as it was escaped.

use askama::Template;
use askama::filters::HtmlSafe;

use super::figures::Bytes;
use super::text::visible;

/// Of one payload, as it is shown.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// Coloured pieces of one payload.
const TOKENS_MAX: usize = 4_000;

/// Per level.
const INDENT: &str = "  ";

/// A payload to show.
#[derive(Debug, Template)]
#[template(path = "payload.html")]
pub(crate) struct Payload {
    pub(crate) tokens: Vec<Token>,
    /// Why it is not all of it.
    pub(crate) note: Option<String>,
}

/// A piece of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// How it is coloured: `key`, `string`, `number`, `word`, or nothing.
    pub(crate) class: &'static str,
    pub(crate) text: String,
}

/// Its template escapes.
impl HtmlSafe for Payload {}

impl Payload {
    /// Returns a stored payload, which is JSON, or a JSON string with the beginning of what was
    /// `whole_bytes` long.
    pub(crate) fn new(stored: &str, whole_bytes: Option<i64>) -> Self {
        if let Ok(beginning) = serde_json::from_str::<String>(stored) {
            let length = i64::try_from(beginning.len()).unwrap_or(i64::MAX);
            // What is a string by itself is as long as it is stored.
            let stored_bytes = i64::try_from(stored.len()).unwrap_or(i64::MAX);
            let cut = |whole: &i64| *whole > length && *whole != stored_bytes;
            let note = whole_bytes.filter(cut).map(|whole| {
                format!("Only the first {} of {} were kept.", Bytes(length), Bytes(whole))
            });
            let (text, cut) = bounded(&beginning);
            let text = Token { class: "", text: visible(text, true) };
            return Self { tokens: vec![text], note: note.or(cut) };
        }
        if serde_json::from_str::<&serde_json::value::RawValue>(stored).is_err() {
            let (text, cut) = bounded(stored);
            let text = Token { class: "", text: visible(text, true) };
            return Self { tokens: vec![text], note: cut.or(Some("This is no JSON.".to_owned())) };
        }
        let mut writer = Writer::default();
        let whole = writer.write(stored);
        let note =
            (!whole).then(|| "This is not all of it; download it to see the rest.".to_owned());
        Self { tokens: writer.tokens, note }
    }
}

fn bounded(text: &str) -> (&str, Option<String>) {
    let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
    let note = "This is not all of it; download it to see the rest.".to_owned();
    (&text[..end], (end < text.len()).then_some(note))
}

#[derive(Default)]
struct Writer {
    tokens: Vec<Token>,
    bytes: usize,
    depth: usize,
}

impl Writer {
    /// Writes JSON that is known to be valid; returns whether all of it was within the limits.
    fn write(&mut self, json: &str) -> bool {
        let mut rest = json.trim_start();
        while let Some(first) = rest.chars().next() {
            if self.bytes > SHOWN_BYTES_MAX || self.tokens.len() > TOKENS_MAX {
                self.push("", "\n…");
                return false;
            }
            rest = match first {
                '{' | '[' => self.open(rest),
                '}' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.break_line();
                    self.push("", &rest[..1]);
                    &rest[1..]
                }
                ',' => {
                    self.push("", ",");
                    self.break_line();
                    &rest[1..]
                }
                ':' => {
                    self.push("", ": ");
                    &rest[1..]
                }
                '"' => self.string(rest),
                _ => self.scalar(rest),
            }
            .trim_start();
        }
        true
    }

    fn open<'a>(&mut self, rest: &'a str) -> &'a str {
        let (open, inside) = rest.split_at(1);
        self.push("", open);
        let inside = inside.trim_start();
        if let Some(close) = inside.get(..1).filter(|next| matches!(*next, "}" | "]")) {
            self.push("", close);
            return &inside[1..];
        }
        self.depth += 1;
        self.break_line();
        inside
    }

    fn string<'a>(&mut self, rest: &'a str) -> &'a str {
        let mut escaped = false;
        let end = rest[1..].find(|char| {
            let ends = char == '"' && !escaped;
            escaped = char == '\\' && !escaped;
            ends
        });
        let (string, behind) = rest.split_at(end.map_or(rest.len(), |end| end + 2));
        let class = if behind.trim_start().starts_with(':') { "key" } else { "string" };
        let room = SHOWN_BYTES_MAX.saturating_sub(self.bytes);
        let shown = &string[..string.floor_char_boundary(room.max(64))];
        self.push(class, shown);
        if shown.len() < string.len() {
            // The loop sees that there is no more room.
            self.bytes = SHOWN_BYTES_MAX + 1;
        }
        behind
    }

    fn scalar<'a>(&mut self, rest: &'a str) -> &'a str {
        let end = rest.find(|char: char| matches!(char, ',' | '}' | ']') || char.is_whitespace());
        let (scalar, behind) = rest.split_at(end.unwrap_or(rest.len()));
        let is_word = scalar.starts_with(|char: char| char.is_ascii_lowercase());
        self.push(if is_word { "word" } else { "number" }, scalar);
        behind
    }

    fn break_line(&mut self) {
        let line = format!("\n{}", INDENT.repeat(self.depth.min(40)));
        self.push("", &line);
    }

    /// Pieces without a colour are put together.
    fn push(&mut self, class: &'static str, text: &str) {
        let text = visible(text, class.is_empty());
        self.bytes += text.len();
        match self.tokens.last_mut() {
            Some(last) if class.is_empty() && last.class.is_empty() => last.text.push_str(&text),
            _ => self.tokens.push(Token { class, text }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> String {
        Payload::new(json, None).tokens.into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn json_keeps_its_order_and_numbers() {
        let json = r#"{"b":1.0e400,"a":[],"c":{ "d" : [true,null,"x\"y\\"]},"e":{}}"#;

        let expected = "{\n  \"b\": 1.0e400,\n  \"a\": [],\n  \"c\": {\n    \"d\": [\n      true,\n      \
            null,\n      \"x\\\"y\\\\\"\n    ]\n  },\n  \"e\": {}\n}";
        assert_eq!(shown(json), expected);
    }

    #[test]
    fn pieces_have_the_class_of_what_they_are() {
        let payload = Payload::new(r#"{"a":"b","c":-1,"d":false}"#, None);

        let classes: Vec<_> = payload.tokens.iter().map(|token| token.class).collect();
        assert_eq!(
            classes,
            ["", "key", "", "string", "", "key", "", "number", "", "key", "", "word", ""]
        );
    }

    #[test]
    fn a_beginning_says_what_is_missing() {
        let payload = Payload::new(r#""{\"a\":\"bc""#, Some(2048));

        assert_eq!(payload.tokens[0].text, "{\"a\":\"bc");
        assert_eq!(payload.note.unwrap(), "Only the first 8 B of 2.00 KiB were kept.");
    }

    #[test]
    fn a_string_by_itself_is_whole() {
        assert_eq!(Payload::new(r#""done""#, Some(6)).note, None);
    }

    #[test]
    fn what_is_too_much_is_cut() {
        let long = format!("{{\"a\":\"{}\",\"b\":1}}", "x".repeat(200_000));
        let many = format!("[{}1]", "\"a\",".repeat(50_000));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));

        for json in [long, many, deep] {
            let payload = Payload::new(&json, None);

            let bytes: usize = payload.tokens.iter().map(|token| token.text.len()).sum();
            assert!(bytes <= SHOWN_BYTES_MAX + 1024, "{bytes}");
            assert!(payload.tokens.len() <= TOKENS_MAX + 2);
            assert!(payload.note.is_some());
        }
    }

    #[test]
    fn what_cannot_be_seen_in_a_string_is_shown() {
        assert_eq!(shown("\"a\u{202e}b\""), "a‹U+202E›b");
        assert_eq!(shown("[\"a\u{200b}\"]"), "[\n  \"a‹U+200B›\"\n]");
        assert_eq!(shown("{\"a"), "{\"a");
    }
}
