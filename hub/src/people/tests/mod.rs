//! What people can do, and what they cannot. Each test runs on both databases, through the pages where there
//! are some.

mod admin_log;
mod codes;
mod command_line;
mod delete;
mod invites;
mod keys;
mod mail;
mod members;
mod oidc;
mod sessions;
mod setup;
