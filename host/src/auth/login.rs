//! One sign-in: from an authorization server's metadata to tokens, by way of the user's browser.
//!
//! OAuth 2.1: authorization code with PKCE S256, `state` and `iss` (RFC 9207), `resource` (RFC 8707).

use oauth2::basic::BasicClient;
use oauth2::{
    AuthUrl, ClientId, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
};
use url::Url;

use super::AuthError;
use super::callback::{Callback, Return};
use super::discovery::AuthorizationServer;
use super::error::quoted;
use super::fetch::{FetchError, Fetcher, shown};
use super::grant::{self, Grant};
use super::register::Identity;
use super::token::{TokenEndpoint, TokenError};

/// What can be told from anything else: 256 random bits.
const STATE_BYTES: u32 = 32;

/// A sign-in that waits for the user.
pub(super) struct Login {
    /// Where the user signs in.
    pub(super) url: Url,
    callback: Callback,
    state: CsrfToken,
    verifier: PkceCodeVerifier,
    purpose: Purpose,
}

/// What a sign-in is for.
pub(super) struct Purpose {
    /// URL of the server.
    pub(super) server: String,
    pub(super) resource: String,
    pub(super) authorization_server: AuthorizationServer,
    pub(super) identity: Identity,
    pub(super) scopes: Vec<String>,
}

/// Why a sign-in came to nothing.
pub(super) enum LoginError {
    /// The authorization server has forgotten who we are.
    UnknownClient(AuthError),
    /// Anything else.
    Other(AuthError),
}

impl Login {
    /// Makes the URL where the user signs in.
    pub(super) fn new(
        fetcher: &Fetcher,
        callback: Callback,
        purpose: Purpose,
    ) -> Result<Self, AuthError> {
        let server = &purpose.authorization_server;
        // A browser follows it, and other schemes can start anything.
        fetcher.reach.check(&server.authorization_endpoint).map_err(|reason| {
            FetchError::Refused { url: shown(&server.authorization_endpoint), reason }
        })?;
        let redirect_uri =
            RedirectUrl::new(callback.redirect_uri.clone()).expect("made of an address and a port");
        let client = BasicClient::new(ClientId::new(purpose.identity.id.clone()))
            .set_auth_uri(AuthUrl::from_url(server.authorization_endpoint.clone()))
            .set_redirect_uri(redirect_uri);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut request = client
            .authorize_url(|| CsrfToken::new_random_len(STATE_BYTES))
            .set_pkce_challenge(challenge)
            .add_scopes(purpose.scopes.iter().cloned().map(Scope::new))
            .add_extra_param("resource", &purpose.resource);
        if purpose.scopes.iter().any(|scope| scope == OFFLINE_ACCESS) {
            // OpenID Connect Core 1.0, section 11: without it the scope is ignored.
            request = request.add_extra_param("prompt", "consent");
        }
        let (url, state) = request.url();
        Ok(Self { url, callback, state, verifier, purpose })
    }

    /// Returns the authorization server, and who we are there.
    pub(super) fn client(&self) -> (String, String) {
        let Purpose { authorization_server, identity, .. } = &self.purpose;
        (authorization_server.issuer.clone(), identity.id.clone())
    }

    /// Waits for the user, and gets the tokens.
    pub(super) async fn finish(self, fetcher: &Fetcher) -> Result<Grant, LoginError> {
        let Self { callback, state, verifier, purpose, .. } = self;
        let redirect_uri = callback.redirect_uri.clone();
        let came_back = callback.wait(state.secret()).await;
        let server = &purpose.authorization_server;
        let code = check(server, came_back).map_err(LoginError::Other)?;
        let endpoint = TokenEndpoint {
            url: &server.token_endpoint,
            identity: &purpose.identity,
            resource: &purpose.resource,
        };
        let tokens = endpoint.redeem(fetcher, code, verifier, &redirect_uri).await;
        let tokens = tokens.map_err(|error| LoginError::of(error, &server.issuer))?;
        let now = grant::now();
        Ok(Grant {
            server: purpose.server,
            resource: purpose.resource,
            issuer: server.issuer.clone(),
            token_endpoint: server.token_endpoint.clone(),
            identity: purpose.identity,
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            // RFC 6749, section 5.1: no scope in the answer means all that were asked for.
            granted: tokens.scopes.unwrap_or_else(|| purpose.scopes.clone()),
            requested: purpose.scopes,
            signed_in_at: now,
            is_refreshed: false,
            issued_at: now,
            expires_at: tokens.lifetime.map(|lifetime| now.saturating_add(lifetime.as_secs())),
        })
    }
}

impl LoginError {
    fn of(error: TokenError, issuer: &str) -> Self {
        match error.is_unknown_client() {
            true => Self::UnknownClient(error.at(issuer)),
            false => Self::Other(error.at(issuer)),
        }
    }
}

/// Returns the code, if it comes from the authorization server that was asked.
fn check(server: &AuthorizationServer, came_back: Return) -> Result<String, AuthError> {
    let issuer = server.issuer.clone();
    let is_promised = server.authorization_response_iss_parameter_supported;
    let reason = match &came_back.iss {
        Some(iss) if *iss != issuer => "it names another issuer",
        None if is_promised => "it does not name the issuer",
        Some(_) | None => {
            return match (came_back.code, came_back.error) {
                (Some(code), None) => Ok(code),
                (_, error) => {
                    let said =
                        format!("{} {}", error.unwrap_or_default(), came_back.error_description);
                    Err(AuthError::Denied { issuer, reason: quoted(said.trim()) })
                }
            };
        }
    };
    Err(AuthError::Untrusted { issuer, reason })
}

/// The scope of OpenID Connect Core 1.0, section 11, for refresh tokens.
const OFFLINE_ACCESS: &str = "offline_access";

/// Returns the scopes to ask for: all that are needed now, or else all there are.
///
/// `needed` is what the server's challenge names, `known` what its metadata does; `configured` is what
/// the user asks for in place of all. What was `requested` before stays.
pub(super) fn scopes(
    needed: Option<&[String]>,
    configured: &[String],
    known: Option<&[String]>,
    requested: &[String],
    server: &AuthorizationServer,
) -> Vec<String> {
    let mut scopes = requested.to_vec();
    let chosen = match needed {
        Some(needed) => [configured, needed].concat(),
        None if !configured.is_empty() => configured.to_vec(),
        None => known.unwrap_or_default().to_vec(),
    };
    let offers_refresh = server
        .scopes_supported
        .as_ref()
        .is_some_and(|scopes| scopes.iter().any(|scope| scope == OFFLINE_ACCESS));
    let offline = (offers_refresh && !chosen.is_empty()).then(|| OFFLINE_ACCESS.to_owned());
    for scope in chosen.into_iter().chain(offline) {
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    scopes
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn server(extra: Value) -> AuthorizationServer {
        let mut metadata = json!({
            "issuer": "https://as.test/",
            "authorization_endpoint": "https://as.test/authorize?tenant=1",
            "token_endpoint": "https://as.test/token",
        });
        metadata.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(metadata).unwrap()
    }

    fn came_back(iss: Option<&str>) -> Return {
        Return { code: Some("code".into()), iss: iss.map(str::to_owned), ..Return::default() }
    }

    fn strings(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(|&scope| scope.to_owned()).collect()
    }

    #[test]
    fn issuer_is_compared_byte_for_byte_before_anything_else() {
        let promising = server(json!({"authorization_response_iss_parameter_supported": true}));
        let silent = server(json!({}));

        for (server, iss, is_fine) in [
            (&promising, Some("https://as.test/"), true),
            (&promising, Some("https://as.test"), false),
            (&promising, Some("https://AS.test/"), false),
            (&promising, None, false),
            (&silent, Some("https://as.test/"), true),
            (&silent, Some("https://evil.test/"), false),
            (&silent, None, true),
        ] {
            assert_eq!(check(server, came_back(iss)).is_ok(), is_fine, "{iss:?}");
        }
        let error = Return {
            error: Some("access_denied".into()),
            error_description: "by\u{1b}[31m you".into(),
            ..Return::default()
        };
        let untrusted = check(&promising, Return { error: Some("x".into()), ..Return::default() });
        assert!(matches!(untrusted, Err(AuthError::Untrusted { .. })));
        assert_eq!(
            check(&silent, error).unwrap_err().to_string(),
            "`https://as.test/` refuses: access_denied by[31m you"
        );
    }

    #[test]
    fn scopes_are_those_needed_now_or_else_all_there_are() {
        let plain = server(json!({}));
        let offline = server(json!({"scopes_supported": ["a", "offline_access"]}));
        let none: &[String] = &[];
        let (a, b, ab) = (&strings(&["a"])[..], &strings(&["b"])[..], &strings(&["a", "b"])[..]);

        for (expected, needed, configured, known, requested, server) in [
            (&["a"][..], Some(a), none, Some(ab), none, &plain),
            (&["a", "b"], None, none, Some(ab), none, &plain),
            (&["b"], None, b, Some(ab), none, &plain),
            (&["b", "a"], Some(a), b, None, none, &plain),
            (&["a", "b"], Some(b), none, Some(ab), a, &plain),
            (&[], None, none, None, none, &plain),
            (&["a", "offline_access"], Some(a), none, None, none, &offline),
            (&[], None, none, None, none, &offline),
        ] {
            assert_eq!(scopes(needed, configured, known, requested, server), expected);
        }
    }

    #[tokio::test]
    async fn user_signs_in_at_a_url_that_carries_everything() {
        let http = super::super::fetch::Http::new();
        let fetcher = http.around(&Url::parse("http://127.0.0.1:1/").unwrap()).await;
        let purpose = |extra| Purpose {
            server: "https://mcp.test/mcp".into(),
            resource: "https://mcp.test/mcp".into(),
            authorization_server: server(extra),
            identity: Identity::public("client 1"),
            scopes: strings(&["a", "offline_access"]),
        };
        let callback = Callback::listen(None).await.unwrap();
        let redirect_uri = callback.redirect_uri.clone();

        let login = Login::new(&fetcher, callback, purpose(json!({}))).unwrap();

        let query: std::collections::HashMap<_, _> = login.url.query_pairs().collect();
        let of = |name: &str| query.get(name).map(|value| value.to_string()).unwrap_or_default();
        assert_eq!(of("tenant"), "1");
        assert_eq!(of("client_id"), "client 1");
        assert_eq!(of("response_type"), "code");
        assert_eq!(of("redirect_uri"), redirect_uri);
        assert_eq!(of("resource"), "https://mcp.test/mcp");
        assert_eq!(of("scope"), "a offline_access");
        assert_eq!(of("prompt"), "consent");
        assert_eq!(of("code_challenge_method"), "S256");
        assert_eq!(
            of("code_challenge"),
            PkceCodeChallenge::from_code_verifier_sha256(&login.verifier).as_str()
        );
        assert_eq!(of("state"), *login.state.secret());
        assert!(of("state").len() >= 43);

        for endpoint in ["file:///bin/sh", "javascript:alert(1)", "http://as.test/", "x:$(id)"] {
            let callback = Callback::listen(None).await.unwrap();
            let hostile = purpose(json!({"authorization_endpoint": endpoint}));
            assert!(Login::new(&fetcher, callback, hostile).is_err(), "{endpoint}");
        }
    }
}
