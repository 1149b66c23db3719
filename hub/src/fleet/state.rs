//! Whether a gateway is there.
//!
//! A gateway lives as long as its client: at night silence is normal, and one that said good-bye is not
//! lost. So the rules are: online while heartbeats come in time; idle after a good-bye, or a short silence;
//! offline after a long one.

use serde::Serialize;
use utoipa::ToSchema;

/// A heartbeat may come so much later than two periods.
const GRACE_MS: i64 = 30_000;

/// A gateway that vanished is offline after so long.
pub(crate) const OFFLINE_AFTER_MS: i64 = 10 * 60_000;

/// One that said good-bye is too, after a week.
pub(crate) const FAREWELL_MS: i64 = 7 * 86_400_000;

/// Whether a gateway is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
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

    /// Its place among the others, as statements have it.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::Online => 0,
            Self::Idle => 1,
            Self::Offline => 2,
            Self::Pending => 3,
        }
    }

    /// Returns the state with this place.
    pub(crate) fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }
}

impl Counts {
    /// Notes the number of those in one state.
    pub(crate) fn set(&mut self, state: State, count: i64) {
        match state {
            State::Online => self.online = count,
            State::Idle => self.idle = count,
            State::Offline => self.offline = count,
            State::Pending => self.pending = count,
        }
    }
}

/// When a gateway that sends heartbeats with this period counts as silent.
pub(crate) fn silent_ms(seen_ms: i64, period_s: u32) -> i64 {
    seen_ms + 2 * 1000 * i64::from(period_s) + GRACE_MS
}

/// The rules as SQL, over the columns of `presence` under `p`; the number of a [`State`].
///
/// `now` stands for the time at which they hold.
pub(crate) fn sql(now: &str) -> String {
    format!(
        "CASE WHEN p.seen_ms IS NULL THEN 3
              WHEN p.farewell = 0 AND p.silent_ms > {now} THEN 0
              WHEN p.farewell = 1 AND p.seen_ms > {now} - {FAREWELL_MS} THEN 1
              WHEN p.farewell = 0 AND p.seen_ms > {now} - {OFFLINE_AFTER_MS} THEN 1
              ELSE 2 END"
    )
}
