//! OAuth 2.1 towards upstreams: who may use a server, on the word of its authorization server.

mod callback;
mod challenge;
mod discovery;
mod error;
mod fetch;
mod files;
mod grant;
mod key;
mod keychain;
mod login;
mod reach;
mod register;
mod secret;
mod token;
mod vault;

pub use error::AuthError;
pub use fetch::FetchError;
pub use files::FileError;
pub use key::{KeyError, Keys, Protection};
pub use keychain::KeychainError;
pub use reach::Refusal;
pub use secret::Secret;
pub use vault::VaultError;
