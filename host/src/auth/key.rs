//! The key that the stored tokens are encrypted with, and where it is kept.
//!
//! In this order: the file the user names, a key file beside the tokens if there is one, the keychain;
//! and where there is no keychain, a new key file beside the tokens, which protects from nobody who can
//! read both, and is called unprotected.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::files::{self, FileError};
use super::keychain::{self, KeychainError};

/// XChaCha20-Poly1305.
pub(super) const KEY_BYTES: usize = 32;

/// Enough to tell one key from another.
pub(super) const ID_BYTES: usize = 8;

/// Where keys come from.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// A file with 32 bytes, or 64 hex digits.
    pub file: Option<PathBuf>,
    /// Whether the system's keychain is asked.
    pub keychain: bool,
}

/// Who can read the stored tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Whoever the keychain lets in.
    Keychain,
    /// Whoever can read the file that the user named.
    KeyFile,
    /// Whoever can read this user's files.
    Unprotected,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The keychain cannot be asked, and there are tokens only its key opens.
    #[error(transparent)]
    Keychain(#[from] KeychainError),
    /// The named file is missing.
    #[error("the key file `{}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// What is there is no key.
    #[error("{place} holds no key of {KEY_BYTES} bytes")]
    Malformed {
        /// A file or the keychain.
        place: String,
    },
    /// Its file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A key and where it is kept.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) bytes: Zeroizing<[u8; KEY_BYTES]>,
    pub(super) protection: Protection,
}

impl Key {
    /// Returns what tells this key from others and does not help to find it.
    pub(super) fn id(&self) -> [u8; ID_BYTES] {
        let digest =
            Sha256::new().chain_update(b"ultra key id 1\0").chain_update(*self.bytes).finalize();
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&digest[..ID_BYTES]);
        id
    }

    fn parse(bytes: &[u8], protection: Protection, place: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed { place: place.to_owned() };
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let text = bytes.trim_ascii();
        if bytes.len() == KEY_BYTES {
            key.copy_from_slice(bytes);
        } else if text.len() == 2 * KEY_BYTES {
            for (byte, digits) in key.iter_mut().zip(text.chunks(2)) {
                let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
                *byte = u8::from_str_radix(digits, 16).map_err(|_| malformed())?;
            }
        } else {
            return Err(malformed());
        }
        Ok(Self { bytes: key, protection })
    }

    fn random(protection: Protection) -> Self {
        Self { bytes: Zeroizing::new(rand::random()), protection }
    }
}

impl Keys {
    /// Returns the key of the tokens in `directory`; nothing if there is none yet.
    ///
    /// # Errors
    ///
    /// There may be one, but it cannot be had.
    pub(super) fn find(&self, directory: &Path) -> Result<Option<Key>, KeyError> {
        if let Some(path) = &self.file {
            let bytes =
                files::read(path)?.ok_or_else(|| KeyError::Missing { path: path.clone() })?;
            return parse_file(bytes, Protection::KeyFile, path).map(Some);
        }
        let beside = beside(directory);
        if let Some(bytes) = files::read(&beside)? {
            return parse_file(bytes, Protection::Unprotected, &beside).map(Some);
        }
        if !self.keychain {
            return Ok(None);
        }
        let Some(bytes) = keychain::get()?.map(Zeroizing::new) else { return Ok(None) };
        Key::parse(&bytes, Protection::Keychain, "the keychain").map(Some)
    }

    /// Makes a key where there is none. The caller holds the lock of the directory.
    ///
    /// The keychain is left alone if it `has_failed` just now: its silence takes time.
    pub(super) fn make(&self, directory: &Path, has_failed: bool) -> Result<Key, KeyError> {
        if self.keychain && !has_failed {
            let key = Key::random(Protection::Keychain);
            let bytes = Zeroizing::new(key.bytes.to_vec());
            // Believed when it comes back: some keychains take a value and lose it.
            let kept = keychain::set(bytes).and_then(|()| keychain::get());
            if kept
                .is_ok_and(|kept| kept.map(Zeroizing::new).is_some_and(|kept| *kept == *key.bytes))
            {
                return Ok(key);
            }
        }
        let key = Key::random(Protection::Unprotected);
        files::replace(&beside(directory), key.bytes.as_slice())?;
        Ok(key)
    }
}

/// Returns the key that a file holds, and makes it where there is none. Processes that do so at once get
/// the same one.
///
/// # Errors
///
/// The file cannot be used, could be used by others, or holds something else.
pub fn kept_at(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    let bytes = match files::read(path)? {
        Some(bytes) => bytes,
        None => {
            files::make(path, Key::random(Protection::Unprotected).bytes.as_slice())?;
            files::read(path)?.ok_or_else(|| KeyError::Missing { path: path.to_owned() })?
        }
    };
    Ok(parse_file(bytes, Protection::Unprotected, path)?.bytes)
}

fn beside(directory: &Path) -> PathBuf {
    directory.join("key")
}

fn parse_file(bytes: Vec<u8>, protection: Protection, path: &Path) -> Result<Key, KeyError> {
    Key::parse(&Zeroizing::new(bytes), protection, &format!("`{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_makes_a_key_first_makes_it_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ultra/seal.key");

        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..16).map(|_| scope.spawn(|| kept_at(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });

        assert!(made.iter().all(|key| key == &made[0]));
        assert_eq!(kept_at(&path).unwrap(), made[0]);
        assert_eq!(std::fs::read_dir(dir.path().join("ultra")).unwrap().count(), 1);
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(kept_at(&path), Err(KeyError::Malformed { .. })));
    }

    #[test]
    fn key_files_hold_bytes_or_hex_digits() {
        let parse =
            |bytes: &[u8]| Key::parse(bytes, Protection::KeyFile, "x").map(|key| *key.bytes).ok();
        let hex = format!("{}\n", "0aF1".repeat(16));
        let expected: Vec<u8> = [0x0a, 0xf1].repeat(16);

        assert_eq!(parse(&[7; 32]), Some([7; 32]));
        assert_eq!(parse(hex.as_bytes()).unwrap().as_slice(), expected);
        for malformed in [&b""[..], &[7; 31], &[7; 33], &[b'x'; 64], "é".repeat(32).as_bytes()] {
            assert_eq!(parse(malformed), None);
        }
    }

    #[test]
    fn named_file_beats_the_key_beside_and_is_never_made() {
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("named");
        let none = Keys::default();
        let keys = Keys { file: Some(named.clone()), keychain: false };

        assert!(none.find(dir.path()).unwrap().is_none());
        let beside = none.make(dir.path(), false).unwrap();
        assert_eq!(none.find(dir.path()).unwrap().unwrap().id(), beside.id());
        assert!(matches!(keys.find(dir.path()), Err(KeyError::Missing { .. })));
        files::replace(&named, &[7; 32]).unwrap();
        let key = keys.find(dir.path()).unwrap().unwrap();

        assert_eq!((*key.bytes, key.protection), ([7; 32], Protection::KeyFile));
        assert_ne!(key.id(), beside.id());
    }
}
