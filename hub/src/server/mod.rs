//! Connections: taking them, with or without TLS, and letting them end.
//!
//! Knows no route. Who a request comes from is noted as [`Peer`], and when the Hub ends, as [`Closing`].

mod idle;
mod metrics;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
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
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

pub(crate) use metrics::{Metrics, count, sample};
pub(crate) use tls::Certificates;
pub use tls::TlsError;

use idle::Watched;

/// Connections open at the same time; further ones wait in the system's queue. A gateway has one for some
/// seconds of each half minute.
const CONNECTIONS_MAX: usize = 16_384;

/// Of them, those from one address: an office with thousands of laptops has one, and must not shut out others.
const CONNECTIONS_OF_ADDRESS_MAX: usize = CONNECTIONS_MAX / 2;

/// A connection on which nothing moves is closed. Longer than any answer takes to begin.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// So are headers that take longer.
const HEADERS_MAX: Duration = Duration::from_secs(15);

/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// At the end, requests under way have this long. What is written after them must fit into the ten seconds
/// that containers have to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// After an `accept` that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whom a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Whether what the browser sees is `https`.
    pub(crate) secure: bool,
}

/// Cancelled when the Hub ends: answers that go on for as long as somebody listens end then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closing(pub(crate) CancellationToken);

/// How connections are taken.
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) tls: Option<Arc<Certificates>>,
    /// A proxy that we trust stands before us: it says who asks, and how, in `X-Forwarded-For` and
    /// `X-Forwarded-Proto`.
    pub(crate) behind_proxy: bool,
}

impl Server {
    /// Serves until `shutdown`, and then what is under way for a while. When this returns, nobody is served
    /// any more.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let site = Arc::new(self);
        let closing = Closing(shutdown.clone());
        let graceful = GracefulShutdown::new();
        let room = Arc::new(Room::default());
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = room.accept(&listener) => accepted,
                Some(_ended) = connections.join_next() => continue,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    // A proxy has one address for everybody.
                    let place = match site.behind_proxy {
                        true => None,
                        false => match room.place(peer.ip()) {
                            Some(place) => Some(place),
                            None => continue,
                        },
                    };
                    let connection = Arc::clone(&site).connection(
                        stream,
                        peer,
                        graceful.watcher(),
                        closing.clone(),
                    );
                    connections.spawn(async move {
                        connection.await;
                        drop((permit, place));
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        if tokio::time::timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time and are cut off");
        }
        connections.shutdown().await;
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        watcher: Watcher,
        closing: Closing,
    ) {
        stream.set_nodelay(true).ok();
        let (stream, moved) = Watched::new(stream);
        let served = async {
            let Some(tls) = &self.tls else {
                let io = TokioIo::new(stream);
                return Arc::clone(&self).http(io, peer, false, watcher, closing).await;
            };
            let acceptor = TlsAcceptor::from(tls.current());
            match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let io = TokioIo::new(stream);
                    Arc::clone(&self).http(io, peer, true, watcher, closing).await;
                }
                // A port scan, a browser that does not trust us: nothing to do about it.
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        };
        tokio::select! {
            () = served => {}
            () = moved.stopped_for(IDLE_MAX) => tracing::debug!("a connection was idle"),
        }
    }

    async fn http<I>(
        self: Arc<Self>,
        io: I,
        peer: SocketAddr,
        tls: bool,
        watcher: Watcher,
        closing: Closing,
    ) where
        I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let peer = self.peer(request.headers(), peer.ip(), tls);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(closing.clone());
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
        let address = last("x-forwarded-for").and_then(forwarded).unwrap_or(address);
        Peer { address, secure: tls || last("x-forwarded-proto") == Some("https") }
    }
}

/// Reads an address as proxies write it: some add the port.
fn forwarded(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().map(|address: SocketAddr| address.ip()).ok();
    text.trim_matches(['[', ']']).parse().ok().or_else(with_port)
}

/// How many connections there may be.
struct Room {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS_MAX)), by_address: Arc::default() }
    }
}

impl Room {
    /// Takes a connection as soon as there is room for one.
    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.all).acquire_owned().await;
        let permit = permit.map_err(std::io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, permit))
    }

    /// Returns a place for another connection from an address; nothing if it has too many.
    fn place(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= CONNECTIONS_OF_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { address, by_address: Arc::clone(&self.by_address) })
    }
}

/// A connection from an address, as long as it is open.
struct Place {
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}
