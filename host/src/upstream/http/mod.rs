//! An upstream behind HTTP: Streamable HTTP of both eras, and the older HTTP with SSE.

mod auth;
mod body;
mod client;
mod link;
mod mirror;
mod post;

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

pub use auth::Auth;
pub(super) use auth::SignedIn;
pub(super) use client::Client;
pub(super) use link::{Heard, Link};
pub(super) use mirror::Mirror;

/// An HTTP server, as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// Its endpoint. It never changes: redirects are not followed.
    pub uri: Uri,
    /// Sent with every request.
    pub headers: HeaderMap,
    /// How messages travel.
    pub transport: Transport,
    /// How tokens for it are had, if we have to have any.
    pub auth: Option<Auth>,
}

impl Remote {
    /// Returns a server at a URL.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the URL or a header; the header's value is not named.
    pub fn new(
        url: &str,
        headers: &BTreeMap<String, String>,
        transport: Transport,
    ) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| format!("`{url}` is no URL"))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(format!("`{url}` is no HTTP URL"));
        }
        let headers = headers.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value);
            Ok((HeaderName::try_from(name).ok(), value.ok()))
                .and_then(|(name, value)| Ok((name.ok_or(())?, value.ok_or(())?)))
                .map_err(|()| format!("the header `{name}` cannot be sent"))
        });
        Ok(Self { uri, headers: headers.collect::<Result<_, String>>()?, transport, auth: None })
    }
}

/// How messages travel over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP, or HTTP with SSE where the server knows no other.
    Auto,
    /// Streamable HTTP (since 2025-03-26).
    Streamable,
    /// HTTP with SSE (2024-11-05).
    Sse,
}
