//! Takes secrets out of what is stored.
//!
//! Four kinds are known: values of keys that name secrets, credentials after a scheme or in a URL,
//! tokens with a well-known prefix, and the exact secrets the gateway holds. Strings are looked at as
//! they read after decoding, so that no escape hides anything; what has nothing to hide is borrowed.
//! Nothing here guesses by entropy.

mod clues;
mod name;
mod secret;
mod text;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use memchr::{memchr, memchr2};

use self::secret::Secrets;
use self::text::Hit;

/// What stands for a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// The same as a JSON value.
const REDACTED_JSON: &str = "\"[redacted]\"";

/// Replaces secrets in JSON and in text.
///
/// Cloning is cheap, and clones know the same secrets.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<RwLock<Option<Secrets>>>,
}

impl fmt::Debug for Redactor {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Makes a redactor that knows `secrets` besides what looks like one.
    ///
    /// They are found as they are and in their JSON, URL and base64 forms. Secrets of fewer than six
    /// bytes are ignored: they would be found everywhere.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        Self { secrets: Arc::new(RwLock::new(Secrets::new(secrets))) }
    }

    /// Takes more secrets. Those it knows it goes on looking for.
    pub fn learn(&self, secrets: impl IntoIterator<Item = String>) {
        let mut known = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.as_ref().map_or_else(Vec::new, |known| known.plain().to_vec());
        *known = Secrets::new(before.into_iter().chain(secrets));
    }

    fn secrets(&self) -> RwLockReadGuard<'_, Option<Secrets>> {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns JSON without its secrets.
    ///
    /// Valid JSON stays valid, and JSON that was cut is redacted up to where it ends. What is no JSON
    /// is treated as text, and bytes that are not UTF-8 are replaced.
    pub fn redact<'a>(&self, json: &'a [u8]) -> Cow<'a, str> {
        match String::from_utf8_lossy(json) {
            Cow::Borrowed(text) => self.redact_json(text),
            Cow::Owned(text) => Cow::Owned(self.redact_json(&text).into_owned()),
        }
    }

    /// Returns text, such as an error or what a server wrote to stderr, without its secrets.
    pub fn redact_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let hits = self.hits(text);
        if hits.is_empty() {
            return Cow::Borrowed(text);
        }
        self.redact_hits(text, &hits, false).map_or(Cow::Borrowed(text), Cow::Owned)
    }

    fn redact_json<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let first = text.bytes().find(|byte| !is_space(*byte));
        if !first.is_some_and(|byte| matches!(byte, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9')) {
            return self.redact_text(text);
        }
        let hits = self.hits(text);
        let mut pass = JsonPass { redactor: self, text, hits: &hits, edits: Edits::new(text) };
        pass.run();
        pass.edits.finish()
    }

    /// Returns all places that may be or hold a secret, by rising start.
    fn hits(&self, text: &str) -> Vec<Hit> {
        let mut hits = clues::find(text.as_bytes());
        if let Some(secrets) = &*self.secrets()
            && secrets.find(text, &mut hits)
        {
            hits.sort_unstable_by_key(|hit| hit.start);
        }
        hits
    }

    /// Returns decoded text without what the hits lead to, or nothing when they lead to nothing.
    fn redact_hits(&self, text: &str, hits: &[Hit], cut: bool) -> Option<String> {
        let mut founds: Vec<text::Found> = Vec::new();
        for hit in hits {
            // A clue inside of what will be replaced leads nowhere; an exact secret may reach further.
            let covered = founds.last().is_some_and(|found| {
                let ends = hit.end <= found.range.end || !hit.clue.is_exact();
                found.range.contains(&hit.start) && ends
            });
            if covered {
                continue;
            }
            founds.extend(text::secret_at(text.as_bytes(), hit, cut));
        }
        founds.sort_by_key(|found| found.range.start);
        let mut edits = Edits::new(text);
        for found in founds {
            let quote = &text[found.quote];
            edits.replace(found.range, &[quote, REDACTED, quote]);
        }
        if cut && let Some(secrets) = &*self.secrets() {
            let tail = &text[edits.copied..];
            if let Some(start) = secrets.begun_at_end(tail) {
                edits.replace(edits.copied + start..text.len(), &[REDACTED]);
            }
        }
        edits.changed()
    }
}

/// A text and the replacements made in it so far, from left to right.
struct Edits<'a> {
    text: &'a str,
    out: String,
    /// How much of the text is in `out`, replaced or not.
    copied: usize,
}

impl<'a> Edits<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, out: String::new(), copied: 0 }
    }

    /// Replaces a range; what of it was replaced before stays so.
    fn replace(&mut self, range: Range<usize>, with: &[&str]) {
        // Overlapping secrets, or one right behind the other, share a replacement.
        let joined = self.copied > 0 && range.start <= self.copied;
        if joined {
            self.copied = self.copied.max(range.end);
            return;
        }
        if self.out.is_empty() {
            self.out.reserve(self.text.len());
        }
        self.out.push_str(&self.text[self.copied..range.start]);
        for part in with {
            self.out.push_str(part);
        }
        self.copied = range.end;
    }

    fn changed(mut self) -> Option<String> {
        if self.copied == 0 {
            return None;
        }
        self.out.push_str(&self.text[self.copied..]);
        Some(self.out)
    }

    fn finish(self) -> Cow<'a, str> {
        let text = self.text;
        self.changed().map_or(Cow::Borrowed(text), Cow::Owned)
    }
}

/// A string of the JSON text.
struct StringToken {
    /// Without its quotes.
    content: Range<usize>,
    /// Behind the closing quote, or the end of the text.
    end: usize,
    closed: bool,
    /// Holds a backslash.
    escaped: bool,
    /// Holds an escape that need not be one, and could hide a secret: `\u0041`, `\/`.
    disguised: bool,
}

/// One walk over a JSON text, from string to string.
struct JsonPass<'a, 'h> {
    redactor: &'h Redactor,
    text: &'a str,
    /// Not yet passed.
    hits: &'h [Hit],
    edits: Edits<'a>,
}

impl JsonPass<'_, '_> {
    fn run(&mut self) {
        let bytes = self.text.as_bytes();
        let mut position = 0;
        while let Some(offset) = memchr(b'"', &bytes[position..]) {
            let open = position + offset;
            self.redact_bare(position..open);
            let string = string_token(bytes, open);
            position = string.end;
            self.redact_string(&string);
            let after = skip_space(bytes, string.end);
            if bytes.get(after) == Some(&b':')
                && self.names_secret(&string)
                && let Some(value) = value_range(bytes, after + 1)
            {
                position = value.end;
                self.edits.replace(value, &[REDACTED_JSON]);
            }
            self.skip_hits(position);
        }
        self.redact_bare(position..bytes.len());
    }

    fn skip_hits(&mut self, position: usize) {
        while self.hits.first().is_some_and(|hit| hit.end <= position) {
            self.hits = &self.hits[1..];
        }
    }

    fn names_secret(&self, key: &StringToken) -> bool {
        let raw = &self.text[key.content.clone()];
        if key.escaped {
            return name::is_secret(decode(raw).as_bytes());
        }
        // Every such name has a clue in it, unless separators split it.
        let hinted = self.hits.first().is_some_and(|hit| hit.start < key.content.end);
        (hinted || raw.bytes().any(|byte| matches!(byte, b'-' | b'_')))
            && name::is_secret(raw.as_bytes())
    }

    fn redact_string(&mut self, string: &StringToken) {
        let content = string.content.clone();
        let hinted = self.hits.first().is_some_and(|hit| hit.start < content.end);
        if !hinted && !string.disguised && string.closed {
            return;
        }
        let hits = &self.hits[..self.hits.partition_point(|hit| hit.start < content.end)];
        // Such as a secret that is JSON itself, found in its pieces.
        let crosses = |hit: &Hit| {
            hit.clue.is_exact()
                && hit.end > content.start
                && (hit.start < content.start || hit.end > content.end)
        };
        if hits.iter().any(crosses) {
            self.edits.replace(content, &[REDACTED]);
            return;
        }
        let raw = &self.text[content.clone()];
        let local: Vec<Hit> = hits
            .iter()
            .filter(|hit| hit.start >= content.start && hit.end <= content.end)
            .map(|hit| Hit {
                start: hit.start - content.start,
                end: hit.end - content.start,
                clue: hit.clue,
            })
            .collect();
        if !string.escaped {
            if let Some(redacted) = self.redactor.redact_hits(raw, &local, !string.closed) {
                self.edits.replace(content, &[&redacted]);
            }
            return;
        }
        let found = |hit: &Hit| text::secret_at(raw.as_bytes(), hit, !string.closed).is_some();
        if !string.disguised && string.closed && !local.iter().any(found) {
            return;
        }
        let decoded = decode(raw);
        let hits = self.redactor.hits(&decoded);
        if let Some(redacted) = self.redactor.redact_hits(&decoded, &hits, !string.closed) {
            let quoted = serde_json::Value::String(redacted).to_string();
            self.edits.replace(content, &[&quoted[1..quoted.len() - 1]]);
        }
    }

    /// Replaces numbers that are secrets in what stands between strings.
    fn redact_bare(&mut self, gap: Range<usize>) {
        let bytes = self.text.as_bytes();
        for hit in self.hits.iter().take_while(|hit| hit.start < gap.end) {
            if !hit.clue.is_exact() {
                continue;
            }
            let end = hit.end.min(gap.end);
            let mut start = hit.start.max(gap.start);
            while start < end {
                if is_structure(bytes[start]) {
                    start += 1;
                    continue;
                }
                let word = word_around(bytes, start, &gap);
                start = word.end;
                if !matches!(&self.text[word.clone()], "true" | "false" | "null") {
                    self.edits.replace(word, &[REDACTED_JSON]);
                }
            }
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_structure(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':' | b'"')
}

fn skip_space(bytes: &[u8], mut position: usize) -> usize {
    while bytes.get(position).is_some_and(|byte| is_space(*byte)) {
        position += 1;
    }
    position
}

/// Returns the number or literal around a position.
fn word_around(bytes: &[u8], position: usize, within: &Range<usize>) -> Range<usize> {
    let before = bytes[within.start..position].iter().rev();
    let start = position - before.take_while(|byte| !is_structure(**byte)).count();
    let after = bytes[position..within.end].iter();
    start..position + after.take_while(|byte| !is_structure(**byte)).count()
}

/// Reads the string whose opening quote is at `open`.
fn string_token(bytes: &[u8], open: usize) -> StringToken {
    let start = open + 1;
    let (mut escaped, mut disguised) = (false, false);
    let mut position = start;
    while let Some(at) = quote_or_backslash(bytes, position) {
        if bytes[at] == b'"' {
            return StringToken {
                content: start..at,
                end: at + 1,
                closed: true,
                escaped,
                disguised,
            };
        }
        escaped = true;
        disguised |= matches!(bytes.get(at + 1), Some(b'u' | b'/'));
        position = at + 2;
    }
    StringToken { content: start..bytes.len(), end: bytes.len(), closed: false, escaped, disguised }
}

/// Looks at a few bytes itself: most strings are short, and JSON in a string is full of escapes.
fn quote_or_backslash(bytes: &[u8], position: usize) -> Option<usize> {
    const NEAR: usize = 24;
    let rest = bytes.get(position..)?;
    let near = &rest[..rest.len().min(NEAR)];
    let offset = match near.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        Some(offset) => offset,
        None => near.len() + memchr2(b'"', b'\\', &rest[near.len()..])?,
    };
    Some(position + offset)
}

/// Returns the value that begins at `position`, unless it is `true`, `false`, `null` or missing.
fn value_range(bytes: &[u8], position: usize) -> Option<Range<usize>> {
    let start = skip_space(bytes, position);
    match bytes.get(start)? {
        b'"' => Some(start..string_token(bytes, start).end),
        b'{' | b'[' => Some(start..nested_end(bytes, start)),
        b'-' | b'0'..=b'9' => Some(word_around(bytes, start, &(start..bytes.len()))),
        _ => None,
    }
}

/// Returns the end of the object or array that begins at `start`.
fn nested_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0usize;
    let mut position = start;
    while position < bytes.len() {
        match bytes[position] {
            b'"' => {
                position = string_token(bytes, position).end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        position += 1;
        if depth == 0 {
            return position;
        }
    }
    bytes.len()
}

/// Returns what the content of a JSON string says. Escapes that say nothing are replaced.
fn decode(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else { break };
        rest = &rest[escape.len_utf8()..];
        match escape {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => out.push(decode_unicode(&mut rest)),
            other => out.push(other),
        }
    }
    out.push_str(rest);
    out
}

/// Reads what follows `\u`, the second half of a surrogate pair included.
fn decode_unicode(rest: &mut &str) -> char {
    let unit = |text: &str| {
        let digits =
            text.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(rest) else { return char::REPLACEMENT_CHARACTER };
    *rest = &rest[4..];
    if let 0xD800..0xDC00 = first
        && let Some(second) = rest.strip_prefix("\\u").and_then(unit)
        && let 0xDC00..0xE000 = second
    {
        *rest = &rest[6..];
        let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests;
