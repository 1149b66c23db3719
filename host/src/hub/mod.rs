//! The gateway's side of the Hub: signing in, linking, and sending what the store holds.
//!
//! Never on a call's path: what is here runs in commands, or on a thread of its own.

mod client;
mod credentials;
mod grant;
#[cfg(test)]
mod testing;

pub(crate) use client::{Client, ClientError};
pub(crate) use credentials::{Account, Credentials, CredentialsError, Kept, Link};
