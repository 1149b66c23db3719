//! Who may talk to us at all: not a page in a browser, and nobody without the secret if there is one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode, Uri};
use sha2::{Digest, Sha256};

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
}

impl Guard {
    /// Returns the rules of a gateway that listens on this address. One that others can reach must
    /// have a secret; see [`Guard::is_safe`].
    pub fn new(address: SocketAddr, hosts: Vec<String>, secret: Option<Secret>) -> Self {
        Self { address, hosts, secret }
    }

    /// Returns whether only those can come in who should.
    pub fn is_safe(&self) -> bool {
        self.address.ip().is_loopback() || self.secret.is_some()
    }

    /// Checks the head of a request. Returns the status to refuse it with.
    pub(super) fn check(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<(), (StatusCode, &'static str)> {
        // A page whose name was made to lead to this machine sends that name (DNS rebinding).
        let host = headers
            .get(HOST)
            .map_or(uri.host().unwrap_or_default().as_bytes(), |host| host.as_bytes());
        if !std::str::from_utf8(host).is_ok_and(|host| self.is_ours(host)) {
            return Err((StatusCode::FORBIDDEN, "this `Host` is not served here"));
        }
        if let Some(origin) = headers.get(ORIGIN) {
            let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            if !authority.is_some_and(|(_, authority)| self.is_ours(authority)) {
                return Err((StatusCode::FORBIDDEN, "this `Origin` may not talk to the gateway"));
            }
        }
        let Some(Secret(secret)) = &self.secret else { return Ok(()) };
        let shown = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        let Some(shown) = shown.strip_prefix(b"Bearer ") else {
            return Err((StatusCode::UNAUTHORIZED, "the bearer token is missing"));
        };
        // Digests are compared: how far they agree says nothing about the secret.
        match Sha256::digest(shown) == Sha256::digest(secret.as_bytes()) {
            true => Ok(()),
            false => Err((StatusCode::UNAUTHORIZED, "the bearer token is wrong")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, headers: &[(&'static str, &str)]) -> Option<u16> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        guard
            .check(&headers.collect(), &Uri::from_static("/mcp"))
            .err()
            .map(|(status, _)| status.as_u16())
    }

    #[test]
    fn a_page_in_a_browser_is_refused() {
        let guard = Guard::new("127.0.0.1:8000".parse().unwrap(), Vec::new(), None);
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

    #[test]
    fn a_secret_must_be_shown() {
        let address = "0.0.0.0:8000".parse().unwrap();
        let hosts = vec!["gateway.example".to_owned()];
        assert!(!Guard::new(address, hosts.clone(), None).is_safe());
        let guard = Guard::new(address, hosts, Some(Secret::new("s3cret")));
        assert!(guard.is_safe());
        let host = ("host", "gateway.example");
        assert_eq!(check(&guard, &[host]), Some(401));
        assert_eq!(check(&guard, &[host, ("authorization", "Bearer wrong")]), Some(401));
        assert_eq!(check(&guard, &[host, ("authorization", "Bearer s3cret")]), None);
    }
}
