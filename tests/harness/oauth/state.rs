//! What the server knows and was asked.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Behaviour;

/// What a server was asked, for a test to look at.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Registrations.
    pub registrations: usize,
    /// Pages opened to sign in, each with its query.
    pub sign_ins: Vec<Asked>,
    /// Redeemed codes, each with the form and the method of authentication.
    pub redeemed: Vec<Asked>,
    /// Refreshes, the same.
    pub refreshes: Vec<Asked>,
    /// Paths below `/.well-known/` that were asked for.
    pub well_known: Vec<String>,
    /// Calls that were answered with 200.
    pub calls: usize,
    /// What a client did that it must not.
    pub faults: Vec<String>,
}

/// The parameters of one request.
#[derive(Debug, Clone, Default)]
pub struct Asked(pub HashMap<String, String>);

impl Asked {
    /// Returns a parameter; empty if it is missing.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// An access token.
pub(super) struct Access {
    pub(super) scopes: String,
    pub(super) end: Option<Instant>,
}

pub(super) struct State {
    pub(super) origin: String,
    pub(super) behaviour: Behaviour,
    pub(super) seen: Seen,
    /// Clients with their secrets.
    pub(super) clients: HashMap<String, Option<String>>,
    /// Codes with the request they answer.
    pub(super) codes: HashMap<String, Asked>,
    pub(super) access: HashMap<String, Access>,
    /// Refresh tokens with their scopes.
    pub(super) refresh: HashMap<String, String>,
    count: usize,
}

impl State {
    pub(super) fn new(origin: String, behaviour: Behaviour) -> Self {
        Self {
            origin,
            behaviour,
            seen: Seen::default(),
            clients: HashMap::new(),
            codes: HashMap::new(),
            access: HashMap::new(),
            refresh: HashMap::new(),
            count: 0,
        }
    }

    pub(super) fn issuer(&self) -> String {
        format!("{}{}", self.origin, self.behaviour.issuer_path)
    }

    /// Returns a name that no other thing of this server has.
    pub(super) fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}-{}", self.count)
    }

    pub(super) fn fault(&mut self, what: impl Into<String>) {
        self.seen.faults.push(what.into());
    }

    /// Gives out an access token.
    pub(super) fn issue(&mut self, scopes: &str) -> String {
        let token = self.name("access");
        let lifetime = self.behaviour.lifetime_seconds.map(Duration::from_secs);
        let end = lifetime.map(|lifetime| Instant::now() + lifetime);
        self.access.insert(token.clone(), Access { scopes: scopes.to_owned(), end });
        token
    }

    /// Returns the scopes of a token that holds.
    pub(super) fn scopes_of(&self, token: &str) -> Option<&str> {
        let access = self.access.get(token)?;
        access.end.is_none_or(|end| Instant::now() < end).then_some(access.scopes.as_str())
    }
}
