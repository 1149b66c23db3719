//! OAuth 2.1 towards upstreams: who may use a server, on the word of its authorization server.

mod fetch;
mod reach;
mod secret;

pub use fetch::FetchError;
pub use reach::Refusal;
pub use secret::Secret;
