//! `ultra hub serve`: opens the database, puts the parts together, and serves until told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::api::{Api, Room};
use crate::db::{self, Database, DbError, Postgres, Sqlite};
use crate::events::sql::{self, SqlEvents};
use crate::events::{EventStore, Records, removal, retention};
use crate::fleet::{Fleet, Links, Presence, SqlFleet, Uptime};
use crate::people::{self, HubGate, People};
use crate::router;
use crate::server::{Certificates, Metrics, Server, TlsError};
use crate::web::Web;

/// At the end, mail that is under way has this long.
const LAST_MAIL: Duration = Duration::from_secs(2);

/// At the end, what is gathered in memory is written within this time.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Where the Hub keeps everything.
#[derive(Clone)]
pub enum Storage {
    /// A SQLite file, made if it is missing.
    Sqlite(PathBuf),
    /// A PostgreSQL database: `postgres://…`, or the words of `libpq`.
    Postgres(String),
}

/// How the Hub is run.
pub struct Options {
    /// Where everything is kept.
    pub storage: Storage,
    /// The address that people and gateways know; by default the one that is listened to.
    pub public_url: Option<Url>,
    /// A certificate chain and its key, as PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// A proxy that is trusted stands before the Hub.
    pub behind_proxy: bool,
    /// Mail and identity providers.
    pub people: people::Options,
    /// Traces are deleted when they are older.
    pub trace_retention: Duration,
    /// Audit events are deleted when they are older.
    pub audit_retention: Duration,
}

/// Why a Hub does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database.
    #[error("cannot open the Hub's database")]
    Database {
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Mail or the identity provider.
    #[error(transparent)]
    People(#[from] people::OptionsError),
}

impl From<DbError> for OpenError {
    fn from(error: DbError) -> Self {
        Self::Database { source: Box::new(error) }
    }
}

/// A Hub, ready to serve.
pub struct Hub {
    database: Arc<dyn Database>,
    people: Arc<People>,
    presence: Arc<Presence>,
    events: Arc<dyn EventStore>,
    server: Server,
    retention: retention::Ages,
    public_url: Url,
    tasks: TaskTracker,
}

impl Hub {
    /// Opens everything. `address` is what will be listened to.
    ///
    /// # Errors
    ///
    /// If the database, the certificate, or what was said about mail and identity providers is of no use.
    pub async fn open(options: Options, address: SocketAddr) -> Result<Self, OpenError> {
        let database: Arc<dyn Database> = match &options.storage {
            Storage::Sqlite(path) => Arc::new(Sqlite::open(path).await?),
            Storage::Postgres(url) => Arc::new(Postgres::open(url, db::postgres_tls()).await?),
        };
        let tls = options.tls.map(|(chain, key)| Certificates::load(&chain, &key)).transpose()?;
        let public_url = options.public_url.unwrap_or_else(|| own_url(address, tls.is_some()));
        let people =
            Arc::new(People::new(Arc::clone(&database), options.people, public_url.clone())?);
        let tasks = TaskTracker::new();
        let directory = options.storage.directory();
        let store = sql::Options { directory, ..sql::Options::default() };
        let events = SqlEvents::open(Arc::clone(&database), store, &tasks).await?;
        let events: Arc<dyn EventStore> = Arc::new(events);
        let (api, web) = wire(&database, Arc::clone(&people), Arc::clone(&events)).await?;
        let presence = Arc::clone(&api.presence);
        let router = router::hub(api, web, Arc::clone(&database));
        Ok(Self {
            server: Server { router, tls: tls.map(Arc::new), behind_proxy: options.behind_proxy },
            retention: retention::Ages {
                traces: options.trace_retention,
                audit: options.audit_retention,
            },
            database,
            people,
            presence,
            events,
            public_url,
            tasks,
        })
    }

    /// The address that people and gateways know.
    pub fn public_url(&self) -> &Url {
        &self.public_url
    }

    /// Returns the link by which the first person sets the Hub up, as long as nobody did. All that were
    /// printed work until then, or for a week.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn setup_url(&self) -> Result<Option<Url>, OpenError> {
        Ok(self.people.setup_url().await?)
    }

    /// Serves until `shutdown`; what is under way then may end.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let Self { database, people, presence, events, server, retention, tasks, .. } = self;
        let background = [
            tokio::spawn(Uptime::keep(Arc::clone(&database))),
            tokio::spawn(removal::run(database, Arc::clone(&events), shutdown.clone())),
            tokio::spawn(retention::run(Arc::clone(&events), retention, shutdown.clone())),
            tokio::spawn(people::sweep(Arc::clone(&people))),
        ];
        // What is gathered is written when no request can add to it any more.
        let served = CancellationToken::new();
        let written = served.clone();
        tasks.spawn(async move { presence.keep(written).await });
        server.serve(listener, shutdown).await;
        served.cancel();
        for task in background {
            task.abort();
        }
        if tokio::time::timeout(LAST_MAIL, people.finish()).await.is_err() {
            tracing::warn!("some mail could not be sent in time");
        }
        // The tasks that write records end with the last one who can hand them some.
        drop(events);
        tasks.close();
        if tokio::time::timeout(LAST_WRITE, tasks.wait()).await.is_err() {
            tracing::warn!("the last heartbeats and records could not be written in time");
        }
    }
}

/// Puts together what answers requests.
pub(crate) async fn wire(
    database: &Arc<dyn Database>,
    people: Arc<People>,
    events: Arc<dyn EventStore>,
) -> Result<(Api, Web), DbError> {
    let uptime = Arc::new(Uptime::begin(&**database).await?);
    let fleet: Arc<dyn Fleet> = Arc::new(SqlFleet::new(Arc::clone(database), uptime));
    let web = Web {
        gate: Arc::new(HubGate::new(Arc::clone(&people))),
        records: Arc::clone(&events) as Arc<dyn Records>,
        fleet: Arc::clone(&fleet),
    };
    let api = Api {
        people,
        links: Links::new(Arc::clone(database), Arc::clone(&events)),
        presence: Arc::new(Presence::new(Arc::clone(database))),
        events,
        fleet,
        metrics: Arc::new(Metrics::default()),
        room: Arc::new(Room::default()),
    };
    Ok((api, web))
}

fn own_url(address: SocketAddr, tls: bool) -> Url {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}/");
    url.parse().expect("a socket address is the authority of a URL")
}

impl Storage {
    /// Where the file is, if it is one.
    fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::Sqlite(path) => path.parent().map(Path::to_path_buf),
            Self::Postgres(_) => None,
        }
    }
}
