//! Who may talk to us at all: not a page in a browser, and nobody without the secret or an access token
//! where one of them is wanted.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use sha2::{Digest, Sha256};

use super::Protected;
use super::answer::{self, Body};
use crate::auth::TokenError;

/// A secret that clients show as `Authorization: Bearer`.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Returns a secret.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Rules for every request.
#[derive(Debug, Clone)]
pub struct Guard {
    address: SocketAddr,
    /// Names besides the address that we are reached by.
    hosts: Vec<String>,
    secret: Option<Secret>,
    protected: Option<Arc<Protected>>,
}

/// Why a request is not looked at any further.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    reason: Cow<'static, str>,
    challenge: Option<HeaderValue>,
}

impl Refusal {
    fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason: reason.into(), challenge: None }
    }
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        let mut response = answer::refusal(refusal.status, &refusal.reason);
        if let Some(challenge) = refusal.challenge {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl Guard {
    /// Returns the rules of a gateway that listens on this address, and lets in whoever can reach it.
    pub fn new(address: SocketAddr, hosts: Vec<String>) -> Self {
        Self { address, hosts, secret: None, protected: None }
    }

    /// Lets in who shows the secret.
    #[must_use]
    pub fn with_secret(self, secret: Secret) -> Self {
        Self { secret: Some(secret), ..self }
    }

    /// Lets in who has signed in. The host of the audience is one of ours.
    #[must_use]
    pub fn with_sign_in(mut self, protected: Protected) -> Self {
        self.hosts.extend(protected.host().map(str::to_owned));
        Self { protected: Some(Arc::new(protected)), ..self }
    }

    /// Returns whether only those can come in who should.
    pub fn is_safe(&self) -> bool {
        self.address.ip().is_loopback() || self.secret.is_some() || self.protected.is_some()
    }

    /// Returns whether clients may be on other machines, or come through a proxy that others can reach.
    pub fn serves_others(&self) -> bool {
        let is_proxied = self.protected.is_some() || !self.hosts.is_empty();
        !self.address.ip().is_loopback() || is_proxied
    }

    /// Checks that a request was meant for us by whoever made its sender send it.
    pub(super) fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        // A page whose name was made to lead to this machine sends that name (DNS rebinding).
        let host = headers
            .get(HOST)
            .map_or(uri.host().unwrap_or_default().as_bytes(), |host| host.as_bytes());
        if !std::str::from_utf8(host).is_ok_and(|host| self.is_ours(host)) {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "this `Host` is not served here"));
        }
        if let Some(origin) = headers.get(ORIGIN) {
            let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            if !authority.is_some_and(|(_, authority)| self.is_ours(authority)) {
                let reason = "this `Origin` may not talk to the gateway";
                return Err(Refusal::new(StatusCode::FORBIDDEN, reason));
            }
        }
        Ok(())
    }

    /// Returns where to sign in, if that is what the request asks. Nobody has to sign in for it.
    pub(super) fn metadata<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let metadata = self.protected.as_ref()?.metadata(request.uri().path())?;
        Some(match *request.method() {
            Method::GET => answer::json(StatusCode::OK, metadata),
            _ => answer::refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET"),
        })
    }

    /// Lets the sender of a request in. Returns whom it acts for, if it had to prove that.
    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        path: &str,
    ) -> Result<Option<Arc<str>>, Refusal> {
        if self.secret.is_none() && self.protected.is_none() {
            return Ok(None);
        }
        let unauthorized = |reason, error| Refusal {
            challenge: self.protected.as_ref().map(|protected| protected.challenge(path, error)),
            ..Refusal::new(StatusCode::UNAUTHORIZED, reason)
        };
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let token = match (shown.next(), shown.next()) {
            (Some(value), None) => bearer(value.as_bytes()),
            (None, _) => None,
            (Some(_), Some(_)) => {
                let reason = "there is more than one `Authorization`";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
            }
        };
        let Some(token) = token else {
            return Err(unauthorized("the bearer token is missing", None));
        };
        if let Some(Secret(secret)) = &self.secret
            // Digests are compared: how far they agree says nothing about the secret.
            && Sha256::digest(token) == Sha256::digest(secret.as_bytes())
        {
            return Ok(None);
        }
        let wrong = || unauthorized("the bearer token is wrong", Some("invalid_token"));
        let Some(protected) = &self.protected else { return Err(wrong()) };
        let token = std::str::from_utf8(token).map_err(|_| wrong())?;
        // Boxed: what few gateways need takes no room in the requests of all.
        let error = match Box::pin(protected.subject(token, path)).await {
            Ok(subject) => return Ok(Some(subject)),
            Err(error) => error,
        };
        tracing::debug!(path, %error, "a client is not let in");
        let (status, code) = match error {
            TokenError::Invalid(_) => (StatusCode::UNAUTHORIZED, Some("invalid_token")),
            TokenError::Scope => (StatusCode::FORBIDDEN, Some("insufficient_scope")),
            TokenError::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, None),
        };
        let challenge = code.map(|code| protected.challenge(path, Some(code)));
        Err(Refusal { status, reason: error.to_string().into(), challenge })
    }

    /// Returns whether a `Host`, with or without a port, names us.
    fn is_ours(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        if self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return true;
        }
        match name.parse::<IpAddr>() {
            Ok(ip) => {
                ip.is_loopback() && self.address.ip().is_loopback() || ip == self.address.ip()
            }
            Err(_) => name.eq_ignore_ascii_case("localhost") && self.address.ip().is_loopback(),
        }
    }
}

/// Returns the token in an `Authorization`. It is taken from nowhere else: URLs end up in logs.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"Bearer ")).then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&'static str, &str)]) -> HeaderMap {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        headers.collect()
    }

    fn check(guard: &Guard, headers: &[(&'static str, &str)]) -> Option<u16> {
        let refusal = guard.check(&head(headers), &Uri::from_static("/mcp")).err()?;
        Some(refusal.status.as_u16())
    }

    async fn admit(guard: &Guard, headers: &[(&'static str, &str)]) -> Option<u16> {
        let refusal = guard.admit(&head(headers), "/mcp").await.err()?;
        Some(refusal.status.as_u16())
    }

    #[test]
    fn a_page_in_a_browser_is_refused() {
        let guard = Guard::new("127.0.0.1:8000".parse().unwrap(), Vec::new());
        assert_eq!(check(&guard, &[("host", "127.0.0.1:8000")]), None);
        assert_eq!(
            check(&guard, &[("host", "localhost:8000"), ("origin", "http://localhost:8000")]),
            None
        );
        assert_eq!(check(&guard, &[("host", "[::1]:8000")]), None);
        assert_eq!(check(&guard, &[("host", "evil.example:8000")]), Some(403));
        assert_eq!(
            check(&guard, &[("host", "localhost"), ("origin", "https://evil.example")]),
            Some(403)
        );
        assert_eq!(check(&guard, &[("host", "localhost"), ("origin", "null")]), Some(403));
        assert_eq!(check(&guard, &[]), Some(403));
    }

    #[tokio::test]
    async fn a_secret_must_be_shown() {
        let address = "0.0.0.0:8000".parse().unwrap();
        let guard = Guard::new(address, vec!["gateway.example".to_owned()]);
        assert!(!guard.is_safe());
        let guard = guard.with_secret(Secret::new("s3cret"));
        assert!(guard.is_safe());

        for (value, expected) in [
            ("Bearer wrong", Some(401)),
            ("Bearer s3cret", None),
            ("bearer s3cret", None),
            ("Basic s3cret", Some(401)),
            ("Bearer", Some(401)),
            ("", Some(401)),
        ] {
            assert_eq!(admit(&guard, &[("authorization", value)]).await, expected, "{value}");
        }
        assert_eq!(admit(&guard, &[]).await, Some(401));
        assert_eq!(check(&guard, &[("host", "gateway.example")]), None);
    }

    /// Which of the two would be looked at by whoever stands before us?
    #[tokio::test]
    async fn two_tokens_are_none() {
        let guard = Guard::new("127.0.0.1:8000".parse().unwrap(), Vec::new());
        let guard = guard.with_secret(Secret::new("s3cret"));
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, "Bearer s3cret".parse().unwrap());
        headers.append(AUTHORIZATION, "Bearer other".parse().unwrap());

        let refusal = guard.admit(&headers, "/mcp").await.unwrap_err();

        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
    }
}
