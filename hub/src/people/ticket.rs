//! Random texts that browsers and links carry: cookies, set-up links, invites, codes of the command line.
//!
//! Shown once, stored as a hash. Not the secrets of programs, which have a form that scanners know: see
//! [`crate::secret`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use sha2::{Digest, Sha256};

const BYTES: usize = 32;

/// Characters of 32 bytes in base 64.
const CHARS: usize = 43;

/// A random text of 256 bits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Ticket(String);

impl Ticket {
    pub(crate) fn new() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>()))
    }

    /// Reads one. Says nothing about whether it is valid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (text.len() == CHARS && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    /// The text in clear.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored in its place.
    pub(crate) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// Returns a text that only who has the ticket can make of `text`.
    pub(super) fn sign(&self, text: &str) -> Vec<u8> {
        hmac::sign(&self.key(), text.as_bytes()).as_ref().to_vec()
    }

    /// Whether `signature` was made of `text` with this ticket. Takes as long if not.
    pub(super) fn signed(&self, text: &str, signature: &[u8]) -> bool {
        hmac::verify(&self.key(), text.as_bytes(), signature).is_ok()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes())
    }

    /// Returns the token that stands in the forms of whoever has this ticket as a cookie.
    pub(super) fn csrf(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.sign("form"))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Returns bytes as hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;

    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_as_it_was_shown() {
        let ticket = Ticket::new();

        assert_eq!(Ticket::parse(ticket.reveal()), Some(ticket.clone()));
        assert_ne!(Ticket::new(), ticket);
        assert_ne!(ticket.csrf(), ticket.reveal());
        assert_eq!(format!("{ticket:?}"), "…");
        for wrong in ["", "x", &ticket.reveal()[1..], &format!("{}=", &ticket.reveal()[1..])] {
            assert!(Ticket::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_signature_holds_for_its_ticket_and_text() {
        let ticket = Ticket::new();
        let signature = ticket.sign("12345678");

        assert!(ticket.signed("12345678", &signature));
        assert!(!ticket.signed("12345679", &signature));
        assert!(!Ticket::new().signed("12345678", &signature));
    }
}
