//! Connections: taking them, with or without TLS, and letting them end.
//!
//! Knows no route. Who a request comes from is noted as [`Peer`].

mod metrics;
mod tls;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

pub(crate) use metrics::{Metrics, count, sample};
pub(crate) use tls::Certificates;
pub use tls::TlsError;

/// Connections open at the same time; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 4096;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// So are headers that take longer.
const HEADERS_MAX: Duration = Duration::from_secs(15);

/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// At the end, requests under way have this long.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// After an `accept` that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whom a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Whether what the browser sees is `https`.
    pub(crate) secure: bool,
}

/// How connections are taken.
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) tls: Option<Arc<Certificates>>,
    /// A proxy that we trust stands before us: it says who asks, and how, in `X-Forwarded-For` and
    /// `X-Forwarded-Proto`.
    pub(crate) behind_proxy: bool,
}

impl Server {
    /// Serves until `shutdown`, and then what is under way for a while.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let site = Arc::new(self);
        let graceful = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // Never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection =
                        Arc::clone(&site).connection(stream, peer, graceful.watcher(), permit);
                    tokio::spawn(connection);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // What follows pages, listens as long as it is let.
        if tokio::time::timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time and are cut off");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        watcher: Watcher,
        _permit: OwnedSemaphorePermit,
    ) {
        stream.set_nodelay(true).ok();
        let Some(tls) = &self.tls else {
            return Arc::clone(&self).http(TokioIo::new(stream), peer, false, watcher).await;
        };
        let acceptor = TlsAcceptor::from(tls.current());
        match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                Arc::clone(&self).http(TokioIo::new(stream), peer, true, watcher).await;
            }
            // A port scan, a browser that does not trust us: nothing to do about it.
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn http<I>(self: Arc<Self>, io: I, peer: SocketAddr, tls: bool, watcher: Watcher)
    where
        I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let peer = self.peer(request.headers(), peer.ip(), tls);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let mut router = self.router.clone();
            async move {
                Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|no| match no {}))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
        let connection = watcher.watch(builder.serve_connection(io, service).into_owned());
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
    }

    fn peer(&self, headers: &HeaderMap, address: IpAddr, tls: bool) -> Peer {
        if !self.behind_proxy {
            return Peer { address, secure: tls };
        }
        let last = |name: &str| {
            let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
            value.rsplit(',').next().map(str::trim)
        };
        // The last one is what the proxy itself saw; those before it are what it was told.
        let address = last("x-forwarded-for").and_then(|text| text.parse().ok()).unwrap_or(address);
        Peer { address, secure: tls || last("x-forwarded-proto") == Some("https") }
    }
}
