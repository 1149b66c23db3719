//! The secrets the gateway holds, in the forms they come back in.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};

use super::text::{Clue, Hit};

/// Shorter ones would be found everywhere.
const SECRET_BYTES_MIN: usize = 6;

/// A text that was cut may end in the middle of a secret. Shorter beginnings say too little.
const BEGUN_BYTES_MIN: usize = 4;

/// JSON text in a string of JSON text, and so on: so deep an escaped secret is found.
const NESTED_MAX: usize = 3;

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Finds known secrets.
#[derive(Clone)]
pub(super) struct Secrets {
    searcher: AhoCorasick,
    /// By pattern; those of base64 come last.
    first_base64: usize,
    /// The secrets themselves.
    plain: std::sync::Arc<[String]>,
}

impl Secrets {
    /// Returns the secrets themselves.
    pub(super) fn plain(&self) -> &[String] {
        &self.plain
    }

    /// Returns nothing when there is no secret to find.
    pub(super) fn new(secrets: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut plain = BTreeSet::new();
        for secret in secrets {
            let trimmed = secret.trim();
            if trimmed.len() >= SECRET_BYTES_MIN {
                plain.insert(trimmed.to_owned());
            }
        }
        let mut literal = BTreeSet::new();
        let mut base64 = BTreeSet::new();
        for secret in &plain {
            literal.insert(secret.clone());
            let forms = [json_escaped(secret), ascii_escaped(secret)];
            let slashed = forms.clone().map(|form| form.replace('/', "\\/"));
            for mut form in forms.into_iter().chain(slashed) {
                for _ in 0..NESTED_MAX {
                    let deeper = json_escaped(&form);
                    literal.insert(std::mem::replace(&mut form, deeper));
                }
            }
            for (space, upper) in [("%20", true), ("%20", false), ("+", true), ("+", false)] {
                literal.insert(url_encoded(secret, space, upper));
            }
            for alphabet in [STANDARD, URL_SAFE] {
                base64.extend(
                    (0..3).map(|offset| base64_inside(secret.as_bytes(), offset, alphabet)),
                );
            }
        }
        if literal.is_empty() {
            return None;
        }
        let searcher = AhoCorasick::builder()
            // Secrets may overlap; each is to be found.
            .match_kind(MatchKind::Standard)
            .build(literal.iter().chain(&base64))
            .ok()?;
        Some(Self {
            searcher,
            first_base64: literal.len(),
            plain: plain.into_iter().collect::<Vec<_>>().into(),
        })
    }

    /// Adds all places where a secret stands; returns whether there are any.
    pub(super) fn find(&self, text: &str, hits: &mut Vec<Hit>) -> bool {
        let before = hits.len();
        // Most texts hold none, and looking for the first only is cheaper.
        if !self.searcher.is_match(text) {
            return false;
        }
        hits.extend(self.searcher.find_overlapping_iter(text).map(|found| {
            let base64 = found.pattern().as_usize() >= self.first_base64;
            Hit {
                start: found.start(),
                end: found.end(),
                clue: if base64 { Clue::Base64 } else { Clue::Exact },
            }
        }));
        hits.len() > before
    }

    /// Returns where a secret begins that the end of the text cuts off.
    pub(super) fn begun_at_end(&self, text: &str) -> Option<usize> {
        let begins = |secret: &String| {
            (BEGUN_BYTES_MIN..secret.len())
                .rev()
                .find(|length| {
                    secret.is_char_boundary(*length) && text.ends_with(&secret[..*length])
                })
                .map(|length| text.len() - length)
        };
        self.plain.iter().filter_map(begins).min()
    }
}

fn json_escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// As encoders write it that keep to ASCII.
fn ascii_escaped(text: &str) -> String {
    let mut out = String::new();
    for character in json_escaped(text).chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

fn url_encoded(text: &str, space: &str, upper: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push_str(space),
            _ if upper => out.push_str(&format!("%{byte:02X}")),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}

/// Returns the characters that base64 has for `secret` whatever stands around it, when `offset`
/// bytes (modulo 3) stand before it.
fn base64_inside(secret: &[u8], offset: usize, alphabet: &[u8; 64]) -> String {
    let bits = |index: usize| {
        index.checked_sub(offset).and_then(|index| secret.get(index)).map(|byte| usize::from(*byte))
    };
    let total = offset + secret.len();
    let mut out = String::new();
    for group in 0..total.div_ceil(3) {
        let [a, b, c] = [bits(group * 3), bits(group * 3 + 1), bits(group * 3 + 2)];
        let sextets = [
            a.map(|a| a >> 2),
            a.zip(b).map(|(a, b)| (a & 3) << 4 | b >> 4),
            b.zip(c).map(|(b, c)| (b & 15) << 2 | c >> 6),
            c.map(|c| c & 63),
        ];
        out.extend(sextets.into_iter().flatten().map(|sextet| char::from(alphabet[sextet])));
    }
    out
}
