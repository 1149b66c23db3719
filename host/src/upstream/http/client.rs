//! The HTTP client: one pool of connections per upstream, TLS with the roots of the system.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;

use crate::tls;

/// A server may take this long to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection without requests is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// And so many of them are kept.
const IDLE_MAX: usize = 64;

/// An HTTP client of one upstream.
#[derive(Debug, Clone)]
pub(in crate::upstream) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// Returns a client; one that is not `secure` cannot do TLS.
    pub(in crate::upstream) fn new(secure: bool) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(IDLE_TIMEOUT));
        let roots = if secure { tls::system_roots() } else { Arc::new(RootCertStore::empty()) };
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client(roots))
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(https);
        Self { http }
    }

    /// Sends a request and waits for the head of the response. Redirects are not followed.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, legacy::Error> {
        self.http.request(request).await
    }
}
