//! Cookies: what browsers keep, and under which conditions they do.

use std::net::Ipv4Addr;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri, header};

use super::ticket::Ticket;
use crate::server::Peer;

/// How long browsers keep them, at most what they allow. What is over is said by the database.
const AGE_MAX_S: u32 = 400 * 86_400;

/// What stands between a browser and us, as the browser sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// `https`.
    Secure,
    /// `http` to one's own machine: nobody on the way.
    Loopback,
    /// `http` to somewhere: whoever is on the way would have the session.
    Open,
}

/// A cookie of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// Somebody is signed in.
    Session,
    /// Somebody waits for a code.
    Code,
    /// Somebody is at the identity provider.
    Flow,
}

impl Channel {
    /// Returns the channel of a request.
    pub(crate) fn of(parts: &Parts) -> Self {
        let is_secure = parts.extensions.get::<Peer>().is_some_and(|peer| peer.secure);
        match host(&parts.uri, &parts.headers) {
            _ if is_secure => Self::Secure,
            Some(host) if is_loopback(host) => Self::Loopback,
            Some(_) | None => Self::Open,
        }
    }
}

/// Returns the host that a request is for, with its port.
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = uri.authority().map(http::uri::Authority::as_str);
    named.or_else(|| headers.get(header::HOST)?.to_str().ok())
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.starts_with("::1]"),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

impl Cookie {
    /// A name with `__Host-` is only taken over `https`, and from no neighbour with the same domain.
    fn name(self, channel: Channel) -> Option<&'static str> {
        match (self, channel) {
            (_, Channel::Open) => None,
            (Self::Session, Channel::Secure) => Some("__Host-ultra_session"),
            (Self::Session, Channel::Loopback) => Some("ultra_session"),
            (Self::Code, Channel::Secure) => Some("__Host-ultra_code"),
            (Self::Code, Channel::Loopback) => Some("ultra_code"),
            (Self::Flow, Channel::Secure) => Some("__Host-ultra_flow"),
            (Self::Flow, Channel::Loopback) => Some("ultra_flow"),
        }
    }

    /// Returns what a browser has in it.
    pub(crate) fn read(self, channel: Channel, headers: &HeaderMap) -> Option<Ticket> {
        let name = self.name(channel)?;
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs =
            lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| Ticket::parse(value))
    }

    /// Returns what makes a browser keep it; nothing where it would not be safe.
    pub(crate) fn set(self, channel: Channel, ticket: &Ticket) -> Option<HeaderValue> {
        self.line(channel, ticket.reveal(), AGE_MAX_S)
    }

    /// Returns what makes a browser forget it.
    pub(crate) fn clear(self, channel: Channel) -> Option<HeaderValue> {
        self.line(channel, "", 0)
    }

    fn line(self, channel: Channel, value: &str, age_s: u32) -> Option<HeaderValue> {
        let name = self.name(channel)?;
        let secure = if channel == Channel::Secure { "; Secure" } else { "" };
        let line =
            format!("{name}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::try_from(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ones_own_machine_is_safe_without_tls() {
        for (host, expected) in [
            ("127.0.0.1:8080", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("[::1]:8080", true),
            ("127.0.0.1.evil.test", false),
            ("localhost.evil.test:1", false),
            ("10.0.0.1", false),
            ("[::2]:1", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }

    #[test]
    fn a_cookie_says_who_may_have_it() {
        let ticket = Ticket::new();
        let line = |channel| Cookie::Session.set(channel, &ticket);

        let secure = line(Channel::Secure).unwrap();
        let secure = secure.to_str().unwrap();
        assert!(secure.starts_with("__Host-ultra_session="), "{secure}");
        assert!(secure.ends_with("; HttpOnly; SameSite=Lax; Secure"), "{secure}");
        assert!(!line(Channel::Loopback).unwrap().to_str().unwrap().contains("Secure"));
        assert!(line(Channel::Open).is_none());
    }

    /// A neighbour below the same domain, or somebody on the way, can set the one without `__Host-`.
    #[test]
    fn over_https_only_the_protected_cookie_counts() {
        let ticket = Ticket::new();
        let mut headers = HeaderMap::new();
        let line = format!("a=b; ultra_session={}", ticket.reveal());
        headers.insert(header::COOKIE, line.parse().unwrap());

        assert_eq!(Cookie::Session.read(Channel::Loopback, &headers), Some(ticket));
        assert_eq!(Cookie::Session.read(Channel::Secure, &headers), None);
    }
}
