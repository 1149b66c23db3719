//! OAuth 2.1, towards upstreams and towards clients: who may use a server, on the word of its authorization
//! server.
//!
//! [`Authorizer`] has the token for a server, or knows where the user can sign in for one. It speaks to
//! authorization servers, the browser and the file of tokens; it does not speak MCP and sends no token
//! to a server: that is the transport's, to the URL the token was granted for and no other.
//!
//! In the order of a first call: `challenge` reads the refusal, `discovery` asks the server and its
//! authorization server, `register` makes us a client there, `login` sends the user and takes what
//! `callback` brings back, `token` redeems it, `vault` keeps it. `fetch` carries all of it,
//! within what `reach` allows.
//!
//! [`Verifier`] is for the other direction, where the gateway is the server: it knows whom the token of a
//! client is about. Neither direction ever sees the tokens of the other.

mod authorizer;
mod browser;
mod callback;
mod challenge;
mod discovery;
mod error;
mod fetch;
mod files;
mod grant;
mod inbound;
mod key;
mod keychain;
mod login;
mod reach;
mod register;
mod seat;
mod secret;
mod sign_in;
mod token;
mod vault;

use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

pub use authorizer::{Account, Authorizer, Challenged, Refused};
pub use browser::Browser;
pub(crate) use callback::{Callback, Return};
pub use error::AuthError;
pub use fetch::FetchError;
pub use files::FileError;
pub(crate) use files::FileLock;
pub use inbound::{TokenError, Verifier};
pub use key::{KeyError, Keys, Protection, kept_at as key_kept_at};
pub use keychain::KeychainError;
pub use reach::Refusal;
pub(crate) use reach::is_loopback;
pub use secret::Secret;
pub(crate) use secret::sealed;
pub use sign_in::SignIn;
pub(crate) use vault::Vault;
pub use vault::VaultError;

use crate::config::{ConfigError, Environment, OAuth};

/// What an [`Authorizer`] is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where tokens are kept; made if missing.
    pub directory: PathBuf,
    /// Where the key comes from that they are encrypted with.
    pub keys: Keys,
    /// Opens the page where the user signs in.
    pub browser: Browser,
}

impl Options {
    /// Returns what the user's environment says: `auth` in the config directory, `ULTRA_KEY_FILE` and
    /// the keychain, `BROWSER` or the system's.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoHome`]: no place for the tokens is known.
    pub fn of(environment: &Environment) -> Result<Self, ConfigError> {
        let directory = environment.config_dir().ok_or(ConfigError::NoHome)?.join("auth");
        let file = environment.get("ULTRA_KEY_FILE").filter(|path| !path.is_empty());
        Ok(Self {
            directory,
            keys: Keys { file: file.map(PathBuf::from), keychain: true },
            browser: Browser::of(environment),
        })
    }
}

/// A server that may want to know who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    name: Arc<str>,
    url: Url,
    oauth: OAuth,
}

impl Server {
    /// Takes a server of the config: its name, its URL with the variables replaced, `oauth`.
    ///
    /// # Errors
    ///
    /// [`AuthError::Server`]: a token would travel unencrypted to another machine, or the URL is none.
    pub fn new(name: Arc<str>, url: &str, oauth: OAuth) -> Result<Self, AuthError> {
        let wrong = |reason| AuthError::Server { name: name.to_string(), reason };
        let mut parsed = Url::parse(url).map_err(|_| wrong("its URL is none"))?;
        match parsed.scheme() {
            "https" => {}
            "http" if reach::is_loopback(&parsed) => {}
            _ => return Err(wrong("tokens travel over `https` only")),
        }
        parsed.set_fragment(None);
        Ok(Self { name, url: parsed, oauth })
    }

    /// Returns its name in the config.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its URL: what its tokens are found by, and the only place they are for.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}
