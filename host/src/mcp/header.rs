//! What a modern message says in HTTP headers besides its body (2026-07-28, basic/transports).

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{Message, json};

/// The header with the method.
pub const METHOD: &str = "mcp-method";
/// The header with what [`name`] returns.
pub const NAME: &str = "mcp-name";

const ENCODED: (&str, &str) = ("=?base64?", "?=");

/// Returns the member whose value is a method's name header, if it has one.
pub fn name_member(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// Returns what the name header of a message says, if it has one.
pub fn name(message: &Message) -> Option<Cow<'_, str>> {
    message.body_member(name_member(&message.method())?).and_then(json::string)
}

/// Returns text as a header can carry it.
pub fn encode(text: &str) -> Cow<'_, str> {
    let (begin, end) = ENCODED;
    let looks_encoded = text.starts_with(begin) && text.ends_with(end);
    let is_padded = text.starts_with(' ') || text.ends_with(' ');
    let is_visible = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    match is_visible && !is_padded && !looks_encoded {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("{begin}{}{end}", BASE64_STANDARD.encode(text))),
    }
}

/// Returns the text a header carries; none if it claims to be encoded and is not.
pub fn decode(header: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(header).ok()?;
    let (begin, end) = ENCODED;
    let Some(encoded) = text.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)) else {
        return Some(Cow::Borrowed(text));
    };
    let bytes = BASE64_STANDARD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_survives_a_header() {
        for text in ["a b", " a", "é", "=?base64?x?=", "", "line\nbreak"] {
            assert_eq!(decode(encode(text).as_bytes()).unwrap(), text);
        }
        assert_eq!(encode("a b"), "a b");
        assert_eq!(encode("é"), "=?base64?w6k=?=");
    }

    #[test]
    fn what_claims_to_be_encoded_must_be() {
        assert_eq!(decode(b"=?base64?SGVsbG8?="), None);
        assert_eq!(decode(b"=?base64?SGVs!!!bG8=?="), None);
    }
}
