//! The first words with a server: which era it lives in, and what it says of itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::http::Link;
use super::{Connection, Endpoint, Patience, Transport, Upstream, UpstreamError};
use crate::mcp::{Era, Revision, edit, json, modern};

/// A server may take this long to answer `initialize`: `npx` and `uvx` may have to install it first.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// And this long to answer whether it is a modern one: one that is not may say nothing.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

impl Upstream {
    /// Shakes hands. Returns what the server says of itself, in the form of a result of `initialize`.
    ///
    /// A server that can do both eras is talked to in the client's: nothing needs to be translated.
    pub(super) async fn shake_hands(
        &self,
        connection: &Connection,
        link: Option<&Arc<Link>>,
    ) -> Result<Bytes, UpstreamError> {
        let Some(link) = link else { return self.hello(connection, None).await };
        let transport = match &self.definition.endpoint {
            Endpoint::Http(remote) => remote.transport,
            Endpoint::Stdio(_) => Transport::Auto,
        };
        if transport == Transport::Sse {
            link.connect_sse().await?;
            return self.initialize(connection, Some(link)).await;
        }
        match self.hello(connection, Some(link)).await {
            // What 2024-11-05 has at this address is only a stream of events.
            Err(UpstreamError::Http { status: 400 | 404 | 405, reason, upstream })
                if transport == Transport::Auto =>
            {
                let refused = |_| UpstreamError::Http { status: 0, reason, upstream };
                link.connect_sse().await.map_err(refused)?;
                self.initialize(connection, Some(link)).await
            }
            hello => hello,
        }
    }

    async fn hello(
        &self,
        connection: &Connection,
        link: Option<&Arc<Link>>,
    ) -> Result<Bytes, UpstreamError> {
        let pinned = self.definition.era;
        let remembered = self.listing().and_then(|listing| listing.revision());
        let client = self.surroundings.revision.era();
        let first = match remembered.map(Revision::era) {
            // It was seen not to know the other era, or the client's own suits it.
            Some(era) if client == Era::Modern => era,
            _ => client,
        };
        match pinned.unwrap_or(first) {
            Era::Legacy => match self.initialize(connection, link).await {
                Err(error) if pinned.is_none() && may_be_modern(&error) => {
                    self.discover(connection, link).await.map_err(|_| error)
                }
                initialized => initialized,
            },
            Era::Modern => match self.discover(connection, link).await {
                Err(error)
                    if pinned.is_none()
                        && !matches!(
                            error,
                            UpstreamError::Closed { .. }
                                | UpstreamError::SignIn { .. }
                                | UpstreamError::SignInElsewhere { .. }
                        ) =>
                {
                    self.initialize(connection, link).await
                }
                discovered => discovered,
            },
        }
    }

    async fn initialize(
        &self,
        connection: &Connection,
        link: Option<&Arc<Link>>,
    ) -> Result<Bytes, UpstreamError> {
        let asked = match self.surroundings.revision {
            revision if revision.era() == Era::Legacy => revision,
            _ => Revision::LATEST_LEGACY,
        };
        let version = json::quote(asked.as_str());
        let params =
            edit::set(&self.surroundings.initialize, &[("protocolVersion", version.as_bytes())]);
        let patience = Patience { timeout: START_TIMEOUT, cancels: false };
        let result = self.ask(connection, patience, "initialize", &params).await?;
        let answered =
            json::member(&result, "protocolVersion").and_then(|range| json::string(&result[range]));
        match answered.as_deref().and_then(Revision::parse) {
            Some(revision) if revision.era() == Era::Legacy => {
                connection.negotiated(revision);
                if let Some(link) = link {
                    link.negotiated(revision);
                }
                Ok(Bytes::copy_from_slice(&result))
            }
            _ => Err(self.invalid(format!(
                "it answers with protocol revision `{}`",
                answered.unwrap_or_default()
            ))),
        }
    }

    async fn discover(
        &self,
        connection: &Connection,
        link: Option<&Arc<Link>>,
    ) -> Result<Bytes, UpstreamError> {
        let revision = Revision::V2026_07_28;
        if let Some(link) = link {
            link.negotiated(revision);
        }
        let timeout = match self.definition.era {
            Some(_) => START_TIMEOUT,
            None => PROBE_TIMEOUT,
        };
        let patience = Patience { timeout, cancels: false };
        let params = self.surroundings.modern(b"", None);
        let result = self.ask(connection, patience, "server/discover", &params).await;
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                if let Some(link) = link {
                    link.forget();
                }
                return Err(error);
            }
        };
        let versions =
            json::member(&result, "supportedVersions").map_or(&b""[..], |range| &result[range]);
        let ours = json::quote(revision.as_str());
        if !json::elements(versions).any(|range| &versions[range] == ours.as_bytes()) {
            if let Some(link) = link {
                link.forget();
            }
            return Err(self.invalid(format!("it speaks {}", String::from_utf8_lossy(versions))));
        }
        connection.negotiated(revision);
        let info = json::at_path(&result, &["_meta", modern::SERVER_INFO]);
        let info = info.map_or(&b"{}"[..], |range| &result[range]);
        let result = edit::remove(
            &result,
            &["_meta", "resultType", "ttlMs", "cacheScope", "supportedVersions"],
        );
        Ok(edit::set(&result, &[("protocolVersion", ours.as_bytes()), ("serverInfo", info)]).into())
    }

    fn invalid(&self, reason: String) -> UpstreamError {
        UpstreamError::Invalid { upstream: self.name.to_string(), reason }
    }
}

/// Returns whether a server that refused `initialize` may know no handshake.
fn may_be_modern(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Refused { .. } => true,
        UpstreamError::Http { status, .. } => {
            (400..500).contains(status) && ![401, 403].contains(status)
        }
        UpstreamError::Closed { .. }
        | UpstreamError::Lost { .. }
        | UpstreamError::SignIn { .. }
        | UpstreamError::SignInElsewhere { .. }
        | UpstreamError::Deadline { .. }
        | UpstreamError::Invalid { .. } => false,
    }
}
