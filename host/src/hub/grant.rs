//! Tokens for people: the Hub's own authorization server, as RFC 6749 with PKCE has it.

use oauth2::{CsrfToken, PkceCodeChallenge, PkceCodeVerifier};
use reqwest::StatusCode;
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::Serializer;

use super::client::{Client, ClientError};
use super::credentials::Account;
use crate::auth::{Callback, Return, Secret};

/// The command line, as every Hub knows it. It has no secret.
const CLIENT_ID: &str = "ultra-cli";

/// What can be told from anything else: 256 random bits.
const STATE_BYTES: u32 = 32;

/// Longer words of others are cut.
const REASON_CHARS_MAX: usize = 200;

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    /// The Hub says no, and will say so again.
    #[error("the Hub refuses: {reason}")]
    Refused { reason: String },
    /// The Hub cannot be asked.
    #[error(transparent)]
    Hub(#[from] ClientError),
    /// Its answer is of no use.
    #[error("{0}")]
    Answer(String),
}

/// A pair of tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    access: Secret,
    refresh: Secret,
    lifetime_s: u64,
}

impl Tokens {
    pub(super) fn account(self, hub: String, now_s: u64) -> Account {
        Account {
            hub,
            access_token: self.access,
            refresh_token: self.refresh,
            expires_at: now_s.saturating_add(self.lifetime_s),
        }
    }
}

/// A sign-in that waits for somebody in a browser.
pub(crate) struct Login {
    /// Where to sign in.
    pub(crate) url: Url,
    callback: Callback,
    state: CsrfToken,
    verifier: PkceCodeVerifier,
}

impl Login {
    /// Makes the address where somebody signs in.
    pub(crate) fn new(client: &Client, callback: Callback) -> Self {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let state = CsrfToken::new_random_len(STATE_BYTES);
        let mut url = client.join("oauth/authorize");
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", CLIENT_ID)
            .append_pair("redirect_uri", &callback.redirect_uri)
            .append_pair("state", state.secret())
            .append_pair("code_challenge", challenge.as_str())
            .append_pair("code_challenge_method", "S256");
        Self { url, callback, state, verifier }
    }

    /// Waits until somebody has signed in, and gets the tokens.
    pub(crate) async fn finish(self, client: &Client) -> Result<Tokens, GrantError> {
        let redirect_uri = self.callback.redirect_uri.clone();
        let came_back = self.callback.wait(self.state.secret()).await;
        let code = check(client, came_back)?;
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", CLIENT_ID),
            ("code", &code),
            ("redirect_uri", &redirect_uri),
            ("code_verifier", self.verifier.secret()),
        ];
        tokens(client, &fields).await
    }
}

/// Gets the next pair of tokens. The refresh token is used up.
pub(super) async fn refresh(client: &Client, token: &Secret) -> Result<Tokens, GrantError> {
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT_ID),
        ("refresh_token", token.expose()),
    ];
    tokens(client, &fields).await
}

/// Ends a session (RFC 7009).
pub(crate) async fn revoke(client: &Client, token: &Secret) -> Result<(), GrantError> {
    let fields = [("client_id", CLIENT_ID), ("token", token.expose())];
    let (status, body) = client.form("oauth/revoke", form(&fields)).await?;
    match status.is_success() {
        true => Ok(()),
        false => Err(refusal(status, &body)),
    }
}

/// Returns the code, if it comes from the Hub that was asked.
fn check(client: &Client, came_back: Return) -> Result<String, GrantError> {
    // RFC 9207: whoever answers says who it is.
    if let Some(iss) = &came_back.iss
        && iss.trim_end_matches('/') != client.url().as_str().trim_end_matches('/')
    {
        let iss = quoted(iss);
        let text = format!("the Hub calls itself `{iss}`: say `ultra login --hub {iss}`");
        return Err(GrantError::Answer(text));
    }
    came_back.code.ok_or_else(|| {
        let said = came_back.error.unwrap_or_default();
        let reason = format!("{said} {}", came_back.error_description);
        GrantError::Refused { reason: quoted(reason.trim()) }
    })
}

async fn tokens(client: &Client, fields: &[(&str, &str)]) -> Result<Tokens, GrantError> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
        refresh_token: String,
        token_type: String,
        expires_in: u64,
    }

    let (status, body) = client.form("oauth/token", form(fields)).await?;
    if !status.is_success() {
        return Err(refusal(status, &body));
    }
    let useless = || GrantError::Answer("the Hub's answer is no pair of tokens".to_owned());
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| useless())?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err(useless());
    }
    Ok(Tokens {
        access: Secret::new(answer.access_token),
        refresh: Secret::new(answer.refresh_token),
        lifetime_s: answer.expires_in,
    })
}

/// Reads an error of RFC 6749, section 5.2.
fn refusal(status: StatusCode, body: &[u8]) -> GrantError {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
        #[serde(default)]
        error_description: String,
    }

    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    match answer.filter(|_| status.is_client_error()) {
        Some(answer) if is_final(&answer.error) => {
            let reason = format!("{} {}", answer.error, answer.error_description);
            GrantError::Refused { reason: quoted(reason.trim()) }
        }
        Some(answer) => GrantError::Answer(quoted(&answer.error)),
        None => GrantError::Hub(ClientError::Answer { status: status.as_u16() }),
    }
}

fn is_final(error: &str) -> bool {
    !matches!(error, "server_error" | "temporarily_unavailable" | "slow_down")
}

fn form(fields: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Returns the beginning of what others say, as plain text.
fn quoted(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn client() -> Client {
        Client::new("https://hub.example/base").unwrap()
    }

    #[tokio::test]
    async fn somebody_signs_in_at_an_address_that_carries_everything() {
        let callback = Callback::listen(None).await.unwrap();
        let redirect_uri = callback.redirect_uri.clone();

        let login = Login::new(&client(), callback);

        let query: HashMap<_, _> = login.url.query_pairs().into_owned().collect();
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&login.verifier);
        assert_eq!(login.url.path(), "/base/oauth/authorize");
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["client_id"], "ultra-cli");
        assert_eq!(query["redirect_uri"], redirect_uri);
        assert_eq!(query["code_challenge_method"], "S256");
        assert_eq!(query["code_challenge"], challenge.as_str());
        assert!(query["state"].len() >= 43);
    }

    #[test]
    fn answers_of_somebody_else_are_not_taken() {
        let with = |iss: Option<&str>| Return {
            code: Some("code".to_owned()),
            iss: iss.map(str::to_owned),
            ..Return::default()
        };
        let denied = Return {
            error: Some("access_denied".to_owned()),
            error_description: "not\u{1b}[1m you".to_owned(),
            ..Return::default()
        };

        for iss in [None, Some("https://hub.example/base"), Some("https://hub.example/base/")] {
            assert!(check(&client(), with(iss)).is_ok(), "{iss:?}");
        }
        assert!(check(&client(), with(Some("https://evil.example/base"))).is_err());
        let text = check(&client(), denied).unwrap_err().to_string();
        assert_eq!(text, "the Hub refuses: access_denied not[1m you");
    }

    #[test]
    fn refusals_are_told_from_troubles() {
        let of = |status: u16, body: &str| {
            refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };

        let invalid = r#"{"error":"invalid_grant","error_description":"used"}"#;
        let later = r#"{"error":"temporarily_unavailable"}"#;
        assert!(matches!(of(400, invalid), GrantError::Refused { .. }));
        assert!(matches!(of(400, later), GrantError::Answer(_)));
        assert!(matches!(of(503, invalid), GrantError::Hub(_)));
        assert!(matches!(of(400, "<html>"), GrantError::Hub(_)));
    }
}
