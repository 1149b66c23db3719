//! Whether a gateway is there.
//!
//! A gateway lives as long as its client: at night silence is normal, and one that said good-bye is not
//! lost. So the rules are: online while heartbeats come in time; idle after a good-bye, or a short silence;
//! offline after a long one.

use serde::Serialize;

/// A heartbeat may come so much later than two periods.
const GRACE_MS: i64 = 30_000;

/// A gateway that vanished is offline after so long.
pub(crate) const OFFLINE_AFTER_MS: i64 = 10 * 60_000;

/// Whether a gateway is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Heartbeats come in time.
    Online,
    /// It said good-bye, or has been silent for a short time.
    Idle,
    /// It vanished.
    Offline,
    /// Linked, and never heard of.
    Pending,
}

/// How many gateways are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) online: i64,
    pub(crate) idle: i64,
    pub(crate) offline: i64,
    pub(crate) pending: i64,
}

impl State {
    pub(crate) const ALL: [Self; 4] = [Self::Online, Self::Idle, Self::Offline, Self::Pending];

    /// As it stands in addresses and in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Idle => "idle",
            Self::Offline => "offline",
            Self::Pending => "pending",
        }
    }

    /// Returns the state with this name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// When a gateway that sends heartbeats with this period counts as silent.
pub(crate) fn silent_ms(seen_ms: i64, period_s: u32) -> i64 {
    seen_ms + 2 * 1000 * i64::from(period_s) + GRACE_MS
}
