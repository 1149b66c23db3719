//! Requests to the Hub, as [`ultra_hub::wire`] has them.
//!
//! Knows no tokens of people but those it is given, and repeats nothing.

use std::time::Duration;

use reqwest::{Method, StatusCode, header, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ultra_hub::wire::{
    Acknowledgement, BATCH_CONTENT_TYPE, Heartbeat, HeartbeatReply, LinkRequest, Linked, Me,
    Problem, Workspaces,
};
use url::Url;

use crate::auth::is_loopback;
use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of one request, its answer included. A batch of a MiB over a slow line takes some.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Longer than a heartbeat's period, so that one connection serves them all.
const IDLE: Duration = Duration::from_secs(120);

/// The longest answer has the spans of some streams.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why the Hub did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The address is of no use.
    #[error("`{url}` cannot be a Hub: {reason}")]
    Address { url: String, reason: &'static str },
    /// Nobody answers, or not in time.
    #[error("the Hub at `{url}` cannot be reached")]
    Away { url: String, source: reqwest::Error },
    /// The credentials do not let anybody in, and never will again.
    #[error("the Hub refuses: {message}")]
    Refused { status: u16, error: String, message: String },
    /// Later.
    #[error("the Hub takes nothing for now: {message}")]
    Busy { retry_after: Option<Duration>, message: String },
    /// Gaps must be filled first.
    #[error("the Hub wants what is missing first")]
    GapsFirst { spans: Vec<ultra_hub::wire::Span> },
    /// Something is wrong with what was asked.
    #[error("the Hub does not accept this: {message}")]
    Invalid { status: u16, error: String, message: String },
    /// What answers is not a Hub, or is broken.
    #[error("the Hub's answer makes no sense (status {status})")]
    Answer { status: u16 },
}

impl ClientError {
    /// Returns whether it may be another time.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Busy { .. } | Self::Answer { .. } => true,
            Self::Address { .. }
            | Self::Refused { .. }
            | Self::GapsFirst { .. }
            | Self::Invalid { .. } => false,
        }
    }

    /// Returns for how long the Hub wants to be left alone, if it said so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let Self::Busy { retry_after, .. } = self else { return None };
        *retry_after
    }
}

/// Who asks.
pub(crate) type Bearer<'a> = &'a str;

/// A way to one Hub. Its connection stays open between requests.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// Returns a way to the Hub at `url`. `https`, except to this machine.
    pub(crate) fn new(url: &str) -> Result<Self, ClientError> {
        let refused = |reason| ClientError::Address { url: url.to_owned(), reason };
        let mut base: Url = url.parse().map_err(|_| refused("it is no URL"))?;
        match base.scheme() {
            "https" => {}
            "http" if is_loopback(&base) => {}
            "http" => return Err(refused("only `https` may cross a network")),
            _ => return Err(refused("it must begin with `https://`")),
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(refused("credentials do not belong there"));
        }
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client(tls::system_roots()))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(2)
            .user_agent(concat!("ultra/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("nothing in it depends on the system");
        Ok(Self { http, base })
    }

    /// The Hub's address, with a slash at its end.
    pub(crate) fn url(&self) -> &Url {
        &self.base
    }

    /// Lists the workspaces that a person may link gateways to.
    pub(crate) async fn workspaces(&self, person: Bearer<'_>) -> Result<Workspaces, ClientError> {
        self.json(Method::GET, "workspaces", person, None::<&()>).await
    }

    /// Links a gateway, for a person or with a deploy key.
    pub(crate) async fn link(
        &self,
        who: Bearer<'_>,
        request: &LinkRequest,
    ) -> Result<Linked, ClientError> {
        self.json(Method::POST, "gateways", who, Some(request)).await
    }

    /// Says what the Hub has of this gateway.
    pub(crate) async fn me(&self, gateway: Bearer<'_>) -> Result<Me, ClientError> {
        self.json(Method::GET, "gateways/self", gateway, None::<&()>).await
    }

    /// Unlinks this gateway.
    pub(crate) async fn unlink(&self, gateway: Bearer<'_>) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, "gateways/self", gateway);
        self.send(request).await.map(drop)
    }

    /// Says that a process runs.
    pub(crate) async fn heartbeat(
        &self,
        gateway: Bearer<'_>,
        heartbeat: &Heartbeat,
    ) -> Result<HeartbeatReply, ClientError> {
        self.json(Method::POST, "heartbeat", gateway, Some(heartbeat)).await
    }

    /// Sends a batch, compressed with zstd.
    pub(crate) async fn records(
        &self,
        gateway: Bearer<'_>,
        batch: Vec<u8>,
    ) -> Result<Acknowledgement, ClientError> {
        let request = self
            .request(Method::POST, "records", gateway)
            .header(header::CONTENT_TYPE, BATCH_CONTENT_TYPE)
            .header(header::CONTENT_ENCODING, "zstd")
            .body(batch);
        parse(&self.send(request).await?)
    }

    /// Sends a form to an address of the Hub, such as `oauth/token`; returns status and body.
    pub(crate) async fn form(
        &self,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let request = self
            .http
            .post(self.join(path))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        self.exchange(request).await.map(|(status, _, body)| (status, body))
    }

    /// Returns an address of the Hub, such as `oauth/authorize`.
    pub(crate) fn join(&self, path: &str) -> Url {
        self.base.join(path).expect("a path of ours below a base")
    }

    fn request(&self, method: Method, path: &str, who: Bearer<'_>) -> reqwest::RequestBuilder {
        self.http.request(method, self.join(&format!("api/v1/{path}"))).bearer_auth(who)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        who: Bearer<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let mut request = self.request(method, path, who);
        if let Some(body) = body {
            let body = serde_json::to_vec(body).expect("the wire's types are JSON");
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        parse(&self.send(request).await?)
    }

    /// Returns the body of a success.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, ClientError> {
        let (status, retry_after, body) = self.exchange(request).await?;
        if status.is_success() {
            return Ok(body);
        }
        let status = status.as_u16();
        let problem: Problem = serde_json::from_slice(&body).map_err(|_| match status {
            // Of a proxy before the Hub.
            429 | 502..=504 => ClientError::Busy {
                retry_after,
                message: format!("it answers with status {status}"),
            },
            _ => ClientError::Answer { status },
        })?;
        let Problem { error, message, spans } = problem;
        Err(match status {
            401 | 403 => ClientError::Refused { status, error, message },
            429 | 500..=599 => ClientError::Busy { retry_after, message },
            409 if error == "gaps_first" => {
                ClientError::GapsFirst { spans: spans.unwrap_or_default() }
            }
            _ => ClientError::Invalid { status, error, message },
        })
    }

    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(StatusCode, Option<Duration>, Vec<u8>), ClientError> {
        let away = |source: reqwest::Error| ClientError::Away {
            url: self.base.to_string(),
            source: source.without_url(),
        };
        let mut response = request.send().await.map_err(away)?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::Answer { status: status.as_u16() });
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, retry_after.map(Duration::from_secs), body))
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|_| ClientError::Answer { status: 200 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_crosses_a_network() {
        for good in ["https://hub.example.com", "http://127.0.0.1:8090", "http://localhost:1/hub"] {
            assert!(Client::new(good).is_ok(), "{good}");
        }
        for bad in ["http://hub.example.com", "hub", "ftp://x", "https://a:b@hub.example.com"] {
            assert!(Client::new(bad).is_err(), "{bad}");
        }
        let below = Client::new("https://example.com/hub?x#y").unwrap();
        assert_eq!(below.join("api/v1/records").as_str(), "https://example.com/hub/api/v1/records");
    }
}
