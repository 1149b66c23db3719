//! OAuth 2.1 towards upstreams: who may use a server, on the word of its authorization server.

mod fetch;
mod files;
mod key;
mod keychain;
mod reach;
mod secret;

pub use fetch::FetchError;
pub use files::FileError;
pub use key::{KeyError, Keys, Protection};
pub use keychain::KeychainError;
pub use reach::Refusal;
pub use secret::Secret;
