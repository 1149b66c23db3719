//! What a user granted for one server: the tokens, whose they are, and how long they hold.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use url::Url;

use super::register::Identity;
use super::secret::{self, Secret};
use super::token::Tokens;

/// A token is renewed when this much of its life is left, a fifth of it if that is less: a call that
/// takes a moment to get there still finds it valid.
const MARGIN_SECONDS: u64 = 60;

/// A server that refuses a token this young does not refuse it for its age.
const YOUNG_SECONDS: u64 = 30;

/// The grant for one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Grant {
    /// URL of the server, the only place the access token is sent to.
    pub(super) server: String,
    /// Its name towards the authorization server.
    pub(super) resource: String,
    /// The authorization server, the only place the refresh token is sent to.
    pub(super) issuer: String,
    pub(super) token_endpoint: Url,
    /// Who we are there.
    pub(super) identity: Identity,
    #[serde(with = "secret::sealed")]
    pub(super) access_token: Secret,
    #[serde(with = "secret::sealed_option")]
    pub(super) refresh_token: Option<Secret>,
    /// What was asked for.
    pub(super) requested: Vec<String>,
    /// What was granted.
    pub(super) granted: Vec<String>,
    /// When somebody signed in, in seconds since 1970.
    pub(super) signed_in_at: u64,
    /// The access token came by way of a refresh token.
    pub(super) is_refreshed: bool,
    /// When the access token was given out.
    pub(super) issued_at: u64,
    /// When it ends; nothing if nobody said so.
    pub(super) expires_at: Option<u64>,
}

/// What to do about a token that its server refuses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Get another one without asking anybody.
    Refresh,
    /// Ask the user.
    SignIn,
    /// Neither would help: it was given out just now.
    None,
}

impl Grant {
    /// Returns whether the access token may still be used.
    pub(super) fn is_valid(&self, now: u64) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Returns whether it is time for the next one.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let Some(end) = self.expires_at else { return false };
        let margin = MARGIN_SECONDS.min(end.saturating_sub(self.issued_at) / 5);
        now >= end.saturating_sub(margin)
    }

    /// Returns what may help when the server answers 401 to this token.
    pub(super) fn remedy(&self, now: u64) -> Remedy {
        let is_young = |at: u64| now.saturating_sub(at) < YOUNG_SECONDS;
        if !self.is_valid(now) || !is_young(self.issued_at) {
            if self.refresh_token.is_some() { Remedy::Refresh } else { Remedy::SignIn }
        } else if self.refresh_token.is_some() && !self.is_refreshed {
            Remedy::Refresh
        } else if is_young(self.signed_in_at) {
            Remedy::None
        } else {
            Remedy::SignIn
        }
    }

    /// Returns the grant with new tokens; what they do not say stays.
    pub(super) fn renewed(&self, tokens: Tokens, now: u64) -> Self {
        let mut next = self.clone();
        next.access_token = tokens.access;
        next.refresh_token = tokens.refresh.or(next.refresh_token);
        next.granted = tokens.scopes.unwrap_or(next.granted);
        next.is_refreshed = true;
        next.issued_at = now;
        next.expires_at = tokens.lifetime.map(|lifetime| now.saturating_add(lifetime.as_secs()));
        next
    }
}

/// Returns the time in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in crate::auth) fn grant(server: &str) -> Grant {
        Grant {
            server: server.into(),
            resource: server.into(),
            issuer: "https://as.test".into(),
            token_endpoint: Url::parse("https://as.test/token").unwrap(),
            identity: Identity::public("client"),
            access_token: Secret::new("access".into()),
            refresh_token: Some(Secret::new("refresh".into())),
            requested: vec!["a".into()],
            granted: vec!["a".into()],
            signed_in_at: 1_000,
            is_refreshed: false,
            issued_at: 1_000,
            expires_at: Some(4_600),
        }
    }

    #[test]
    fn token_is_renewed_a_minute_before_its_end_or_a_fifth_of_its_life() {
        let hour = grant("x");
        let ten = Grant { expires_at: Some(1_010), ..grant("x") };
        let endless = Grant { expires_at: None, ..grant("x") };

        assert_eq!([4_539, 4_540].map(|now| hour.is_due(now)), [false, true]);
        assert_eq!([4_599, 4_600].map(|now| hour.is_valid(now)), [true, false]);
        assert_eq!([1_007, 1_008].map(|now| ten.is_due(now)), [false, true]);
        assert!(!endless.is_due(u64::MAX) && endless.is_valid(u64::MAX));
    }

    #[test]
    fn refused_token_is_refreshed_once_before_the_user_is_asked() {
        let fresh = grant("x");
        let refreshed = Grant { is_refreshed: true, issued_at: 2_000, ..grant("x") };
        let just_refreshed = Grant { is_refreshed: true, ..grant("x") };
        let without = Grant { refresh_token: None, ..grant("x") };

        for (grant, now, remedy) in [
            (&fresh, 1_001, Remedy::Refresh),
            (&fresh, 2_000, Remedy::Refresh),
            (&fresh, 9_000, Remedy::Refresh),
            (&refreshed, 2_001, Remedy::SignIn),
            (&refreshed, 2_100, Remedy::Refresh),
            (&just_refreshed, 1_001, Remedy::None),
            (&without, 1_001, Remedy::None),
            (&without, 1_100, Remedy::SignIn),
            (&without, 9_000, Remedy::SignIn),
        ] {
            assert_eq!(grant.remedy(now), remedy, "{grant:?} at {now}");
        }
    }

    #[test]
    fn refresh_keeps_what_the_answer_does_not_name() {
        let tokens = Tokens {
            access: Secret::new("next".into()),
            refresh: None,
            lifetime: Some(Duration::from_secs(60)),
            scopes: None,
        };

        let next = grant("x").renewed(tokens, 5_000);

        assert_eq!(next.access_token.expose(), "next");
        assert_eq!(next.refresh_token.unwrap().expose(), "refresh");
        assert_eq!(
            (next.signed_in_at, next.issued_at, next.expires_at),
            (1_000, 5_000, Some(5_060))
        );
        assert_eq!(next.granted, ["a"]);
    }
}
