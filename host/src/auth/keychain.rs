//! The system's keychain: macOS Keychain, Secret Service on Linux.
//!
//! It may be missing, locked, or waiting for somebody to click. Whatever it does, it is asked on a
//! thread of its own and waited for a moment only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use keyring::v1::{Entry, Error};

/// Where the entry is found by whoever looks into the keychain.
const SERVICE: &str = "ultra";
const USER: &str = "key of the stored tokens";

/// Long enough to click; a call may be waiting.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Threads that wait for it at a time: whoever finds it silent may ask again and again.
const WAITING_MAX: usize = 4;

static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Why the keychain is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeychainError {
    /// It says nothing.
    #[error("the keychain gives no answer within {} s", TIMEOUT.as_secs())]
    Silent,
    /// There is none in this session.
    #[error("there is no keychain: {reason}")]
    Missing {
        /// What tells.
        reason: String,
    },
    /// It refuses.
    #[error("the keychain cannot be used")]
    Failed {
        /// What it said.
        source: Error,
    },
}

/// Returns what the keychain holds for us, if anything.
pub(super) fn get() -> Result<Option<Vec<u8>>, KeychainError> {
    asked(|| match Entry::new(SERVICE, USER)?.get_secret() {
        Ok(secret) => Ok(Some(secret)),
        Err(Error::NoEntry) => Ok(None),
        Err(error) => Err(error),
    })
}

/// Puts a value into the keychain.
pub(super) fn set(secret: zeroize::Zeroizing<Vec<u8>>) -> Result<(), KeychainError> {
    asked(move || Entry::new(SERVICE, USER)?.set_secret(&secret))
}

fn asked<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, KeychainError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let ask = move || match Entry::store_status() {
        Ok(()) => ask().map_err(|source| KeychainError::Failed { source }),
        Err(error) => Err(KeychainError::Missing { reason: error.to_string() }),
    };
    if WAITING.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return Err(KeychainError::Silent);
    }
    // Nobody can end a thread that waits for a dialog; it ends with the process at the latest.
    let started = thread::Builder::new().name("keychain".into()).spawn(move || {
        let answer = ask();
        WAITING.fetch_sub(1, Ordering::Relaxed);
        sender.send(answer)
    });
    if started.is_err() {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return Err(KeychainError::Silent);
    }
    receiver.recv_timeout(TIMEOUT).unwrap_or(Err(KeychainError::Silent))
}
