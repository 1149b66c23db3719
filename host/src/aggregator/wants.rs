//! What clients want to hear of: resources they subscribed to, log messages from a level on.

use std::sync::Arc;

use bytes::Bytes;

use super::{Aggregator, LEARNED_MAX, has};
use crate::lock;
use crate::mcp::{Era, Level, Message, json};
use crate::upstream::{Belongs, Connection, Patience, Upstream, Wants};

impl Aggregator {
    /// Sets the level of what upstreams log to the client, also of those that start later.
    pub fn set_log_level(&self, params: Bytes) {
        lock(&self.learned).log_level = Some(params.clone());
        for upstream in self.upstreams().iter() {
            if upstream.is_shared() {
                self.say_wants(upstream);
            } else if let crate::upstream::State::Ready(connection) = upstream.state() {
                self.tell_log_level(upstream, &connection, &params);
            }
        }
    }

    fn tell_log_level(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        params: &Bytes,
    ) {
        // A modern server is told with each request.
        if has(upstream, "logging") && connection.era() == Era::Legacy {
            self.tell(upstream, connection, "logging/setLevel", params.clone());
        }
    }

    /// Has a server log from a level on, for a request of the modern era.
    pub(super) fn log_from(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        level: &Bytes,
    ) {
        {
            let mut learned = lock(&self.learned);
            let known = learned.log_levels.get(&upstream.name);
            // Requests of others may want less; each gets what it wants of what comes.
            if known.is_some_and(|known| Level::parse(known) <= Level::parse(level)) {
                return;
            }
            learned.log_levels.insert(Arc::clone(&upstream.name), level.clone());
        }
        if upstream.is_shared() {
            return self.say_wants(upstream);
        }
        let params = Bytes::from([b"{\"level\":", &level[..], b"}"].concat());
        self.tell_log_level(upstream, connection, &params);
    }

    /// Returns what somebody wants to hear of from an upstream.
    pub(super) fn subscriptions_of(&self, upstream: &Upstream) -> Vec<Bytes> {
        let learned = lock(&self.learned);
        let of_it = learned.subscriptions.iter().filter(|(_, owner)| **owner == upstream.name);
        let mut uris: Vec<_> = of_it.map(|(uri, _)| uri.clone()).collect();
        uris.sort();
        uris
    }

    /// Says what this client wants to hear of, to an upstream that tells its server by itself.
    pub(super) fn say_wants(&self, upstream: &Upstream) {
        let log_level = {
            let learned = lock(&self.learned);
            let named = learned.log_level.as_ref().and_then(level_of);
            let of_requests = learned.log_levels.get(&upstream.name);
            named.into_iter().chain(of_requests.and_then(|level| Level::parse(level))).min()
        };
        let wants = Wants { resources: self.subscriptions_of(upstream), log_level };
        upstream.wants(&self.surroundings.caller.session_id, wants);
    }

    /// Returns whether this client is to hear what a server says that serves others too.
    pub fn is_concerned(&self, message: &Message, belongs: &Belongs) -> bool {
        let learned = lock(&self.learned);
        let member = |key| message.body_member(key);
        match &*message.method() {
            // It is for whoever made the call.
            "notifications/progress" => true,
            // Each request of the modern era has a level of its own.
            "notifications/message" if self.surroundings.revision.era() == Era::Modern => true,
            "notifications/message" => {
                let wanted = learned.log_level.as_ref().and_then(level_of).unwrap_or(Level::INFO);
                member("level").and_then(Level::parse).is_none_or(|level| level >= wanted)
            }
            "notifications/resources/updated" => {
                let uri = member("uri").and_then(json::string).unwrap_or_default();
                learned.subscriptions.keys().any(|wanted| {
                    json::string(wanted).is_some_and(|wanted| is_or_is_in(&uri, &wanted))
                })
            }
            "notifications/tasks/status" => {
                let id = member("taskId").and_then(json::string);
                id.is_some_and(|id| learned.tasks.contains_key(&*id))
            }
            _ => matches!(belongs, Belongs::To(_)),
        }
    }

    /// Subscribes to a resource, whichever era its owner lives in. Says whether somebody owns it.
    pub fn watch(&self, uri: &[u8], on: bool) -> bool {
        let text = json::string(uri).unwrap_or_default();
        let Ok(owner) = self.resource_owner(&self.catalog(), &text) else { return false };
        let params = Bytes::from([b"{\"uri\":", uri, b"}"].concat());
        let method = if on { "resources/subscribe" } else { "resources/unsubscribe" };
        self.subscribed(method, &params, &owner);
        if owner.is_shared() {
            self.say_wants(&owner);
        } else if let crate::upstream::State::Ready(connection) = owner.state() {
            match connection.era() {
                Era::Legacy => self.tell(&owner, &connection, method, params),
                Era::Modern => self.say_wants(&owner),
            }
        }
        true
    }

    /// Notes what a client subscribed to or no longer is, so that it outlives the server.
    pub fn subscribed(&self, method: &str, params: &Bytes, upstream: &Arc<Upstream>) {
        let uri = json::member(params, "uri").and_then(|range| json::string(&params[range]));
        let Some(uri) = uri.map(|uri| Bytes::from(json::quote(&uri))) else { return };
        let mut learned = lock(&self.learned);
        match method {
            "resources/subscribe" if learned.subscriptions.len() < LEARNED_MAX => {
                learned.subscriptions.insert(uri, Arc::clone(&upstream.name));
            }
            "resources/unsubscribe" => drop(learned.subscriptions.remove(&uri)),
            _ => {}
        }
    }

    /// Tells a server that has just started what its predecessor knew.
    pub fn catch_up(&self, upstream: &Arc<Upstream>, connection: &Arc<Connection>) {
        let (log_level, subscriptions) = {
            let learned = lock(&self.learned);
            let owned = learned.subscriptions.iter().filter(|(_, owner)| **owner == upstream.name);
            (learned.log_level.clone(), owned.map(|(uri, _)| uri.clone()).collect::<Vec<_>>())
        };
        if let Some(params) = log_level {
            self.tell_log_level(upstream, connection, &params);
        }
        if connection.era() == Era::Modern {
            return self.say_wants(upstream);
        }
        for uri in subscriptions {
            let params = [b"{\"uri\":", &uri[..], b"}"].concat();
            self.tell(upstream, connection, "resources/subscribe", params.into());
        }
    }

    /// Sends a request of our own whose result is of no interest.
    fn tell(
        &self,
        upstream: &Arc<Upstream>,
        connection: &Arc<Connection>,
        method: &'static str,
        params: Bytes,
    ) {
        let (upstream, connection) = (Arc::clone(upstream), Arc::clone(connection));
        let patience = Patience { timeout: self.surroundings.call_timeout, cancels: true };
        tokio::spawn(async move {
            if let Err(error) = upstream.ask(&connection, patience, method, &params).await {
                tracing::debug!(upstream = %upstream.name, %error, "`{method}` failed");
            }
        });
    }
}

/// Returns the level that `params` of `logging/setLevel` name.
pub(super) fn level_of(params: &Bytes) -> Option<Level> {
    Level::parse(&params[json::member(params, "level")?])
}

/// Returns whether a URI is the other one, or of something inside that (2025-11-25, server/resources).
fn is_or_is_in(uri: &str, outer: &str) -> bool {
    let rest = uri.strip_prefix(outer);
    rest.is_some_and(|rest| {
        rest.is_empty() || outer.ends_with('/') || rest.starts_with(['/', '?', '#'])
    })
}
