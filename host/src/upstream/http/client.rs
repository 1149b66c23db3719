//! The HTTP client: one pool of connections per upstream, TLS with the roots of the system.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

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
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls(secure))
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

fn tls(secure: bool) -> ClientConfig {
    // Reading the system's roots takes milliseconds, and they are the same for all.
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = match secure {
        true => Arc::clone(ROOTS.get_or_init(|| Arc::new(system_roots()))),
        false => Arc::new(RootCertStore::empty()),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the versions rustls takes by default")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
