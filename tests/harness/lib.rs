//! What the integration tests drive and look at: gateways, upstreams, sessions, processes.
//!
//! Knows Ultra from outside only: its binary, its config file, its lines.

pub mod browser;
#[allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "it is a part of the Hub's tests too, where both are fine"
)]
#[path = "../../hub/src/db/testing/cluster.rs"]
pub mod cluster;
pub mod conformance;
pub mod fixture;
pub mod http;
pub mod hub;
pub mod json;
pub mod oauth;
pub mod process;
pub mod sdk;
pub mod servers;
pub mod session;
pub mod ultra;

use std::path::PathBuf;

pub use json::Json;
pub use session::{Message, Session};
pub use ultra::{Fake, Ultra};

/// Returns the path of a program of this package, such as `fake-upstream`.
///
/// # Panics
///
/// If it is not where cargo puts it.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let path =
        test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    path.unwrap_or_else(|| panic!("`{name}` is not built beside `{}`", test.display()))
}
