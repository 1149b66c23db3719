//! HTTP to whoever a server names, within its [`Reach`].
//!
//! A name is resolved once, judged, and connected to at the judged address. A name that opens private
//! networks has to be served there: what look-ups say is up to its owner. Redirects are not followed,
//! proxies of the environment not used: both would connect somewhere else. Every answer has a limit in
//! size and time.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::select_ok;
use http::header::ACCEPT;
use http::{HeaderValue, Method, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::reach::{Reach, Refusal};
use crate::lock;
use crate::tls;

/// Metadata and tokens have a few kilobytes.
const BODY_BYTES_MAX: usize = 1 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// So many addresses of a name are asked whether it is served there.
const ASKED_MAX: usize = 8;

/// For a whole exchange: somebody waits, and identity providers answer in a second.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It may not be connected to.
    #[error("`{url}` is not connected to: {reason}")]
    Refused {
        /// Without its query.
        url: String,
        /// Why.
        reason: Refusal,
    },
    /// No connection, no answer, or none in time.
    #[error("`{url}` gives no answer")]
    Transport {
        /// Without its query.
        url: String,
        /// What happened.
        source: reqwest::Error,
    },
    /// It answers too much.
    #[error("`{url}` answers with more than {} KiB", BODY_BYTES_MAX / 1_024)]
    Size {
        /// Without its query.
        url: String,
    },
}

/// What a request is answered with.
pub(super) type Answer = http::Response<Vec<u8>>;

/// The clients of this process, one per reach: connections are never shared between them.
pub(super) struct Http {
    resolver: Arc<dyn Lookup>,
    clients: Mutex<HashMap<Reach, reqwest::Client>>,
}

/// Turns a name into addresses.
pub(super) trait Lookup: Send + Sync {
    fn lookup(
        &self,
        name: &str,
    ) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>;
}

/// The system's resolver.
struct System;

impl Lookup for System {
    fn lookup(
        &self,
        name: &str,
    ) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
        let name = name.to_owned();
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

impl Http {
    pub(super) fn new() -> Self {
        Self::resolving(Arc::new(System))
    }

    fn resolving(resolver: Arc<dyn Lookup>) -> Self {
        Self { resolver, clients: Mutex::default() }
    }

    /// Returns a client that goes no further than the server at `url` allows.
    pub(super) async fn around(&self, url: &Url) -> Fetcher {
        let addresses = match url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            // A name without addresses opens nothing; the transport says that it has none.
            Some(Host::Domain(name)) => {
                let looked_up = timeout(CONNECT_TIMEOUT, self.resolver.lookup(name)).await;
                let addresses = looked_up.ok().and_then(Result::ok).unwrap_or_default();
                let port = url.port_or_known_default().unwrap_or_default();
                let is_believed = !Reach::of(url, &addresses).is_private()
                    || is_served_at(name, &addresses, port, tls::system_roots()).await;
                if is_believed { addresses } else { Vec::new() }
            }
            None => Vec::new(),
        };
        let reach = Reach::of(url, &addresses);
        let mut clients = lock(&self.clients);
        let client = clients.entry(reach).or_insert_with(|| client(reach, &self.resolver));
        Fetcher { client: client.clone(), reach }
    }
}

/// Returns whether somebody at one of the addresses has a certificate for a name.
///
/// Its owner can let a look-up say what they like, and be found elsewhere by the next one. They cannot make
/// somebody else's machine answer by that name.
async fn is_served_at(
    name: &str,
    addresses: &[IpAddr],
    port: u16,
    roots: Arc<RootCertStore>,
) -> bool {
    let Ok(name) = ServerName::try_from(name.to_owned()) else { return false };
    let connector = TlsConnector::from(Arc::new(tls::client(roots)));
    let asked = addresses.iter().take(ASKED_MAX).map(|address| {
        let (connector, name) = (&connector, name.clone());
        Box::pin(async move {
            let stream = TcpStream::connect((*address, port)).await?;
            connector.connect(name, stream).await
        })
    });
    !addresses.is_empty() && matches!(timeout(CONNECT_TIMEOUT, select_ok(asked)).await, Ok(Ok(_)))
}

fn client(reach: Reach, resolver: &Arc<dyn Lookup>) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client(tls::system_roots()))
        .dns_resolver(Judging { reach, resolver: Arc::clone(resolver) })
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .user_agent(concat!("ultra/", env!("CARGO_PKG_VERSION")))
        .build()
        .expect("nothing in it depends on the system")
}

/// Resolves a name and judges what comes out; the connection is made to just that.
struct Judging {
    reach: Reach,
    resolver: Arc<dyn Lookup>,
}

impl Resolve for Judging {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, resolver) = (self.reach, Arc::clone(&self.resolver));
        Box::pin(async move {
            let addresses = resolver.lookup(name.as_str()).await?;
            reach.check_name(name.as_str(), &addresses)?;
            let addresses: Addrs =
                Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// A client with a [`Reach`].
#[derive(Clone)]
pub(super) struct Fetcher {
    client: reqwest::Client,
    pub(super) reach: Reach,
}

impl Fetcher {
    /// Sends a request and reads its whole answer.
    pub(super) async fn send(&self, request: http::Request<Vec<u8>>) -> Result<Answer, FetchError> {
        let request = reqwest::Request::try_from(request)
            .map_err(|source| FetchError::Transport { url: String::new(), source })?;
        let url = shown(request.url());
        self.reach
            .check(request.url())
            .map_err(|reason| FetchError::Refused { url: url.clone(), reason })?;
        let failed = |source: reqwest::Error| match refusal(&source) {
            Some(reason) => FetchError::Refused { url: url.clone(), reason },
            None => FetchError::Transport { url: url.clone(), source: source.without_url() },
        };
        let mut response = self.client.execute(request).await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(FetchError::Size { url });
            }
            body.extend_from_slice(&chunk);
        }
        let mut answer = Answer::new(body);
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        Ok(answer)
    }

    /// Fetches a document.
    pub(super) async fn get(&self, url: &Url) -> Result<Answer, FetchError> {
        let mut request = http::Request::new(Vec::new());
        *request.method_mut() = Method::GET;
        self.send(self.addressed(request, url)?).await
    }

    /// Posts JSON.
    pub(super) async fn post(&self, url: &Url, body: Vec<u8>) -> Result<Answer, FetchError> {
        let mut request = http::Request::new(body);
        *request.method_mut() = Method::POST;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(http::header::CONTENT_TYPE, json);
        self.send(self.addressed(request, url)?).await
    }

    fn addressed(
        &self,
        mut request: http::Request<Vec<u8>>,
        url: &Url,
    ) -> Result<http::Request<Vec<u8>>, FetchError> {
        // What is no URI to `http` is a URL without a host, which nobody connects to.
        *request.uri_mut() = url
            .as_str()
            .parse()
            .map_err(|_| FetchError::Refused { url: shown(url), reason: Refusal::Range })?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().entry(ACCEPT).or_insert(json);
        Ok(request)
    }
}

/// Reads JSON out of an answer; nothing if it is something else, whatever it claims to be.
pub(super) fn json<T: DeserializeOwned>(answer: &Answer) -> Option<Result<T, serde_json::Error>> {
    let is_object = answer.body().trim_ascii_start().starts_with(b"{");
    (answer.status() == StatusCode::OK && is_object).then(|| serde_json::from_slice(answer.body()))
}

/// Returns a URL as it is named to people: a query may hold what is not theirs to see.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Neither can fail for a URL that can be connected to.
    let _ = url.set_password(None).and_then(|()| url.set_username(""));
    url.into()
}

/// Finds a refusal among the causes of an error.
fn refusal(error: &reqwest::Error) -> Option<Refusal> {
    let first = error as &(dyn std::error::Error + 'static);
    let mut causes = std::iter::successors(Some(first), |cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<Refusal>().copied())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    /// Serves one answer to everybody and counts the connections.
    async fn serve(answer: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(&answer).await;
            }
        });
        (address, connections)
    }

    /// A name whose owner points it elsewhere with every question.
    struct Rebinding {
        answers: Vec<IpAddr>,
        asked: AtomicUsize,
    }

    impl Lookup for Rebinding {
        fn lookup(
            &self,
            _name: &str,
        ) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed);
            let address = self.answers[asked.min(self.answers.len() - 1)];
            Box::pin(async move { Ok(vec![address]) })
        }
    }

    #[tokio::test]
    async fn rebound_name_is_judged_by_where_it_points_now() {
        let (address, connections) = serve(Vec::new()).await;
        let public = "93.184.216.34".parse().unwrap();
        let here = "127.0.0.1".parse().unwrap();
        let rebinding = Rebinding { answers: vec![public, here], asked: AtomicUsize::new(0) };
        let http = Http::resolving(Arc::new(rebinding));

        let fetcher = http.around(&url("https://evil.test/mcp")).await;
        let target = url(&format!("https://evil.test:{}/x?secret=1", address.port()));
        let error = fetcher.get(&target).await.unwrap_err();

        let refused = matches!(error, FetchError::Refused { reason: Refusal::Range, .. });
        assert!(refused, "{error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(connections.load(Ordering::Relaxed), 0);
    }

    /// Only its own look-up says that it is in a private network: the transport reaches it elsewhere.
    #[tokio::test(start_paused = true)]
    async fn name_that_points_into_a_private_network_opens_it_only_if_it_is_served_there() {
        // For benchmarks: nobody is there.
        let private = "198.18.0.1".parse().unwrap();
        let rebinding = Rebinding { answers: vec![private], asked: AtomicUsize::new(0) };
        let http = Http::resolving(Arc::new(rebinding));

        let fetcher = http.around(&url("https://evil.test/mcp")).await;

        assert_eq!(fetcher.reach, Reach::default());
    }

    #[tokio::test]
    async fn name_is_served_where_somebody_has_its_certificate() {
        // A throw-away authority, and a certificate of its for `localhost`.
        let ca = include_bytes!("../telemetry/testdata/ca.pem");
        let certificate = include_bytes!("../telemetry/testdata/cert.pem");
        let key = include_bytes!("../telemetry/testdata/key.pem");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate).unwrap()],
                PrivateKeyDer::from_pem_slice(key).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        let (roots, nobody) = (Arc::new(roots), Arc::new(RootCertStore::empty()));

        for (name, roots, expected) in [
            ("localhost", &roots, true),
            ("evil.test", &roots, false),
            ("localhost", &nobody, false),
        ] {
            let (ip, port, roots) = (address.ip(), address.port(), Arc::clone(roots));
            assert_eq!(is_served_at(name, &[ip], port, roots).await, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn redirect_is_an_answer_and_not_followed() {
        let (target, connections) = serve(Vec::new()).await;
        let head = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{target}/\r\ncontent-length: 0\r\n\r\n"
        );
        let (address, _) = serve(head.into_bytes()).await;
        let place = url(&format!("http://{address}/"));

        let answer = Http::new().around(&place).await.get(&place).await.unwrap();

        assert_eq!(answer.status(), StatusCode::FOUND);
        assert_eq!(connections.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn endless_answer_is_cut_off() {
        let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
        answer.resize(BODY_BYTES_MAX + 64 * 1_024, b' ');
        let (address, _) = serve(answer).await;
        let place = url(&format!("http://{address}/"));

        let error = Http::new().around(&place).await.get(&place).await.unwrap_err();

        assert!(matches!(error, FetchError::Size { .. }), "{error:?}");
    }

    #[test]
    fn query_and_credentials_are_not_shown() {
        assert_eq!(shown(&url("https://me:pw@a.test/x?token=1#y")), "https://a.test/x");
    }
}
