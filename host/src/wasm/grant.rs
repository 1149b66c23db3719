//! What a plugin may do: each capability is asked for in its manifest and granted by the administrator.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something a plugin may do.
///
/// The first six are interfaces of the plugin API, checked before a component is compiled; the others
/// are acts on a call, checked when they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Write log lines.
    Log,
    /// Name the parent span and queue trace records.
    Trace,
    /// Record audit events.
    Audit,
    /// Count and measure.
    Metrics,
    /// Share memory between instances.
    State,
    /// Read the time.
    Clock,
    /// Read payloads.
    Read,
    /// Change payloads.
    Edit,
    /// Refuse calls and withhold results.
    Deny,
    /// Answer in place of the upstream.
    Answer,
}

impl Capability {
    /// All of them, in the order they are shown in.
    pub const ALL: [Self; 10] = [
        Self::Log,
        Self::Trace,
        Self::Audit,
        Self::Metrics,
        Self::State,
        Self::Clock,
        Self::Read,
        Self::Edit,
        Self::Deny,
        Self::Answer,
    ];

    /// Returns the capability of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.as_str() == name)
    }

    /// Returns whether it is an interface of the plugin API, and not an act on a call.
    pub fn is_interface(self) -> bool {
        match self {
            Self::Log | Self::Trace | Self::Audit | Self::Metrics | Self::State | Self::Clock => {
                true
            }
            Self::Read | Self::Edit | Self::Deny | Self::Answer => false,
        }
    }

    /// Returns its name in manifests and in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Trace => "trace",
            Self::Audit => "audit",
            Self::Metrics => "metrics",
            Self::State => "state",
            Self::Clock => "clock",
            Self::Read => "read",
            Self::Edit => "edit",
            Self::Deny => "deny",
            Self::Answer => "answer",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grants(u16);

impl Grants {
    /// Returns whether the set has a capability.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u16) != 0
    }

    /// Returns what is in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Walks the set.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |&capability| self.has(capability))
    }
}

impl FromIterator<Capability> for Grants {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(capabilities.into_iter().fold(0, |set, capability| set | 1 << capability as u16))
    }
}
