//! The Hub: takes the records of a fleet of gateways, and shows them to those who may see them.
//!
//! [`wire`] is what gateways say to it, [`spans`] how both count it; the rest is the server.

mod access;
mod api;
mod clock;
mod db;
mod error;
mod events;
mod fleet;
mod id;
pub mod local;
mod people;
mod router;
pub mod secret;
mod serve;
mod server;
pub mod spans;
mod web;
pub mod wire;

pub use people::{MailError, OidcOptions, Options as PeopleOptions, OptionsError, ProviderError};
pub use serve::{Hub, OpenError, Options, Storage};
pub use server::TlsError;
