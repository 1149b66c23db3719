//! What a clue in a text leads to.
//!
//! Works on text as a person reads it, which may hold pieces of JSON, headers, URLs, environment
//! assignments. Run on JSON strings that are still escaped it only says whether decoding is worth
//! it. All looking around a clue is bounded, so that a text of nothing but clues stays linear.

use std::ops::Range;

use super::name::{self, NAME_BYTES_MAX};
use super::{is_space, nested_end};

/// How far a clue is followed before it must have shown that it is a secret.
const LOOK_BYTES_MAX: usize = 512;

/// A place where a secret may be, or is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) clue: Clue,
}

/// What was found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clue {
    /// A secret the gateway holds.
    Exact,
    /// One in base64, of which the ends are not exact.
    Base64,
    /// Part of a name whose value may be secret.
    Name,
    /// `Bearer` or `Basic`, as a scheme or as a name.
    Scheme,
    /// `://`, maybe with a password before the host.
    Url,
    /// `-----BEGIN `.
    Pem,
    /// Beginning of a JSON web token.
    Jwt,
    /// A prefix in this very case, followed by at least so many letters, digits, `_` or `-`.
    Prefix {
        /// As it must stand there.
        text: &'static str,
        /// How many must follow.
        run_min: usize,
        /// At least one of them is a digit: else it is a word with dashes.
        digit: bool,
    },
}

impl Clue {
    pub(super) fn is_exact(self) -> bool {
        matches!(self, Self::Exact | Self::Base64)
    }
}

const fn prefix(text: &'static str, run_min: usize) -> (&'static str, Clue) {
    (text, Clue::Prefix { text, run_min, digit: false })
}

/// What to look for, in any case. Every name of [`name::is_secret`] has one of these in it.
pub(super) const CLUES: &[(&str, Clue)] = &[
    ("access_key", Clue::Name),
    ("access-key", Clue::Name),
    ("accesskey", Clue::Name),
    ("api_key", Clue::Name),
    ("api-key", Clue::Name),
    ("apikey", Clue::Name),
    ("authorization", Clue::Name),
    ("cookie", Clue::Name),
    ("credential", Clue::Name),
    ("pass_w", Clue::Name),
    ("pass-w", Clue::Name),
    ("passphrase", Clue::Name),
    ("passw", Clue::Name),
    ("private_key", Clue::Name),
    ("private-key", Clue::Name),
    ("privatekey", Clue::Name),
    ("secret", Clue::Name),
    ("token", Clue::Name),
    ("basic", Clue::Scheme),
    ("bearer", Clue::Scheme),
    ("://", Clue::Url),
    ("-----begin ", Clue::Pem),
    ("eyj", Clue::Jwt),
    prefix("AIza", 30),
    prefix("AKIA", 16),
    prefix("ASIA", 16),
    prefix("ghp_", 20),
    prefix("gho_", 20),
    prefix("ghu_", 20),
    prefix("ghs_", 20),
    prefix("ghr_", 20),
    prefix("github_pat_", 20),
    prefix("glpat-", 16),
    prefix("npm_", 30),
    prefix("rk_live_", 16),
    prefix("sk_live_", 16),
    prefix("sk_test_", 16),
    prefix("xapp-", 10),
    prefix("xoxa-", 10),
    prefix("xoxb-", 10),
    prefix("xoxp-", 10),
    prefix("xoxr-", 10),
    prefix("xoxs-", 10),
    ("sk-", Clue::Prefix { text: "sk-", run_min: 16, digit: true }),
];

/// A secret in a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) range: Range<usize>,
    /// Quotes to put around the replacement, by where the text has such; often none.
    pub(super) quote: Range<usize>,
}

impl Found {
    fn bare(range: Range<usize>) -> Self {
        Self { range, quote: 0..0 }
    }
}

/// Returns the secret a hit leads to. With `cut`, the end of the text cut something off.
pub(super) fn secret_at(text: &[u8], hit: &Hit, cut: bool) -> Option<Found> {
    match hit.clue {
        Clue::Exact => Some(Found::bare(hit.start..hit.end)),
        Clue::Base64 => {
            let start = hit.start - run_before(text, hit.start, is_base64, LOOK_BYTES_MAX);
            Some(Found::bare(start..hit.end + run(text, hit.end, is_base64)))
        }
        Clue::Name => named(text, hit),
        Clue::Scheme => credentials(text, hit, cut).map(Found::bare).or_else(|| named(text, hit)),
        Clue::Url => url_password(text, hit.end).map(Found::bare),
        Clue::Pem => private_key(text, hit).map(Found::bare),
        Clue::Jwt => json_web_token(text, hit, cut).map(Found::bare),
        Clue::Prefix { text: prefix, run_min, digit } => {
            // What has to have a digit may be long without: it is followed once per chain of dashes.
            let inside = digit && follows_dash(text, hit.start);
            let exact = &text[hit.start..hit.end] == prefix.as_bytes();
            if !exact || inside || !starts_word(text, hit.start) {
                return None;
            }
            let looked = bounded_run(text, hit.end, is_token);
            let digits = text[hit.end..looked].iter().filter(|byte| byte.is_ascii_digit()).count();
            let whole = looked - hit.end >= run_min && (!digit || digits > 0);
            (whole || (cut && looked == text.len()))
                .then(|| Found::bare(hit.start..looked + run(text, looked, is_token)))
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}

/// What may stand in a header behind the scheme: RFC 9110 section 11.2, `token68`.
fn is_token68(byte: u8) -> bool {
    is_base64(byte) || matches!(byte, b'.' | b'~')
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

fn run(text: &[u8], start: usize, is: fn(u8) -> bool) -> usize {
    text[start..].iter().take_while(|byte| is(**byte)).count()
}

/// Returns the end of a run, at most so far as a clue is followed.
fn bounded_run(text: &[u8], start: usize, is: fn(u8) -> bool) -> usize {
    let end = text.len().min(start + LOOK_BYTES_MAX);
    start + run(&text[..end], start, is)
}

fn run_before(text: &[u8], end: usize, is: fn(u8) -> bool, max: usize) -> usize {
    text[..end].iter().rev().take(max).take_while(|byte| is(**byte)).count()
}

/// Returns whether a word can begin here. A letter behind a backslash is an escape.
fn starts_word(text: &[u8], start: usize) -> bool {
    match text[..start] {
        [] => true,
        [.., before] if !before.is_ascii_alphanumeric() => true,
        [.., b'\\', _] => true,
        _ => false,
    }
}

fn follows_dash(text: &[u8], start: usize) -> bool {
    start > 0 && matches!(text[start - 1], b'-' | b'_' | b'.')
}

/// Follows a name to its value: `"password": "…"`, `token=…`, `Cookie: …`, at any depth of escaping.
fn named(text: &[u8], hit: &Hit) -> Option<Found> {
    let key_end =
        hit.end + text[hit.end..].iter().take(NAME_BYTES_MAX).take_while(|b| is_token(**b)).count();
    let quote_end = key_end + closing_quote(&text[key_end..]);
    let separator = skip_blank(text, quote_end);
    if !matches!(text.get(separator)?, b':' | b'=') {
        return None;
    }
    let mut key_start = hit.start - run_before(text, hit.start, is_token, NAME_BYTES_MAX);
    if key_start > 0 && key_start < hit.start && text[key_start - 1] == b'\\' {
        // Of `\npassword` the `n` may be an escape, or not.
        let with = name::is_secret(&text[key_start..key_end]);
        key_start += usize::from(!with);
    }
    let key = &text[key_start..key_end];
    if !name::is_secret(key) {
        return None;
    }
    let start = skip_blank(text, separator + 1);
    let first = *text.get(start)?;
    let backslashes = text[start..].iter().take_while(|byte| **byte == b'\\').count();
    let opening = *text.get(start + backslashes)?;
    if is_quote(opening) {
        let content = start + backslashes + 1;
        let end = quoted_end(text, content, opening, backslashes);
        return (end > content).then(|| Found::bare(content..end));
    }
    let quote = if quote_end > key_end { key_end..quote_end } else { 0..0 };
    if matches!(first, b'{' | b'[') && !quote.is_empty() {
        return Some(Found { range: start..nested_end_escaped(text, start), quote });
    }
    // `==`, `::` and `=>` are code, not an assignment.
    if matches!(first, b':' | b'=' | b'>') {
        return None;
    }
    let header = is_header(key) && quote.is_empty();
    let length = text[start..].iter().take_while(|byte| in_bare_value(**byte, header)).count();
    let value = &text[start..start + length];
    if value.is_empty() || [&b"true"[..], b"false", b"null", b"none", b"None"].contains(&value) {
        return None;
    }
    Some(Found { range: start..start + length, quote })
}

/// Returns whether the value of a key goes on to the end of the line.
fn is_header(key: &[u8]) -> bool {
    let ends = |end: &[u8]| {
        key.len() >= end.len() && key[key.len() - end.len()..].eq_ignore_ascii_case(end)
    };
    ends(b"authorization") || ends(b"cookie")
}

fn in_bare_value(byte: u8, header: bool) -> bool {
    let ends = is_quote(byte) || matches!(byte, b'\n' | b'\r' | b'\\');
    let ends_word = is_space(byte)
        || matches!(
            byte,
            b',' | b';' | b'&' | b'(' | b')' | b'{' | b'}' | b'[' | b']' | b'<' | b'>'
        );
    !ends && (header || !ends_word)
}

/// Returns the length of a quote with the backslashes before it.
fn closing_quote(text: &[u8]) -> usize {
    let backslashes = text.iter().take(LOOK_BYTES_MAX).take_while(|byte| **byte == b'\\').count();
    match text.get(backslashes) {
        Some(byte) if is_quote(*byte) => backslashes + 1,
        _ => 0,
    }
}

/// Skips space, also such as is still escaped.
fn skip_blank(text: &[u8], mut position: usize) -> usize {
    let end = text.len().min(position + LOOK_BYTES_MAX);
    while position < end {
        match text[position..] {
            [b' ' | b'\t' | b'\n' | b'\r', ..] => position += 1,
            [b'\\', b'n' | b'r' | b't', ..] => position += 2,
            _ => break,
        }
    }
    position.min(text.len())
}

/// Returns where a quoted value ends whose opening quote has so many backslashes before it.
fn quoted_end(text: &[u8], start: usize, quote: u8, backslashes: usize) -> usize {
    let mut before = 0;
    for (offset, byte) in text[start..].iter().enumerate() {
        if *byte == quote && before <= backslashes {
            return start + offset - before;
        }
        before = if *byte == b'\\' { before + 1 } else { 0 };
    }
    text.len()
}

/// Returns the end of an object or array whose quotes may be escaped.
fn nested_end_escaped(text: &[u8], start: usize) -> usize {
    let Some(quote) = text[start..].iter().position(|byte| *byte == b'"') else {
        return nested_end(text, start);
    };
    let level = run_before(text, start + quote, |byte| byte == b'\\', LOOK_BYTES_MAX);
    if level == 0 {
        return nested_end(text, start);
    }
    let (mut depth, mut before, mut inside) = (0usize, 0, false);
    for (offset, byte) in text[start..].iter().enumerate() {
        match byte {
            b'"' if before <= level => inside = !inside,
            b'{' | b'[' if !inside => depth += 1,
            b'}' | b']' if !inside => {
                depth -= 1;
                if depth == 0 {
                    return start + offset + 1;
                }
            }
            _ => {}
        }
        before = if *byte == b'\\' { before + 1 } else { 0 };
    }
    text.len()
}

/// Returns what stands behind `Bearer ` or `Basic `, if it does not read like a word.
fn credentials(text: &[u8], hit: &Hit, cut: bool) -> Option<Range<usize>> {
    let start = bounded_run(text, hit.end, |byte| byte == b' ');
    if start == hit.end || !starts_word(text, hit.start) {
        return None;
    }
    let looked = bounded_run(text, start, is_token68);
    let in_word = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'.');
    // The first letter of a word may be large.
    let odd = text[start..looked].iter().skip(1).any(|byte| !in_word(*byte));
    let whole = looked - start >= 8 && odd;
    (whole || (cut && looked == text.len() && looked > start))
        .then(|| start..looked + run(text, looked, is_token68))
}

/// Returns the password in `user:password@host`.
fn url_password(text: &[u8], start: usize) -> Option<Range<usize>> {
    let ends = |byte: u8| {
        is_space(byte) || is_quote(byte) || matches!(byte, b'/' | b'?' | b'#' | b'\\' | b'<' | b'>')
    };
    let looked = &text[start..text.len().min(start + LOOK_BYTES_MAX)];
    let authority = &looked[..looked.iter().position(|byte| ends(*byte)).unwrap_or(looked.len())];
    let at = memchr::memrchr(b'@', authority)?;
    let colon = memchr::memchr(b':', &authority[..at])?;
    (colon + 1 < at).then_some(start + colon + 1..start + at)
}

/// Returns a private key, from its first line to its last.
fn private_key(text: &[u8], hit: &Hit) -> Option<Range<usize>> {
    const NAME: &[u8] = b"PRIVATE KEY-----";
    let looked = &text[hit.end..text.len().min(hit.end + 48)];
    let header = hit.end + memchr::memmem::find(looked, NAME)? + NAME.len();
    let end = memchr::memmem::find(&text[header..], NAME);
    Some(hit.start..end.map_or(text.len(), |offset| header + offset + NAME.len()))
}

/// Returns a token of three parts in base64, of which the first two begin like `{"`.
fn json_web_token(text: &[u8], hit: &Hit, cut: bool) -> Option<Range<usize>> {
    let exact = &text[hit.start..hit.end] == b"eyJ";
    if !exact || follows_dash(text, hit.start) || !starts_word(text, hit.start) {
        return None;
    }
    let end = hit.start + run(text, hit.start, |byte| is_token(byte) || byte == b'.');
    let mut parts = text[hit.start..end].splitn(3, |byte| *byte == b'.');
    let [header, payload, signature] = [parts.next(), parts.next(), parts.next()];
    let whole = header.is_some_and(|part| part.len() >= 10)
        && payload.is_some_and(|part| part.len() >= 4)
        && signature.is_some();
    (whole || (cut && end == text.len())).then_some(hit.start..end)
}
