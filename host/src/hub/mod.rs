//! The gateway's side of the Hub: signing in, linking, and sending what the store holds.
//!
//! Never on a call's path: what is here runs in commands, or on a thread of its own.

mod attach;
mod batch;
mod beat;
mod client;
mod clients;
mod credentials;
mod deploy;
mod grant;
mod lanes;
mod lease;
mod linking;
mod machine;
mod pace;
mod send;
mod state;
mod sync;
#[cfg(test)]
mod testing;
mod text;

pub(crate) use attach::{Attachment, Gateway};
pub(crate) use client::{Client, ClientError};
pub(crate) use clients::{Activity, Clients};
pub(crate) use credentials::{Account as Session, Credentials, CredentialsError, Kept, Link};
pub(crate) use grant::{GrantError, Login, Tokens, revoke};
pub(crate) use linking::{History, LinkError, Membership, clear_config, link, write_config};
pub(crate) use machine::host_facts;
