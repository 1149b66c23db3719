//! Who looks at a page.

use async_trait::async_trait;
use axum::response::Response;
use http::request::Parts;

use crate::access::{Account, Entry};

/// Lets people in: with a session and a role, or, on one's own machine, with the link that was printed.
#[async_trait]
pub(crate) trait Gate: Send + Sync {
    /// Returns who looks at the workspace of the path (`ws_…`; the first one that may be entered if
    /// there is none), or what to answer instead: the way to sign in, or a refusal.
    async fn enter(&self, parts: &Parts, workspace: Option<&str>) -> Result<Viewing, Response>;
}

/// Somebody at a page of a workspace.
#[derive(Debug, Clone)]
pub(crate) struct Viewing {
    /// Nobody on one's own machine.
    pub(crate) account: Option<Account>,
    /// The workspace.
    pub(crate) entry: Entry,
    /// All that may be entered, for the switch; at least `entry`.
    pub(crate) entries: Vec<Entry>,
    /// Stands in every form that changes something (field `csrf`).
    pub(crate) csrf: String,
}
