//! A store in a SQLite database.
//!
//! One thread writes. What is queued while it commits shares the next commit ([`writer`]), so that a
//! disk that takes milliseconds per commit still takes thousands of records a second. Several
//! gateways may share a database; each has a writer of its own, and their transactions are short.

mod code;
mod commit;
mod queue;
mod read;
mod retention;
mod runs;
mod schema;
mod survey;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::read::SqliteReader;
pub use self::survey::{Survey, UpstreamUsage, Usage};

use self::queue::{Command, Queue};
use self::writer::Writer;
use crate::filter::{
    AuditFilter, AuditRow, Mark, MetricFilter, MetricRow, Numbers, Run, TraceFilter, TraceRow,
};
use crate::record::{AuditEvent, MetricDelta, Record, UpstreamStatus};
use crate::redact::Redactor;
use crate::{Durable, Health, Reader, Store, StoreError, metrics, stored};

/// How long dropping a store waits for what is queued: longer than one busy database takes.
const DROP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Where a [`SqliteStore`] is, and what it keeps.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file. It and its directory are made if they are missing, for the owner only.
    pub path: PathBuf,
    /// Longer payloads are stored as a string with their beginning. None is stored with 0.
    pub payload_bytes_max: usize,
    /// Records and metrics are deleted when they are older.
    pub retention: Duration,
    /// The oldest traces are deleted when there are more; audit events likewise.
    pub retention_rows: u64,
    /// Takes secrets out of what is stored.
    pub redactor: Redactor,
    /// Traces that may wait to be stored; more are dropped.
    pub queued_traces_max: usize,
    /// Size of their payloads together, before they are cut.
    pub queued_bytes_max: usize,
    /// Audit events that may wait to be stored; more are refused.
    pub queued_audit_max: usize,
}

impl SqliteOptions {
    /// Returns the defaults for a database.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            payload_bytes_max: 64 * 1024,
            retention: Duration::from_secs(30 * 24 * 60 * 60),
            retention_rows: 1_000_000,
            redactor: Redactor::default(),
            queued_traces_max: 16 * 1024,
            queued_bytes_max: 64 * 1024 * 1024,
            queued_audit_max: 4 * 1024,
        }
    }
}

/// A store in a SQLite database.
///
/// Dropping it stores what is queued and stops its thread.
pub struct SqliteStore {
    queue: Arc<Queue>,
    reader: SqliteReader,
    /// For whoever sends the records elsewhere, and reads much: nobody else waits for it.
    runs: SqliteReader,
    writer: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens a database, or makes it, and starts its writer.
    ///
    /// # Errors
    ///
    /// - [`StoreError::TooNew`]: a newer Ultra made it.
    /// - [`StoreError::Open`]: no database, not ours, damaged, or not accessible for the owner only.
    pub fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let connection = schema::open(&options.path)?;
        let queue = Arc::new(Queue::new(&options));
        let reader = SqliteReader::lazy(options.path.clone());
        let runs = SqliteReader::lazy(options.path.clone());
        let path = options.path.clone();
        let writer = Writer::new(options, connection, Arc::clone(&queue));
        let writer = std::thread::Builder::new()
            .name("ultra-store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Open { path, source: Arc::new(error) })?;
        Ok(Self { queue, reader, runs, writer: Some(writer) })
    }

    /// A fault switch for tests: lets the database grow to so many pages of 8 KiB, as a full disk does.
    /// Without a number it may grow again. Takes effect with the next commit.
    pub fn limit_pages(&self, pages_max: Option<u32>) {
        self.queue.limit_pages(pages_max);
    }
}

impl fmt::Debug for SqliteStore {
    /// Shows nothing of what is queued.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.reader.path()).finish_non_exhaustive()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The writer's connection folds the log into the database if it is the last one.
        self.reader.close();
        self.runs.close();
        self.queue.close();
        // A thread that hangs in the disk is left behind: it holds no more than its own connection.
        if self.queue.wait_stopped(Instant::now() + DROP_WAIT_MAX)
            && let Some(writer) = self.writer.take()
        {
            // It only fails by a panic, which has been reported where it happened.
            let _ = writer.join();
        }
    }
}

impl Reader for SqliteStore {
    fn traces(&self, filter: &TraceFilter) -> Result<Vec<TraceRow>, StoreError> {
        self.reader.traces(filter)
    }

    fn audit_events(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        self.reader.audit_events(filter)
    }

    fn metric_rows(&self, filter: &MetricFilter) -> Result<Vec<MetricRow>, StoreError> {
        self.reader.metric_rows(filter)
    }

    fn upstreams(&self) -> Result<Vec<UpstreamStatus>, StoreError> {
        self.reader.upstreams()
    }

    fn database_id(&self) -> Result<String, StoreError> {
        self.runs.database_id()
    }

    fn numbers(&self) -> Result<Numbers, StoreError> {
        self.runs.numbers()
    }

    fn numbers_before(&self, unix_ns: i64) -> Result<Mark, StoreError> {
        self.runs.numbers_before(unix_ns)
    }

    fn trace_run(&self, run: Run) -> Result<Vec<TraceRow>, StoreError> {
        self.runs.trace_run(run)
    }

    fn audit_run(&self, run: Run) -> Result<Vec<AuditRow>, StoreError> {
        self.runs.audit_run(run)
    }
}

impl Store for SqliteStore {
    fn record(&self, record: Record) {
        match record {
            Record::Trace(trace) => self.queue.push_trace(trace),
            Record::Audit(event) => self.queue.push_audit_unheard(event),
        }
    }

    fn audit(&self, event: Box<AuditEvent>) -> Durable {
        match self.queue.push_audit(event) {
            Ok(receiver) => Durable::Pending(receiver),
            Err(error) => Durable::Ready(Err(error)),
        }
    }

    fn metrics(&self, deltas: Vec<MetricDelta>) {
        let minute = metrics::minute(stored::now_unix_ns());
        self.queue.push_other(Command::Metrics { minute, deltas });
    }

    fn upstream(&self, status: UpstreamStatus) {
        self.queue.push_other(Command::Upstream(Box::new(status)));
    }

    fn remember_catalog(&self, upstream: &str, fingerprint: &str, catalog: Bytes) {
        self.queue.push_other(Command::catalog(upstream, fingerprint, Some(catalog)));
    }

    fn catalog(&self, upstream: &str, fingerprint: &str) -> Result<Option<Bytes>, StoreError> {
        let catalog = self.reader.catalog(upstream, fingerprint)?;
        if catalog.is_some() {
            self.queue.push_other(Command::catalog(upstream, fingerprint, None));
        }
        Ok(catalog)
    }

    fn hold_unsent(&self, from: Option<Mark>) {
        self.queue.push_other(Command::Hold(from));
    }

    fn renew_database_id(&self) {
        self.queue.push_other(Command::RenewId);
    }

    fn health(&self) -> Health {
        self.queue.health()
    }

    fn flush(&self, deadline: Instant) -> bool {
        self.queue.flush(deadline)
    }
}

#[cfg(test)]
mod tests;
