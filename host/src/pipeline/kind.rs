//! Kinds of messages, and which of them a stage sees.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a message is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// A request of the client that something behind the gateway answers, or a list of such things.
    Calls,
    /// What the client settles with the gateway itself: `initialize`, `server/discover`, `ping`,
    /// `subscriptions/listen`.
    Session,
    /// A request of an upstream that the client answers: sampling, elicitation, roots.
    ServerRequests,
    /// What nobody answers, in either direction.
    Notifications,
}

impl MessageKind {
    /// All of them, in the order they are shown in.
    pub const ALL: [Self; 4] =
        [Self::Calls, Self::Session, Self::ServerRequests, Self::Notifications];

    /// Returns the kind of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Returns its name in manifests and configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Session => "session",
            Self::ServerRequests => "server_requests",
            Self::Notifications => "notifications",
        }
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds of messages a stage sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sees(u8);

impl Sees {
    /// Calls alone.
    pub const CALLS: Self = Self(1 << MessageKind::Calls as u8);

    /// Returns whether these are among them.
    pub fn has(self, kind: MessageKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Returns the kinds of either.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the kinds, in order.
    pub fn kinds(self) -> impl Iterator<Item = MessageKind> {
        MessageKind::ALL.into_iter().filter(move |kind| self.has(*kind))
    }
}

impl FromIterator<MessageKind> for Sees {
    fn from_iter<T: IntoIterator<Item = MessageKind>>(kinds: T) -> Self {
        Self(kinds.into_iter().fold(0, |all, kind| all | 1 << kind as u8))
    }
}
