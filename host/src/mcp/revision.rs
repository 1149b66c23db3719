//! The dated revisions of the protocol, and the era each belongs to.

/// How a peer talks: with a handshake and sessions, or with everything in each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// Up to 2025-11-25: `initialize`, sessions, requests from server to client.
    Legacy,
    /// From 2026-07-28: stateless, `server/discover`, `input_required`.
    Modern,
}

/// A dated revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revision {
    /// The first one.
    V2024_11_05,
    /// The only one with JSON-RPC batches.
    V2025_03_26,
    /// Brought elicitation.
    V2025_06_18,
    /// Brought tasks.
    V2025_11_25,
    /// The first stateless one.
    V2026_07_28,
}

impl Revision {
    /// The newest revision with a handshake: what a client that asks for another one is offered.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;

    /// Returns the revision of that date.
    pub fn parse(date: &str) -> Option<Self> {
        match date {
            "2024-11-05" => Some(Self::V2024_11_05),
            "2025-03-26" => Some(Self::V2025_03_26),
            "2025-06-18" => Some(Self::V2025_06_18),
            "2025-11-25" => Some(Self::V2025_11_25),
            "2026-07-28" => Some(Self::V2026_07_28),
            _ => None,
        }
    }

    /// Returns its date.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// Returns its era.
    pub fn era(self) -> Era {
        if self < Self::V2026_07_28 { Era::Legacy } else { Era::Modern }
    }

    /// Returns the revision to answer an `initialize` with: the one asked for if we speak it with a
    /// handshake, else our newest such (2025-11-25, basic/lifecycle, "Version Negotiation").
    pub fn negotiate(asked: &str) -> Self {
        Self::parse(asked)
            .filter(|revision| revision.era() == Era::Legacy)
            .unwrap_or(Self::LATEST_LEGACY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_revision_it_asks_for_or_our_newest_with_a_handshake() {
        for (asked, answered) in [
            ("2024-11-05", "2024-11-05"),
            ("2025-11-25", "2025-11-25"),
            ("2026-07-28", "2025-11-25"),
            ("1999-01-01", "2025-11-25"),
        ] {
            assert_eq!(Revision::negotiate(asked).as_str(), answered);
        }
    }
}
