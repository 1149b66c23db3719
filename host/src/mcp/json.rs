//! JSON as bytes: checked once, never turned into a tree.
//!
//! [`scan`] checks a whole document (grammar, UTF-8, depth, duplicate members at every depth) and
//! remembers where the members of its two outer levels are. The other functions walk text that has
//! been checked; on text that has not they return `None` rather than panic. Nothing here knows MCP.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;

/// Objects and arrays may nest this deep: what common parsers accept.
pub const DEPTH_MAX: usize = 128;

/// An object with more members than this is checked for duplicates with a hash set.
const LINEAR_KEYS_MAX: usize = 16;

/// Why a text is not JSON we accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It begins with a byte order mark.
    #[error("byte order mark before the JSON text")]
    Bom,
    /// It is not UTF-8.
    #[error("invalid UTF-8 at byte {offset}")]
    Utf8 {
        /// Where.
        offset: usize,
    },
    /// It is not JSON.
    #[error("expected {expected} at byte {offset}")]
    Syntax {
        /// Where.
        offset: usize,
        /// What would be right there.
        expected: &'static str,
    },
    /// An object names a member twice. Parsers differ in which one they take.
    #[error("duplicate member `{key}` at byte {offset}")]
    Duplicate {
        /// Where the second one is.
        offset: usize,
        /// Its name.
        key: String,
    },
    /// It nests too deep.
    #[error("nested deeper than {DEPTH_MAX} levels")]
    Depth,
}

/// A place in a text. Half the size of `Range<usize>`; messages are far below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        // `scan` refuses longer texts, so that this cannot truncate.
        Self { start: start as u32, end: end as u32 }
    }

    /// Returns the place as a range.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Returns the bytes of `text` at this place.
    pub fn of(self, text: &[u8]) -> &[u8] {
        &text[self.range()]
    }

    /// Returns the same bytes, sharing their memory.
    pub fn share(self, text: &Bytes) -> Bytes {
        text.slice(self.range())
    }
}

/// A member of one of the two outer levels of a document.
#[derive(Debug, Clone, Copy)]
struct Member {
    /// Index of the member whose value holds this one, plus one; 0 for the outer level.
    parent: u32,
    key: Span,
    key_escaped: bool,
    value: Span,
}

/// Where the members of the two outer levels of a checked document are.
#[derive(Debug, Clone, Default)]
pub struct Document {
    members: Vec<Member>,
}

impl Document {
    /// Returns the value of a member of the outer object.
    pub fn get(&self, text: &[u8], key: &str) -> Option<Span> {
        self.find(text, 0, key).map(|index| self.members[index].value)
    }

    /// Returns the value of a member of an object that is a member of the outer object.
    pub fn get_in(&self, text: &[u8], outer: &str, key: &str) -> Option<Span> {
        let parent = self.find(text, 0, outer)?;
        self.find(text, parent as u32 + 1, key).map(|index| self.members[index].value)
    }

    fn find(&self, text: &[u8], parent: u32, key: &str) -> Option<usize> {
        self.members.iter().position(|member| {
            member.parent == parent && key_is(member.key.of(text), member.key_escaped, key)
        })
    }
}

/// Checks a document and remembers the members of its two outer levels.
pub fn scan(text: &[u8]) -> Result<Document, JsonError> {
    if text.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonError::Bom);
    }
    if text.len() > u32::MAX as usize {
        return Err(JsonError::Syntax {
            offset: u32::MAX as usize,
            expected: "a text below 4 GiB",
        });
    }
    if let Err(error) = std::str::from_utf8(text) {
        return Err(JsonError::Utf8 { offset: error.valid_up_to() });
    }
    let mut scanner =
        Scanner { text, at: 0, keys: Vec::with_capacity(16), members: Vec::with_capacity(16) };
    scanner.space();
    scanner.value(0, Some(0))?;
    scanner.space();
    if scanner.at != text.len() {
        return Err(scanner.expected("the end"));
    }
    Ok(Document { members: scanner.members })
}

/// Checks a document.
pub fn validate(text: &[u8]) -> Result<(), JsonError> {
    scan(text).map(drop)
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Keys of the objects that are open, innermost last.
    keys: Vec<(Span, bool)>,
    members: Vec<Member>,
}

impl Scanner<'_> {
    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { offset: self.at, expected }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Reads one value. `depth` counts the objects and arrays around it; `parent` is as in [`Member`],
    /// and none if members are not remembered.
    fn value(&mut self, depth: usize, parent: Option<u32>) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => self.object(depth, parent),
            Some(b'[') => self.array(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => Err(self.expected("a value")),
        }
    }

    fn object(&mut self, depth: usize, parent: Option<u32>) -> Result<(), JsonError> {
        if depth == DEPTH_MAX {
            return Err(JsonError::Depth);
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        let first_key = self.keys.len();
        let mut seen = None;
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a member name"));
            }
            let key_start = self.at + 1;
            let key_escaped = self.string()?;
            let key = Span::new(key_start, self.at - 1);
            self.refuse_duplicate(first_key, &mut seen, key, key_escaped)?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.expected("`:`"));
            }
            self.at += 1;
            self.space();
            let value_start = self.at;
            if let Some(parent) = parent.filter(|_| depth < 2) {
                let index = self.members.len();
                self.members.push(Member { parent, key, key_escaped, value: Span::default() });
                self.value(depth + 1, Some(index as u32 + 1))?;
                self.members[index].value = Span::new(value_start, self.at);
            } else {
                self.value(depth + 1, None)?;
            }
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.expected("`,` or `}`")),
            }
            self.space();
        }
        self.at += 1;
        self.keys.truncate(first_key);
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth == DEPTH_MAX {
            return Err(JsonError::Depth);
        }
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1, None)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.expected("`,` or `]`")),
            }
            self.space();
        }
        self.at += 1;
        Ok(())
    }

    /// Adds a key to those of its object, unless it is there.
    fn refuse_duplicate(
        &mut self,
        first_key: usize,
        seen: &mut Option<HashSet<Vec<u8>>>,
        key: Span,
        escaped: bool,
    ) -> Result<(), JsonError> {
        let text = self.text;
        let duplicate = if let Some(seen) = seen {
            !seen.insert(unescape(key.of(text), escaped).into_owned())
        } else {
            let siblings = &self.keys[first_key..];
            if siblings.len() < LINEAR_KEYS_MAX {
                siblings.iter().any(|&(other, other_escaped)| {
                    same_key(text, key, escaped, other, other_escaped)
                })
            } else {
                let mut all: HashSet<_> = siblings
                    .iter()
                    .map(|&(key, escaped)| unescape(key.of(text), escaped).into_owned())
                    .collect();
                let new = all.insert(unescape(key.of(text), escaped).into_owned());
                *seen = Some(all);
                !new
            }
        };
        if duplicate {
            let key_text = String::from_utf8_lossy(&unescape(key.of(text), escaped)).into_owned();
            return Err(JsonError::Duplicate { offset: key.start as usize, key: key_text });
        }
        if seen.is_none() {
            self.keys.push((key, escaped));
        }
        Ok(())
    }

    /// Reads a string and returns whether it has escapes.
    fn string(&mut self) -> Result<bool, JsonError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at = plain_end(self.text, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                            self.at += 1
                        }
                        Some(b'u') => {
                            let digits =
                                self.text.get(self.at + 1..self.at + 5).unwrap_or_default();
                            if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                                return Err(self.expected("four hex digits"));
                            }
                            self.at += 5;
                        }
                        _ => return Err(self.expected("an escape")),
                    }
                }
                Some(_) => return Err(self.expected("no control character in a string")),
                None => return Err(self.expected("the end of a string")),
            }
        }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.expected("a digit")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.expected("a digit")) } else { Ok(()) }
    }

    fn literal(&mut self, literal: &'static [u8]) -> Result<(), JsonError> {
        if self.text[self.at..].starts_with(literal) {
            self.at += literal.len();
            Ok(())
        } else {
            Err(self.expected("a value"))
        }
    }
}

/// Returns where the run of characters from `at` ends that need no attention inside a string: at a
/// quote, a backslash, a control character or the end of the text.
fn plain_end(text: &[u8], mut at: usize) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Most strings are short: eight bytes at a time, then the vectorised search for long ones.
    let short_end = text.len().min(at + 64);
    while let Some(chunk) = text.get(at..at + 8) {
        if at >= short_end {
            return long_plain_end(text, at);
        }
        let word = u64::from_le_bytes(chunk.try_into().expect("the slice has eight bytes"));
        let quote = word ^ (LOW * b'"' as u64);
        let backslash = word ^ (LOW * b'\\' as u64);
        let found = (quote.wrapping_sub(LOW) & !quote
            | backslash.wrapping_sub(LOW) & !backslash
            | word.wrapping_sub(LOW * 0x20) & !word)
            & HIGH;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < text.len() && !matches!(text[at], b'"' | b'\\' | 0..=0x1f) {
        at += 1;
    }
    at
}

fn long_plain_end(text: &[u8], at: usize) -> usize {
    let end = memchr::memchr2(b'"', b'\\', &text[at..]).map_or(text.len(), |found| at + found);
    // Branch-free so that it is vectorised; a hit is looked up only when there is one.
    if text[at..end].iter().fold(false, |any, &byte| any | (byte < 0x20)) {
        at + text[at..end].iter().position(|&byte| byte < 0x20).unwrap_or(end - at)
    } else {
        end
    }
}

fn key_is(raw: &[u8], escaped: bool, key: &str) -> bool {
    if escaped { *unescape(raw, true) == *key.as_bytes() } else { raw == key.as_bytes() }
}

/// Returns whether a key, as it stands between its quotes, is this name.
pub fn is_named(raw: &[u8], name: &str) -> bool {
    raw == name.as_bytes()
        || (memchr::memchr(b'\\', raw).is_some() && *unescape(raw, true) == *name.as_bytes())
}

fn same_key(text: &[u8], a: Span, a_escaped: bool, b: Span, b_escaped: bool) -> bool {
    if a_escaped || b_escaped {
        unescape(a.of(text), a_escaped) == unescape(b.of(text), b_escaped)
    } else {
        a.of(text) == b.of(text)
    }
}

/// Returns the characters of a string's raw inside. A lone surrogate becomes its three-byte form,
/// so that different texts stay different.
fn unescape(raw: &[u8], escaped: bool) -> Cow<'_, [u8]> {
    if !escaped {
        return Cow::Borrowed(raw);
    }
    let mut plain = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != b'\\' {
            plain.push(raw[at]);
            at += 1;
            continue;
        }
        match raw.get(at + 1) {
            Some(b'u') => {
                let Some(mut unit) = hex4(raw, at + 2) else { break };
                at += 6;
                if (0xd800..0xdc00).contains(&unit)
                    && raw.get(at..at + 2) == Some(b"\\u")
                    && let Some(low) =
                        hex4(raw, at + 2).filter(|low| (0xdc00..0xe000).contains(low))
                {
                    unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    at += 6;
                }
                match char::from_u32(unit) {
                    Some(character) => {
                        plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    None => plain.extend([
                        0xe0 | (unit >> 12) as u8,
                        0x80 | (unit >> 6 & 0x3f) as u8,
                        0x80 | (unit & 0x3f) as u8,
                    ]),
                }
            }
            Some(&short) => {
                plain.push(match short {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => other,
                });
                at += 2;
            }
            None => break,
        }
    }
    Cow::Owned(plain)
}

fn hex4(raw: &[u8], at: usize) -> Option<u32> {
    let digits = std::str::from_utf8(raw.get(at..at + 4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

/// Returns the text of a JSON string, quotes included in `raw`; `None` if it is no string.
pub fn string(raw: &[u8]) -> Option<Cow<'_, str>> {
    let inside = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    match unescape(inside, memchr::memchr(b'\\', inside).is_some()) {
        Cow::Borrowed(plain) => std::str::from_utf8(plain).ok().map(Cow::Borrowed),
        Cow::Owned(plain) => Some(Cow::Owned(String::from_utf8_lossy(&plain).into_owned())),
    }
}

/// Returns `text` as a JSON string, quotes included.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Walks the members of an object: raw key without quotes, place of the value.
pub fn members(object: &[u8]) -> Members<'_> {
    let at = skip_space(object, 0);
    let open = object.get(at) == Some(&b'{');
    Members { text: object, at: at + 1, open }
}

/// See [`members`].
#[derive(Debug, Clone)]
pub struct Members<'a> {
    text: &'a [u8],
    at: usize,
    open: bool,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        if !std::mem::replace(&mut self.open, false) {
            return None;
        }
        let key_start = skip_space(self.text, self.at);
        let key_end = skip_string(self.text, key_start)?;
        let colon = skip_space(self.text, key_end);
        if self.text.get(colon) != Some(&b':') {
            return None;
        }
        let value_start = skip_space(self.text, colon + 1);
        let value_end = skip_value(self.text, value_start)?;
        let next = skip_space(self.text, value_end);
        self.open = self.text.get(next) == Some(&b',');
        self.at = next + 1;
        Some((&self.text[key_start + 1..key_end - 1], value_start..value_end))
    }
}

/// Walks the elements of an array: the place of each.
pub fn elements(array: &[u8]) -> Elements<'_> {
    let at = skip_space(array, 0);
    let open = array.get(at) == Some(&b'[');
    Elements { text: array, at: at + 1, open }
}

/// See [`elements`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    text: &'a [u8],
    at: usize,
    open: bool,
}

impl Iterator for Elements<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        if !std::mem::replace(&mut self.open, false) {
            return None;
        }
        let start = skip_space(self.text, self.at);
        let end = skip_value(self.text, start)?;
        let next = skip_space(self.text, end);
        self.open = self.text.get(next) == Some(&b',');
        self.at = next + 1;
        Some(start..end)
    }
}

/// Returns the place of a member's value in an object.
pub fn member(object: &[u8], key: &str) -> Option<Range<usize>> {
    members(object).find(|(raw, _)| is_named(raw, key)).map(|(_, value)| value)
}

/// Returns the place of the value a path of member names leads to.
pub fn at_path(object: &[u8], path: &[&str]) -> Option<Range<usize>> {
    let mut range = 0..object.len();
    for key in path {
        let inner = member(&object[range.clone()], key)?;
        range = range.start + inner.start..range.start + inner.end;
    }
    Some(range)
}

/// Returns the place of the value an RFC 6901 pointer leads to.
pub fn pointer(json: &[u8], pointer: &str) -> Option<Range<usize>> {
    let start = skip_space(json, 0);
    let mut range = start..skip_value(json, start)?;
    if pointer.is_empty() {
        return Some(range);
    }
    for token in pointer.strip_prefix('/')?.split('/') {
        let token = token.replace("~1", "/").replace("~0", "~");
        let value = &json[range.clone()];
        let inner = match value.first() {
            Some(b'{') => member(value, &token)?,
            Some(b'[') => {
                let canonical = token == "0" || !token.starts_with(['0', '+']);
                elements(value).nth(token.parse().ok().filter(|_| canonical)?)?
            }
            _ => return None,
        };
        range = range.start + inner.start..range.start + inner.end;
    }
    Some(range)
}

/// Returns `text` with each range replaced. The ranges rise and do not overlap.
pub fn splice(text: &[u8], edits: &[(Range<usize>, Bytes)]) -> Vec<u8> {
    let grown: usize = edits.iter().map(|(_, new)| new.len()).sum();
    let mut out = Vec::with_capacity(text.len() + grown);
    let mut at = 0;
    for (range, new) in edits {
        out.extend_from_slice(&text[at..range.start]);
        out.extend_from_slice(new);
        at = range.end;
    }
    out.extend_from_slice(&text[at..]);
    out
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = text.get(at) {
        at += 1;
    }
    at
}

fn skip_string(text: &[u8], at: usize) -> Option<usize> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        at = plain_end(text, at);
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn skip_value(text: &[u8], mut at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => return skip_string(text, at),
        b'{' | b'[' => {}
        _ => {
            let start = at;
            while !matches!(
                text.get(at),
                None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
            ) {
                at += 1;
            }
            return (at > start).then_some(at);
        }
    }
    let mut depth = 0usize;
    loop {
        match text.get(at)? {
            b'"' => {
                at = skip_string(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_two_levels_are_found_whatever_their_spelling() {
        let text = br#" {"jsonrpc":"2.0","params":{"na\u006de":"x","_meta":{"name":1}},"id":18446744073709551615} "#;

        let document = scan(text).unwrap();

        assert_eq!(document.get(text, "id").unwrap().of(text), b"18446744073709551615");
        assert_eq!(document.get_in(text, "params", "name").unwrap().of(text), br#""x""#);
        assert_eq!(document.get_in(text, "params", "jsonrpc"), None);
    }

    #[test]
    fn duplicates_are_refused_at_every_depth() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":[{"c":1,"c":1}]}}"#,
            r#"{"name":1,"na\u006de":2}"#,
            r#"{"😀":1,"\ud83d\ude00":2}"#,
        ] {
            assert!(matches!(scan(text.as_bytes()), Err(JsonError::Duplicate { .. })), "{text}");
        }
        let mut many: String = (0..40).map(|n| format!(r#""k{n}":{n},"#)).collect();
        many = format!("{{{many}\"k7\":1}}");
        assert!(
            matches!(scan(many.as_bytes()), Err(JsonError::Duplicate { key, .. }) if key == "k7")
        );
        assert!(scan(br#"{"a":{"x":1},"b":{"x":1},"A":1}"#).is_ok());
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\" 1}",
            "01",
            "1.",
            "1e",
            "-",
            "tru",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"a",
            "{}x",
            "\"a\nb\"",
            "{\"a\":1,}",
            "nul",
            "[1 2]",
            "{a:1}",
            "'a'",
        ] {
            assert!(matches!(scan(text.as_bytes()), Err(JsonError::Syntax { .. })), "{text}");
        }
        assert_eq!(scan(b"\xef\xbb\xbf{}").unwrap_err(), JsonError::Bom);
        assert_eq!(scan(b"{\"a\":\"\xff\"}").unwrap_err(), JsonError::Utf8 { offset: 6 });
        assert_eq!(scan("[".repeat(129).as_bytes()).unwrap_err(), JsonError::Depth);
        assert!(scan(format!("{}{}", "[".repeat(128), "]".repeat(128)).as_bytes()).is_ok());
    }

    #[test]
    fn what_is_json_is_accepted() {
        for text in
            ["1e400", "-0.0E+1", "[]", "{}", "null", "\"\\ud800\"", "[1, 2 ,{ }]", "\"\u{7f}é\\n\""]
        {
            assert!(scan(text.as_bytes()).is_ok(), "{text}");
        }
    }

    /// The scanner and `serde_json` must agree on what is JSON, apart from what only one of them
    /// refuses: we duplicates, they numbers out of range and lone surrogates.
    #[test]
    fn agrees_with_serde_json_on_mutations() {
        let seeds = [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\tb","arguments":{"x":[1,2.5e3,null,true]}}}"#,
            r#"[{"a":"\u00e9\\"},"a long string that goes beyond sixty-four bytes, so that the other search is used too",-1.5E-2]"#,
        ];
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize % below
        };
        for round in 0..40_000 {
            let mut text = seeds[round % 2].as_bytes().to_vec();
            for _ in 0..1 + next(3) {
                let at = next(text.len());
                match next(3) {
                    0 => text[at] = b"{}[]\",:\\ue1 \n0-\x01\xc3"[next(17)],
                    1 => drop(text.remove(at)),
                    _ => text.insert(at, b"{}[]\",:\\ue1 0-."[next(14)]),
                }
            }
            let theirs = std::str::from_utf8(&text)
                .is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
            match scan(&text) {
                Ok(_) => assert!(theirs, "{}", String::from_utf8_lossy(&text)),
                Err(JsonError::Duplicate { .. }) => {}
                Err(error) => assert!(!theirs, "{error}: {}", String::from_utf8_lossy(&text)),
            }
            let _ = (pointer(&text, "/params/arguments/x/1"), string(&text), member(&text, "id"));
        }
    }

    #[test]
    fn pointers_follow_rfc_6901() {
        let json = br#"{"a/b":1,"m~n":2,"":{"x":[10,{"y":3}]},"k":null}"#;
        let at = |path: &str| {
            pointer(json, path).map(|range| std::str::from_utf8(&json[range]).unwrap())
        };
        assert_eq!(at("/a~1b"), Some("1"));
        assert_eq!(at("/m~0n"), Some("2"));
        assert_eq!(at("//x/1/y"), Some("3"));
        assert_eq!(at("//x/01"), None);
        assert_eq!(at("/k"), Some("null"));
        assert_eq!(at("/k/z"), None);
        assert_eq!(at("a"), None);
    }

    #[test]
    fn splices_leave_the_rest_as_it_was() {
        let text = br#"{"id" : 1, "x":  "y"}"#;
        let id = member(text, "id").unwrap();
        assert_eq!(
            splice(text, &[(id, Bytes::from_static(b"\"abc\""))]),
            br#"{"id" : "abc", "x":  "y"}"#
        );
    }
}
