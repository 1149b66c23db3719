//! Streamable HTTP on our side, for clients of both eras. Framing, headers and status codes; no method
//! is known here but `initialize`.

mod answer;
mod guard;
mod headers;
mod protected;
mod request;
mod sessions;
mod stream;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep, timeout};
use tokio_util::task::TaskTracker;

pub use guard::{Guard, Secret};
pub use protected::Protected;
pub use stream::Stream;

use super::Setup;
use crate::aggregator::Naming;
use crate::lock;
use request::Endpoint;

/// So many clients may be connected at a time.
const CONNECTIONS_MAX: usize = 4096;

/// A client may take this long to send the head of a request, and keep a connection idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Sessions without a request are looked for so often, or more often where they are to end sooner.
const SWEEP_PERIOD: Duration = Duration::from_secs(30);

/// See [`SWEEP_PERIOD`].
const SWEEP_PERIOD_MIN: Duration = Duration::from_secs(1);

/// When we are told to terminate, open calls may take this long to finish.
const DRAIN: Duration = Duration::from_secs(1);

/// And connections this long to close.
const CLOSE: Duration = Duration::from_secs(1);

/// Every endpoint there is.
struct Routes {
    guard: Guard,
    setup: Setup,
    merged: Arc<Endpoint>,
    /// Those of single upstreams, made when somebody asks for them.
    servers: Mutex<HashMap<Arc<str>, Arc<Endpoint>>>,
}

impl Routes {
    fn new(setup: Setup, guard: Guard) -> Self {
        let merged = Arc::new(Endpoint::new(setup.clone()));
        Self { guard, setup, merged, servers: Mutex::default() }
    }

    /// Returns the endpoint at a path: `/mcp`, or `/servers/<name>/mcp`.
    fn find(&self, path: &str) -> Option<Arc<Endpoint>> {
        let Some(name) = path.strip_prefix("/servers/").and_then(|rest| rest.strip_suffix("/mcp"))
        else {
            return (path == "/mcp").then(|| Arc::clone(&self.merged));
        };
        let definition =
            self.setup.definitions().into_iter().find(|definition| *definition.name == *name)?;
        let mut servers = lock(&self.servers);
        let endpoint = servers.entry(Arc::clone(&definition.name)).or_insert_with(|| {
            let only = Some(definition.name);
            let setup = Setup { only, naming: Naming::Own, ..self.setup.clone() };
            Arc::new(Endpoint::new(setup))
        });
        Some(Arc::clone(endpoint))
    }

    fn all(&self) -> Vec<Arc<Endpoint>> {
        let servers = lock(&self.servers);
        std::iter::once(&self.merged).chain(servers.values()).cloned().collect()
    }
}

/// Serves clients until `setup.shutdown` is cancelled, and then ends the upstreams.
pub async fn serve(listener: TcpListener, setup: Setup, guard: Guard) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "listening on http://{address}/mcp");
    let (shutdown, stopping) = (setup.shutdown.clone(), setup.stopping.clone());
    let routes = Arc::new(Routes::new(setup, guard));
    let connections = TaskTracker::new();
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let period = routes.setup.http_session_idle.clamp(SWEEP_PERIOD_MIN, SWEEP_PERIOD);
    let mut sweep = interval(period);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = sweep.tick() => {
                routes.all().iter().for_each(|endpoint| endpoint.end_idle());
                continue;
            }
            () = stopping.cancelled() => break,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, most likely: they become fewer.
                tracing::warn!(%error, "a connection cannot be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&free).try_acquire_owned() else {
            tracing::warn!(%peer, "refused: {CONNECTIONS_MAX} clients are connected");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (routes, shutdown) = (Arc::clone(&routes), shutdown.clone());
        connections.spawn(async move {
            connection(TokioIo::new(stream), peer, routes, shutdown).await;
            drop(permit);
        });
    }
    join_all(routes.all().iter().map(|endpoint| endpoint.end(DRAIN))).await;
    shutdown.cancel();
    connections.close();
    let _ = timeout(CLOSE, connections.wait()).await;
    Ok(())
}

async fn connection(
    io: TokioIo<tokio::net::TcpStream>,
    peer: SocketAddr,
    routes: Arc<Routes>,
    shutdown: tokio_util::sync::CancellationToken,
) {
    let service = service_fn(|request| {
        let routes = Arc::clone(&routes);
        async move { Ok::<_, std::convert::Infallible>(request::respond(&routes, request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(io, service);
    tokio::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection ended");
    }
}
