//! The records Ultra keeps: traces, audit events, metrics, and the catalogs it remembers.
//!
//! All SQL on them lives here. Nothing here knows MCP, HTTP or the pipeline.

#[cfg(test)]
mod contract;
mod filter;
mod memory;
mod metrics;
mod record;
mod redact;
mod sqlite;
mod stored;

use std::path::PathBuf;

use bytes::Bytes;

pub use filter::{
    AuditFilter, AuditRow, Mark, MetricFilter, MetricRow, Numbers, Run, TraceFilter, TraceRow,
};
pub use memory::{MemoryOptions, MemoryStore};
pub use record::{
    AuditEvent, AuditOutcome, FieldValue, MetricDelta, MetricValue, Record, Severity, Status,
    Trace, UpstreamStatus,
};
pub use redact::Redactor;
pub use sqlite::{SqliteOptions, SqliteReader, SqliteStore, Survey, UpstreamUsage, Usage};

/// Where records are read again. May block on the disk: not for the path of a call.
pub trait Reader: Send + Sync + 'static {
    /// Returns traces, newest first.
    fn traces(&self, filter: &TraceFilter) -> Result<Vec<TraceRow>, StoreError>;

    /// Returns audit events, newest first.
    fn audit_events(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError>;

    /// Returns measurements added up per instrument, operation, upstream and name.
    fn metric_rows(&self, filter: &MetricFilter) -> Result<Vec<MetricRow>, StoreError>;

    /// Returns the last known state of each upstream of each gateway, newest first.
    fn upstreams(&self) -> Result<Vec<UpstreamStatus>, StoreError>;

    /// Returns the id of the database: 32 hex digits, of its own within all databases.
    ///
    /// Numbers of records mean something together with it only.
    fn database_id(&self) -> Result<String, StoreError>;

    /// Returns the numbers of the records there are.
    fn numbers(&self) -> Result<Numbers, StoreError>;

    /// Returns the last numbers from before a time, in nanoseconds since 1970 UTC.
    ///
    /// As good as numbers follow time: a call that took long has a later number than its beginning.
    fn numbers_before(&self, unix_ns: i64) -> Result<Mark, StoreError>;

    /// Returns the traces of a run, by rising number.
    fn trace_run(&self, run: Run) -> Result<Vec<TraceRow>, StoreError>;

    /// Returns the audit events of a run, by rising number.
    fn audit_run(&self, run: Run) -> Result<Vec<AuditRow>, StoreError>;
}

/// Where records go.
///
/// Nothing here blocks or does I/O on the caller's thread, but for [`Store::catalog`] and
/// [`Store::flush`].
pub trait Store: Reader {
    /// Queues a record and returns at once.
    ///
    /// When the queue is full a trace is dropped and counted ([`Health::dropped`]). An audit event
    /// handed in here is written like any other, but nobody learns when; see [`Store::audit`].
    fn record(&self, record: Record);

    /// Queues an audit event. The future resolves when it is durable, or cannot be.
    ///
    /// Events queued while a commit is under way share the next one.
    fn audit(&self, event: Box<AuditEvent>) -> Durable;

    /// Adds measurements to those kept.
    fn metrics(&self, deltas: Vec<MetricDelta>);

    /// Replaces what is known about an upstream of this gateway.
    fn upstream(&self, status: UpstreamStatus);

    /// Remembers the catalog of an upstream under `fingerprint`; at most a few per upstream are kept.
    fn remember_catalog(&self, upstream: &str, fingerprint: &str, catalog: Bytes);

    /// Returns the catalog remembered for an upstream under `fingerprint`.
    fn catalog(&self, upstream: &str, fingerprint: &str) -> Result<Option<Bytes>, StoreError>;

    /// Keeps records that wait to be sent: from `from` on, ten times as many stay as otherwise.
    ///
    /// Remembered with the database, for all gateways that share it, until somebody says another place,
    /// or none. Records that are too old are deleted all the same.
    fn hold_unsent(&self, from: Option<Mark>);

    /// Gives the database another id: its numbers are used again, as after a backup was restored.
    fn renew_database_id(&self);

    /// Returns what the writer has done and failed to do.
    fn health(&self) -> Health;

    /// Writes all that is queued, at most until `deadline`. Returns false if it ran out of time.
    fn flush(&self, deadline: std::time::Instant) -> bool;
}

/// So many times as many records are kept while they wait to be sent.
pub(crate) const HELD_FACTOR: usize = 10;

/// Resolves when an audit event is durable, or cannot be.
#[derive(Debug)]
pub enum Durable {
    /// Known at once.
    Ready(Result<(), StoreError>),
    /// The writer will say.
    Pending(tokio::sync::oneshot::Receiver<Result<(), StoreError>>),
}

impl Durable {
    /// Waits for the writer's word.
    ///
    /// # Errors
    ///
    /// Every [`StoreError`] means: not durable. The event may still be stored later.
    pub async fn wait(self) -> Result<(), StoreError> {
        match self {
            Self::Ready(result) => result,
            Self::Pending(receiver) => receiver.await.unwrap_or(Err(StoreError::Closed)),
        }
    }
}

/// What a store's writer has done and failed to do since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Records waiting to be written.
    pub queued: u64,
    /// Records written.
    pub written: u64,
    /// Commits that wrote them.
    pub commits: u64,
    /// Traces dropped because the queue was full or the store failed.
    pub dropped: u64,
    /// Why the last commit failed, while that is the state of things.
    pub error: Option<String>,
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened.
    #[error("cannot open the database `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system said.
        source: std::sync::Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The database is of a newer Ultra.
    #[error("the database `{}` has schema {found}, this version knows {known}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema known here.
        known: i64,
    },
    /// A statement failed.
    #[error("the database failed")]
    Database {
        /// What SQLite said.
        source: std::sync::Arc<dyn std::error::Error + Send + Sync>,
    },
    /// More audit events wait than the store takes.
    #[error("more than {limit} audit events wait to be stored")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The writer has stopped.
    #[error("the store is closed")]
    Closed,
}
