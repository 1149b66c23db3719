//! The Hub as an authorization server for its own command line: codes with PKCE, for a loopback address.
//!
//! RFC 6749 with RFC 7636 and RFC 8252. One client is known, and it has no secret.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use url::{Host, Url};

use super::People;
use super::address::Email;
use super::admin_log::Act;
use super::authority::By;
use super::ticket::Ticket;
use super::tokens::Issued;
use crate::db::{DbError, values};
use crate::error::ApiError;
use crate::id::UserId;
use crate::secret::equal;

/// The command line.
pub(crate) const CLIENT_ID: &str = "ultra-cli";

/// The client exchanges it at once.
const VALID_MS: i64 = 60_000;

/// A loopback address with a path, and what a client wants back.
const REDIRECT_BYTES_MAX: usize = 512;
const STATE_BYTES_MAX: usize = 1024;

/// SHA-256 in base 64: RFC 7636, section 4.2.
const CHALLENGE_CHARS: usize = 43;

/// RFC 7636, section 4.1.
const VERIFIER_CHARS: std::ops::RangeInclusive<usize> = 43..=128;

/// What a client is told: RFC 6749, sections 4.1.2.1 and 5.2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OAuthError {
    #[error("{0}")]
    InvalidRequest(&'static str),
    #[error("the client is not known here")]
    InvalidClient,
    #[error("{0}")]
    InvalidGrant(&'static str),
    #[error("only `authorization_code` and `refresh_token` are known")]
    UnsupportedGrantType,
    #[error("only `code` is known")]
    UnsupportedResponseType,
    #[error("refused")]
    AccessDenied,
    #[error("too often")]
    TooOften { retry_s: u64 },
    #[error(transparent)]
    Database(#[from] DbError),
}

impl OAuthError {
    /// The word that RFC 6749 has for it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant(_) => "invalid_grant",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::AccessDenied => "access_denied",
            Self::TooOften { .. } | Self::Database(DbError::Unavailable { .. }) => {
                "temporarily_unavailable"
            }
            Self::Database(_) => "server_error",
        }
    }
}

/// What a client asks for, as it stands in the address or the form.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) response_type: Option<&'a str>,
    pub(crate) client_id: Option<&'a str>,
    pub(crate) redirect_uri: Option<&'a str>,
    pub(crate) state: Option<&'a str>,
    pub(crate) code_challenge: Option<&'a str>,
    pub(crate) code_challenge_method: Option<&'a str>,
}

/// A request that makes sense.
#[derive(Debug, Clone)]
pub(crate) struct Authorization {
    pub(crate) redirect: Redirect,
    pub(crate) challenge: String,
}

/// Where an answer goes. Checked before anything else: what is wrong with the rest is said there.
#[derive(Debug, Clone)]
pub(crate) struct Redirect {
    pub(crate) url: Url,
    pub(crate) state: Option<String>,
}

impl Redirect {
    /// Reads where the answer goes.
    ///
    /// # Errors
    ///
    /// [`ApiError::Invalid`], for the person: nothing is sent to an address that is not the client's.
    pub(crate) fn parse(asked: &Asked<'_>) -> Result<Self, ApiError> {
        let invalid = |text: &str| ApiError::Invalid(text.to_owned());
        if asked.client_id != Some(CLIENT_ID) {
            return Err(invalid("this program is not known here; `client_id` is not `ultra-cli`"));
        }
        let text = asked.redirect_uri.filter(|text| text.len() <= REDIRECT_BYTES_MAX);
        let url = text.and_then(|text| text.parse::<Url>().ok()).filter(is_loopback);
        let url = url.ok_or_else(|| {
            invalid("`redirect_uri` is not `http://127.0.0.1:<port>/…` or `http://[::1]:<port>/…`")
        })?;
        if asked.state.is_some_and(|state| state.len() > STATE_BYTES_MAX) {
            return Err(invalid("`state` has more than 1,024 bytes"));
        }
        Ok(Self { url, state: asked.state.map(str::to_owned) })
    }

    /// Returns the address with an answer in it.
    pub(crate) fn with(&self, answer: &[(&str, &str)], issuer: &str) -> Url {
        let mut url = self.url.clone();
        let mut pairs = url.query_pairs_mut();
        pairs.extend_pairs(answer);
        if let Some(state) = &self.state {
            pairs.append_pair("state", state);
        }
        // RFC 9207.
        pairs.append_pair("iss", issuer);
        drop(pairs);
        url
    }
}

/// The literal address, not a name (RFC 8252, section 8.3), and whatever port is free.
fn is_loopback(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(Host::Ipv4(address)) => address == std::net::Ipv4Addr::LOCALHOST,
        Some(Host::Ipv6(address)) => address == std::net::Ipv6Addr::LOCALHOST,
        Some(Host::Domain(_)) | None => false,
    };
    let is_plain =
        url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    url.scheme() == "http" && is_here && is_plain && url.port().is_some()
}

impl Authorization {
    /// Reads the rest of a request; an error goes to the client.
    pub(crate) fn parse(asked: &Asked<'_>, redirect: &Redirect) -> Result<Self, OAuthError> {
        let challenge = asked.code_challenge.filter(|challenge| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            challenge.len() == CHALLENGE_CHARS && challenge.bytes().all(plain)
        });
        match (asked.response_type, asked.code_challenge_method, challenge) {
            (Some("code"), Some("S256"), Some(challenge)) => {
                Ok(Self { redirect: redirect.clone(), challenge: challenge.to_owned() })
            }
            (Some("code"), _, _) => {
                let text = "`code_challenge` with `code_challenge_method=S256` is needed";
                Err(OAuthError::InvalidRequest(text))
            }
            (Some(_), _, _) => Err(OAuthError::UnsupportedResponseType),
            (None, _, _) => Err(OAuthError::InvalidRequest("`response_type` is missing")),
        }
    }
}

impl People {
    /// Lets the command line act for somebody; returns the code that it exchanges.
    pub(crate) async fn grant(
        &self,
        by: &By,
        authorization: &Authorization,
    ) -> Result<Ticket, ApiError> {
        let (ticket, now_ms) = (Ticket::new(), self.now_ms());
        let mut transaction = self.database.begin().await?;
        let sql = "INSERT INTO grants (hash, user_id, challenge, redirect_uri, created_ms, expires_ms, family)
             VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let family: i64 = rand::random();
        let row = values![
            ticket.hash(),
            by.account.id,
            &authorization.challenge,
            authorization.redirect.url.as_str(),
            now_ms,
            now_ms + VALID_MS,
            family,
        ];
        transaction.execute(sql, &row).await?;
        let act = Act::new("auth.success", &by.account.email).of(&by.account.id.to_string());
        let act = act.with("method", "command_line").by(&by.account).from(by.address);
        self.note_everywhere(&mut *transaction, &Email::parse(&by.account.email)?, act).await?;
        transaction.commit().await?;
        Ok(ticket)
    }

    /// Exchanges a code for tokens, once. Whoever shows it again, has it from somewhere: the tokens die.
    pub(crate) async fn exchange(
        &self,
        code: &str,
        redirect_uri: &str,
        verifier: &str,
        address: IpAddr,
    ) -> Result<Issued, OAuthError> {
        let unknown = || OAuthError::InvalidGrant("the code is not valid, or not any more");
        let ticket = Ticket::parse(code).ok_or_else(unknown)?;
        let now_ms = self.now_ms();
        let mut transaction = self.database.begin().await?;
        let sql =
            "UPDATE grants SET used_ms = $1 WHERE hash = $2 AND used_ms IS NULL AND expires_ms > $1
             RETURNING user_id, challenge, redirect_uri, family";
        let Some(row) = transaction.row(sql, &values![now_ms, ticket.hash()]).await? else {
            let sql = "SELECT family FROM grants WHERE hash = $1 AND used_ms IS NOT NULL";
            if let Some(row) = transaction.row(sql, &values![ticket.hash()]).await? {
                self.revoke_family(&mut *transaction, row.get(0)?, Some(address)).await?;
                transaction.commit().await?;
            }
            return Err(unknown());
        };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        let holds =
            VERIFIER_CHARS.contains(&verifier.len()) && equal(&row.get::<String>(1)?, &challenge);
        // Compared as an address: `http://127.0.0.1:1` and `http://127.0.0.1:1/` are the same.
        let is_same = redirect_uri
            .parse::<Url>()
            .is_ok_and(|url| row.get(2).is_ok_and(|ours: String| ours == url.as_str()));
        if !holds || !is_same {
            // It stays used: whoever tries it knows the code and not the rest.
            transaction.commit().await?;
            return Err(OAuthError::InvalidGrant(
                "`code_verifier` or `redirect_uri` is not that of the code",
            ));
        }
        let user: UserId = row.get(0)?;
        let sql = "SELECT 1 FROM users WHERE id = $1 AND disabled_ms IS NULL";
        if transaction.row(sql, &values![user]).await?.is_none() {
            return Err(unknown());
        }
        let issued = self.issue(&mut *transaction, user, row.get(3)?, None).await?;
        transaction.commit().await?;
        Ok(issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(redirect_uri: &str) -> Asked<'_> {
        Asked { client_id: Some(CLIENT_ID), redirect_uri: Some(redirect_uri), ..Asked::default() }
    }

    #[test]
    fn answers_go_to_loopback_addresses_only() {
        for good in [
            "http://127.0.0.1:19284/callback",
            "http://127.0.0.1:1",
            "http://[::1]:4321/",
            "http://127.0.0.1:4321/x?y=z",
        ] {
            assert!(Redirect::parse(&asked(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            "http://localhost:19284/",
            "https://127.0.0.1:19284/",
            "http://127.0.0.1/",
            "http://127.0.0.2:1/",
            "http://127.0.0.1.evil.test:1/",
            "http://127.0.0.1:1@evil.test/",
            "http://user@127.0.0.1:1/",
            "http://evil.test:19284/",
            "http://0.0.0.0:1/",
            "http://[::]:1/",
            "http://127.0.0.1:1/#fragment",
            "//127.0.0.1:1/",
            "javascript:alert(1)",
        ] {
            assert!(Redirect::parse(&asked(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_code_with_a_challenge_is_given() {
        let challenge = "a".repeat(CHALLENGE_CHARS);
        let good = Asked {
            response_type: Some("code"),
            code_challenge: Some(&challenge),
            code_challenge_method: Some("S256"),
            ..asked("http://127.0.0.1:1/")
        };
        let word = |asked: Asked<'_>| {
            let redirect = Redirect::parse(&asked).unwrap();
            Authorization::parse(&asked, &redirect).map_err(|error| error.word()).err()
        };

        assert_eq!(word(good), None);
        assert_eq!(
            word(Asked { response_type: Some("token"), ..good }),
            Some("unsupported_response_type")
        );
        for bad in [
            Asked { response_type: None, ..good },
            Asked { code_challenge: None, ..good },
            Asked { code_challenge: Some("short"), ..good },
            Asked { code_challenge_method: Some("plain"), ..good },
            Asked { code_challenge_method: None, ..good },
        ] {
            assert_eq!(word(bad), Some("invalid_request"), "{bad:?}");
        }
    }
}
