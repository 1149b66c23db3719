//! Secrets that are shown once and stored as a hash: `dk_…`, `ugw_…`, `uha_…`, `uhr_…`.
//!
//! After the prefix stand, in hex: 8 bytes by which the secret is found, 24 random bytes, and a
//! checksum of 4, by which a scanner for leaked secrets, or the command line, knows a real one.

use std::fmt;

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

const LOOKUP_BYTES: usize = 8;
const SECRET_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;

/// What a secret is for: its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Lets a gateway link itself.
    DeployKey,
    /// Is one gateway.
    Gateway,
    /// Is a person on the command line, for minutes.
    AccessToken,
    /// Gets the next access token.
    RefreshToken,
}

impl Purpose {
    /// What the secret begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::DeployKey => "dk_",
            Self::Gateway => "ugw_",
            Self::AccessToken => "uha_",
            Self::RefreshToken => "uhr_",
        }
    }
}

/// A secret in clear. Shown to its owner, and then forgotten.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    purpose: Purpose,
    bytes: [u8; LOOKUP_BYTES + SECRET_BYTES],
}

impl Secret {
    /// Makes one.
    pub fn new(purpose: Purpose) -> Self {
        Self { purpose, bytes: rand::random() }
    }

    /// Reads one, and checks that nothing was mistyped. Says nothing about whether it is valid.
    pub fn parse(purpose: Purpose, text: &str) -> Option<Self> {
        let hex = text.trim().strip_prefix(purpose.prefix())?;
        let mut bytes = [0; LOOKUP_BYTES + SECRET_BYTES + CHECKSUM_BYTES];
        if hex.len() != bytes.len() * 2 || !hex.is_ascii() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        let (bytes, checksum) = bytes.split_at(LOOKUP_BYTES + SECRET_BYTES);
        let secret = Self { purpose, bytes: bytes.try_into().ok()? };
        (secret.checksum() == checksum).then_some(secret)
    }

    /// What it is found by. Not secret.
    pub fn lookup(&self) -> i64 {
        let lookup = self.bytes[..LOOKUP_BYTES].try_into().expect("the bytes before the secret");
        i64::from_be_bytes(lookup)
    }

    /// What is stored in its place.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.reveal().as_bytes()).into()
    }

    /// Whether this is the secret that was stored as `hash`.
    pub fn matches(&self, hash: &[u8]) -> bool {
        // Both are hashes: their comparison tells nothing about the secret.
        self.hash().as_slice() == hash
    }

    /// The secret in clear.
    pub fn reveal(&self) -> String {
        use fmt::Write as _;

        let mut text = self.purpose.prefix().to_owned();
        for byte in self.bytes.iter().chain(&self.checksum()) {
            write!(text, "{byte:02x}").expect("a string takes everything");
        }
        text
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.purpose.prefix().as_bytes());
        hasher.update(&self.bytes);
        hasher.finalize().to_be_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.purpose.prefix())
    }
}

/// Returns the secret that a request shows (RFC 6750, section 2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether two texts are equal, in a time that does not tell where they differ.
pub(crate) fn equal(a: &str, b: &str) -> bool {
    Sha256::digest(a.as_bytes()) == Sha256::digest(b.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_was_shown() {
        let secret = Secret::new(Purpose::DeployKey);

        let read = Secret::parse(Purpose::DeployKey, &secret.reveal()).unwrap();

        assert_eq!(read, secret);
        assert!(read.matches(&secret.hash()));
        assert_eq!(format!("{secret:?}"), "dk_…");
    }

    #[test]
    fn what_was_mistyped_is_known_at_once() {
        let text = Secret::new(Purpose::DeployKey).reveal();
        let last = if text.ends_with('0') { "1" } else { "0" };
        let mistyped = format!("{}{last}", &text[..text.len() - 1]);

        for wrong in [&mistyped, &text[..20], "dk_", "", "dk_é", &text.replace("dk_", "ugw_")] {
            assert!(Secret::parse(Purpose::DeployKey, wrong).is_none(), "{wrong}");
        }
        assert!(Secret::parse(Purpose::Gateway, &text).is_none());
    }
}
