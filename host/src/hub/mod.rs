//! The gateway's side of the Hub: signing in, linking, and sending what the store holds.
//!
//! Never on a call's path: what is here runs in commands, or on a thread of its own.

mod client;
mod machine;

pub(crate) use client::{Client, ClientError};
pub(crate) use machine::host_facts;
