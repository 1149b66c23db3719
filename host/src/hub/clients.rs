//! The MCP clients in front of this process, for the heartbeat.
//!
//! Sessions say when a client comes and when it asks for something; the latter is one store.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use ultra_hub::wire::ClientReport;

use super::text::short;
use crate::{lock, unix_ns};

/// As many as the Hub shows. Of more, those that asked last are reported.
const CLIENTS_MAX: usize = 64;

/// A name is what a client says of itself, and so of any length.
const TEXT_BYTES_MAX: usize = 200;

/// Who uses the gateway, or has since it started.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    known: Mutex<Vec<Client>>,
    came: Notify,
}

#[derive(Debug)]
struct Client {
    name: String,
    version: String,
    active: Activity,
}

/// When a client last asked for something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Activity(Arc<AtomicI64>);

impl Activity {
    /// Notes that the client asks for something.
    pub(crate) fn note(&self) {
        self.0.store(unix_ns() / 1_000_000, Ordering::Relaxed);
    }
}

impl Clients {
    /// Notes that a client came. Several that say the same of themselves are one.
    pub(crate) fn enter(&self, name: &str, version: &str) -> Activity {
        let (name, version) = (short(name, TEXT_BYTES_MAX), short(version, TEXT_BYTES_MAX));
        let mut known = lock(&self.known);
        let is_same = |client: &&Client| client.name == name && client.version == version;
        if let Some(same) = known.iter().find(is_same) {
            let activity = same.active.clone();
            activity.note();
            return activity;
        }
        if known.len() >= CLIENTS_MAX {
            let oldest = (0..known.len()).min_by_key(|at| known[*at].active_unix_ms());
            oldest.map(|at| known.swap_remove(at));
        }
        let activity = Activity::default();
        activity.note();
        known.push(Client { name, version, active: activity.clone() });
        if known.len() == 1 {
            self.came.notify_one();
        }
        activity
    }

    /// Resolves once, when there is a first client.
    pub(super) async fn first(&self) {
        self.came.notified().await;
    }

    /// Returns who there is, in the order in which they came.
    pub(super) fn report(&self) -> Vec<ClientReport> {
        let report = |client: &Client| ClientReport {
            name: client.name.clone(),
            version: client.version.clone(),
            managed: None,
            active_unix_ms: Some(client.active_unix_ms()),
        };
        lock(&self.known).iter().map(report).collect()
    }
}

impl Client {
    fn active_unix_ms(&self) -> i64 {
        self.active.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_listed_once_with_when_it_asked_last() {
        let clients = Clients::default();
        let before = unix_ns() / 1_000_000;

        clients.enter("Claude\u{7} Desktop", "1.0");
        let again = clients.enter("Claude Desktop", "1.0");
        clients.enter("Cursor", "");
        again.note();

        let report = clients.report();
        let names: Vec<_> = report.iter().map(|client| (&*client.name, &*client.version)).collect();
        assert_eq!(names, [("Claude Desktop", "1.0"), ("Cursor", "")]);
        assert!(report[0].active_unix_ms >= Some(before) && report[0].managed.is_none());
    }

    #[test]
    fn whoever_asked_longest_ago_makes_room() {
        let clients = Clients::default();
        let entered: Vec<_> =
            (0..CLIENTS_MAX).map(|at| clients.enter(&format!("client {at}"), "")).collect();
        for (at, activity) in entered.iter().enumerate() {
            activity.0.store(if at == 7 { 1 } else { 2 }, Ordering::Relaxed);
        }

        clients.enter(&"long".repeat(100), "");

        let report = clients.report();
        assert_eq!(report.len(), CLIENTS_MAX);
        assert!(!report.iter().any(|client| client.name == "client 7"));
        assert!(report.iter().any(|client| client.name.len() == TEXT_BYTES_MAX));
    }
}
