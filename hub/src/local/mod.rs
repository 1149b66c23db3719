//! `ultra dashboard`: the Hub's pages over the database of the gateways of this machine.
//!
//! Without accounts: who opens the link that is printed may see everything, and nobody else. Nothing
//! leaves the machine, and nothing on it is changed.

mod fleet;
mod gate;
mod records;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use ultra_store::StoreError;

pub(crate) use fleet::LocalFleet;
pub(crate) use gate::LocalGate;
pub(crate) use records::LocalRecords;

use crate::access::{Entry, Role};
use crate::error::ApiError;
use crate::events::GatewayLabel;
use crate::id::{GatewayId, OrganizationId, WorkspaceId};
use crate::server::Server;
use crate::web::{self, Web};
use crate::wire::Host;

/// Until the head of an answer: files and news begin at once and may go on.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The one gateway there is. All that share the database are shown as one.
const GATEWAY: i64 = 1;

/// The one workspace there is.
const WORKSPACE: i64 = 1;

/// What is shown, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateways' database.
    pub database: PathBuf,
    /// Where to listen. On this machine only; with port 0 on any that is free.
    pub address: SocketAddr,
    /// The machine and the program.
    pub host: Host,
}

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// Others could reach it, and it has no accounts.
    #[error(
        "`{0}` is not an address of this machine alone, and the dashboard has no accounts; \
         listen on `127.0.0.1`, or run `ultra hub serve`"
    )]
    NotLoopback(SocketAddr),
    /// The address is taken, or not there.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database is not there, or of no use.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A dashboard that listens, and is not yet served.
#[derive(Debug)]
pub struct Dashboard {
    listener: TcpListener,
    router: Router,
    url: String,
}

/// Opens a dashboard: the database, and the address. [`Dashboard::url`] is to be opened, then
/// [`Dashboard::serve`] serves it.
///
/// # Errors
///
/// See [`DashboardError`].
pub async fn dashboard(options: Options) -> Result<Dashboard, DashboardError> {
    if !options.address.ip().to_canonical().is_loopback() {
        return Err(DashboardError::NotLoopback(options.address));
    }
    let label = GatewayLabel { id: gateway(), name: name(&options.host), owner: None };
    let records = LocalRecords::open(&options.database, label)?;
    let fleet = LocalFleet::open(&options.database, options.host)?;
    let failed = |source| DashboardError::Listen { address: options.address, source };
    let listener = TcpListener::bind(options.address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (gate, key) = LocalGate::new(address, entry());
    let gate = Arc::new(gate);
    let web =
        Web { gate: Arc::clone(&gate) as _, records: Arc::new(records), fleet: Arc::new(fleet) };
    let router = Router::new()
        .route("/open", get(gate::open))
        .with_state(Arc::clone(&gate))
        .merge(web::router(web))
        .layer(from_fn(deadline))
        .layer(from_fn_with_state(gate, gate::guard))
        .layer(from_fn(web::headers));
    Ok(Dashboard { listener, router, url: format!("http://{address}/open?key={key}") })
}

impl Dashboard {
    /// The link that opens it, once.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves it until `shutdown`.
    pub async fn serve(self, shutdown: CancellationToken) {
        let server = Server { router: self.router, tls: None, behind_proxy: false };
        server.serve(self.listener, shutdown).await;
    }
}

async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => web::failure(None, &ApiError::Unavailable { retry_s: 10 }),
    }
}

/// The one workspace, for whoever is let in: to look, and nothing else.
fn entry() -> Entry {
    Entry {
        organization: OrganizationId::from_number(1),
        organization_name: String::new(),
        team_name: String::new(),
        workspace: WorkspaceId::from_number(WORKSPACE),
        workspace_name: "This machine".to_owned(),
        role: Role::Viewer,
    }
}

/// The id of the one gateway.
fn gateway() -> GatewayId {
    GatewayId::from_number(GATEWAY)
}

/// What the machine is called.
fn name(host: &Host) -> String {
    if host.hostname.is_empty() { "This machine".to_owned() } else { host.hostname.clone() }
}
