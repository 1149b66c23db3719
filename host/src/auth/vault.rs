//! What is remembered of signing in: grants and registrations, in one encrypted file.
//!
//! The file is replaced as a whole and durable before anybody uses what is new in it: a refresh token
//! that was used up and whose successor is lost means signing in again. All processes of the user share
//! it; whoever changes it holds its lock.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::files::{self, FileError, FileLock};
use super::grant::Grant;
use super::key::{ID_BYTES, Key, KeyError, Keys, Protection};
use super::register::Registration;
use crate::{hub, lock};

/// The file begins with this, then come the key's id, the nonce and what is encrypted.
const MAGIC: &[u8] = b"ultra tokens 1\n";

const NONCE_BYTES: usize = 24;
const HEAD_BYTES: usize = MAGIC.len() + ID_BYTES + NONCE_BYTES;

/// Somebody who changes the file asks a keychain in the worst case.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the tokens cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// No key.
    #[error("the stored tokens cannot be decrypted")]
    Key {
        /// Why.
        #[from]
        source: KeyError,
    },
    /// Another key than the one it was written with.
    #[error("`{}` was encrypted with another key", path.display())]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
    /// Changed by somebody without the key, or half gone.
    #[error("`{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Another process changes it all the time.
    #[error("`{}` is in use for too long", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// The file or its directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

impl VaultError {
    /// Returns what to do next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Key { source: KeyError::Keychain(_) } => {
                Some("unlock the keychain, or set `ULTRA_KEY_FILE` to a key file of yours")
            }
            Self::Key { .. } => {
                Some("`ULTRA_KEY_FILE` names a file of 32 bytes that only you can read")
            }
            Self::WrongKey { .. } | Self::Damaged { .. } => {
                Some("bring the key back, or delete the file and sign in again")
            }
            Self::File(FileError::Untrusted { .. }) => {
                Some("make it yours alone: `chmod go=` and `chown`")
            }
            Self::File(FileError::Io { .. }) | Self::Locked { .. } => None,
        }
    }
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Records {
    pub(super) grants: Vec<Grant>,
    pub(super) registrations: Vec<Registration>,
    /// What the gateway's side of the Hub keeps.
    #[serde(default)]
    pub(crate) hub: hub::Kept,
}

impl Records {
    /// Returns the grant for a server.
    pub(super) fn grant(&self, server: &str) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.server == server)
    }

    /// Puts a grant into the place of the server's earlier one.
    pub(super) fn put_grant(&mut self, grant: Grant) {
        self.grants.retain(|known| known.server != grant.server);
        self.grants.push(grant);
    }

    /// Puts a grant into the place of the one it comes from, unless that is gone: a refresh must neither
    /// undo a sign-in nor a sign-out.
    pub(super) fn replace_grant(&mut self, old: &Grant, next: Grant) {
        let is_old = |grant: &&mut Grant| {
            grant.server == old.server && grant.access_token == old.access_token
        };
        if let Some(place) = self.grants.iter_mut().find(is_old) {
            *place = next;
        }
    }

    /// Forgets a server, and who we are at its authorization server unless another server needs that.
    ///
    /// Returns whether there was anything to forget.
    pub(super) fn forget(&mut self, server: &str) -> bool {
        let Some(at) = self.grants.iter().position(|grant| grant.server == server) else {
            return false;
        };
        let issuer = self.grants.remove(at).issuer;
        if !self.grants.iter().any(|grant| grant.issuer == issuer) {
            self.registrations.retain(|known| known.issuer != issuer);
        }
        true
    }

    /// Forgets a client that its authorization server does not know any more.
    pub(super) fn forget_client(&mut self, issuer: &str, id: &str) {
        self.registrations.retain(|known| known.issuer != issuer || known.identity.id != id);
    }

    /// Puts a registration into the place of the earlier one at that authorization server.
    pub(super) fn put_registration(&mut self, registration: Registration) {
        self.registrations.retain(|known| known.issuer != registration.issuer);
        self.registrations.push(registration);
    }
}

/// The file and its key.
pub(crate) struct Vault {
    directory: PathBuf,
    keys: Keys,
    /// Asked for once: a keychain may ask the user each time.
    key: Mutex<Option<Key>>,
}

impl Vault {
    pub(crate) fn new(directory: PathBuf, keys: Keys) -> Self {
        Self { directory, keys, key: Mutex::default() }
    }

    /// Reads all records. Blocks on the disk, and at first on the keychain.
    pub(crate) fn load(&self) -> Result<Records, VaultError> {
        // Nothing to decrypt, so the keychain is left alone.
        let Some(bytes) = files::read(&self.path())? else { return Ok(Records::default()) };
        let Some(key) = self.find_key()? else {
            return Err(VaultError::WrongKey { path: self.path() });
        };
        self.open(&key, &bytes)
    }

    /// Changes the records; they are durable when this returns. Blocks as [`Self::load`] does.
    pub(crate) fn update<T>(
        &self,
        change: impl FnOnce(&mut Records) -> T,
    ) -> Result<T, VaultError> {
        files::make_directory(&self.directory)?;
        let path = self.directory.join("tokens.lock");
        let Some(_lock) = FileLock::take_blocking(&path, LOCK_TIMEOUT)? else {
            return Err(VaultError::Locked { path });
        };
        let mut records = self.load()?;
        let key = match self.find_key() {
            Ok(Some(key)) => key,
            // Nothing is stored yet: no keychain is no reason not to.
            Ok(None) => self.make_key(false)?,
            Err(KeyError::Keychain(_)) => self.make_key(true)?,
            Err(error) => return Err(error.into()),
        };
        let result = change(&mut records);
        files::replace(&self.path(), &seal(&key, &records))?;
        Ok(result)
    }

    /// Returns who can read the tokens; nothing if there are none.
    pub(super) fn protection(&self) -> Result<Option<Protection>, VaultError> {
        if files::read(&self.path())?.is_none() {
            return Ok(None);
        }
        Ok(self.find_key()?.map(|key| key.protection))
    }

    /// Returns the path of a lock on what concerns one server.
    pub(crate) fn lock_path(&self, what: &str, server: &str) -> Result<PathBuf, VaultError> {
        files::make_directory(&self.directory)?;
        let digest = Sha256::digest(server.as_bytes());
        let id: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(self.directory.join(format!("{what}-{id}.lock")))
    }

    fn path(&self) -> PathBuf {
        self.directory.join("tokens")
    }

    fn find_key(&self) -> Result<Option<Key>, KeyError> {
        if let Some(key) = &*lock(&self.key) {
            return Ok(Some(key.clone()));
        }
        let found = self.keys.find(&self.directory)?;
        lock(&self.key).clone_from(&found);
        Ok(found)
    }

    fn make_key(&self, has_keychain_failed: bool) -> Result<Key, KeyError> {
        let key = self.keys.make(&self.directory, has_keychain_failed)?;
        *lock(&self.key) = Some(key.clone());
        Ok(key)
    }

    fn open(&self, key: &Key, bytes: &[u8]) -> Result<Records, VaultError> {
        let damaged = || VaultError::Damaged { path: self.path() };
        if bytes.len() < HEAD_BYTES || !bytes.starts_with(MAGIC) {
            return Err(damaged());
        }
        let (head, sealed) = bytes.split_at(HEAD_BYTES);
        let (id, nonce) = head[MAGIC.len()..].split_at(ID_BYTES);
        if id != key.id() {
            return Err(VaultError::WrongKey { path: self.path() });
        }
        let nonce = XNonce::try_from(nonce).map_err(|_| damaged())?;
        let opened = cipher(key).decrypt(&nonce, Payload { msg: sealed, aad: head });
        let opened = Zeroizing::new(opened.map_err(|_| damaged())?);
        serde_json::from_slice(&opened).map_err(|_| damaged())
    }
}

fn seal(key: &Key, records: &Records) -> Vec<u8> {
    let plain = serde_json::to_vec(records).expect("records are strings and numbers");
    let plain = Zeroizing::new(plain);
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let mut bytes = [MAGIC, key.id().as_slice(), nonce.as_slice()].concat();
    let sealed = cipher(key)
        .encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: &bytes })
        .expect("a few kilobytes are within the limits of the cipher");
    bytes.extend_from_slice(&sealed);
    bytes
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&*key.bytes).into())
}

#[cfg(test)]
mod tests;
