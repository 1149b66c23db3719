//! Reading, on a connection of its own: it sees what is committed and holds nobody up.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::code;
use super::runs;
use super::schema::{self, FileId};
use crate::filter::{
    AuditFilter, AuditRow, Mark, MetricFilter, MetricRow, Numbers, Run, TraceFilter, TraceRow,
};
use crate::metrics::{self, Figure, Key};
use crate::record::{MetricValue, UpstreamStatus};
use crate::stored;
use crate::{Reader, StoreError};

/// Reads a database that a gateway writes, or has written.
///
/// Has the reading half of [`Store`](crate::Store).
#[derive(Debug)]
pub struct SqliteReader {
    path: PathBuf,
    /// Opened when it is first needed, with the file it has open.
    connection: Mutex<Option<(Connection, Option<FileId>)>>,
}

impl SqliteReader {
    /// Opens a database that exists. Makes no file and starts no thread.
    ///
    /// # Errors
    ///
    /// - [`StoreError::TooNew`]: a newer Ultra made it.
    /// - [`StoreError::Open`]: not there, not ours, or damaged.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let opened = (schema::open_read_only(&path)?, schema::file_id(&path));
        Ok(Self { path, connection: Mutex::new(Some(opened)) })
    }

    /// The path of the database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn lazy(path: PathBuf) -> Self {
        Self { path, connection: Mutex::new(None) }
    }

    /// Closes the connection. The next reading opens another.
    pub(super) fn close(&self) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let file = schema::file_id(&self.path);
        let open = match connection.take() {
            Some((open, of)) if of == file => open,
            Some(_) | None => schema::open_read_only(&self.path)?,
        };
        let result = read(&open);
        // After an error the next reading begins afresh.
        *connection = result.is_ok().then_some((open, file));
        result.map_err(|error| StoreError::Database { source: schema::cause(error) })
    }

    /// Returns when a gateway last said that it runs, in nanoseconds since 1970 UTC. Each says so when
    /// an upstream changes, and every few minutes.
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn seen_unix_ns(&self) -> Result<Option<i64>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT max(seen) FROM upstreams")?;
            statement.query_row([], |row| row.get(0))
        })
    }

    /// See [`Store::catalog`](crate::Store::catalog).
    ///
    /// # Errors
    ///
    /// If the database cannot be read.
    pub fn catalog(&self, upstream: &str, fingerprint: &str) -> Result<Option<Bytes>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT catalog FROM catalogs WHERE upstream = ? AND fingerprint = ?",
                )?
                .query_row([upstream, fingerprint], |row| row.get::<_, Vec<u8>>(0))
                .optional()
                .map(|catalog| catalog.map(Bytes::from))
        })
    }
}

impl Reader for SqliteReader {
    fn traces(&self, filter: &TraceFilter) -> Result<Vec<TraceRow>, StoreError> {
        let id = filter.id.as_deref().map(stored::parse_id);
        if id == Some(None) {
            return Ok(Vec::new());
        }
        let id = id.flatten().map(u128::to_be_bytes);
        let order = Order::of(filter.after_seq);
        let (payloads, join) = match filter.payloads {
            true => ("p.request, p.response", "LEFT JOIN trace_payloads p ON p.seq = t.seq"),
            false => ("NULL, NULL", ""),
        };
        let sql = format!(
            "SELECT t.seq, t.id, t.trace_id, t.span_id, t.parent_span_id, t.operation, t.method,
                 t.upstream, t.name, {payloads}, t.request_bytes, t.response_bytes,
                 t.status, t.error, t.duration, t.started, t.principal, t.session_id, t.metadata
             FROM traces t {join}
             WHERE t.seq > ?1 AND t.seq < ?10
                 AND (?2 IS NULL OR t.upstream = ?2)
                 AND (?3 IS NULL OR t.name = ?3)
                 AND (?4 IS NULL OR t.operation = ?4)
                 AND (?5 IS NULL OR t.status = ?5)
                 AND (?6 IS NULL OR t.trace_id = ?6 OR t.id = ?6)
                 AND t.started >= ?7 AND t.started < ?8
                 AND (?11 IS NULL OR t.principal = ?11)
                 AND (?12 IS NULL OR t.session_id = ?12)
             ORDER BY t.seq {} LIMIT ?9",
            order.sql()
        );
        let rows = self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let parameters = params![
                filter.after_seq.unwrap_or(i64::MIN),
                filter.upstream,
                filter.name,
                filter.operation,
                filter.status.map(code::status_code),
                id,
                filter.since_unix_ns.unwrap_or(i64::MIN),
                filter.until_unix_ns.unwrap_or(i64::MAX),
                limit(filter.limit),
                filter.before_seq.unwrap_or(i64::MAX),
                filter.principal,
                filter.session_id,
            ];
            statement.query_map(parameters, trace_row)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(order.newest_first(rows))
    }

    fn audit_events(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        let id = filter.id.as_deref().map(stored::parse_id);
        if id == Some(None) {
            return Ok(Vec::new());
        }
        let id = id.flatten().map(u128::to_be_bytes);
        let order = Order::of(filter.after_seq);
        let sql = format!(
            "SELECT seq, id, trace_id, event_type, severity, upstream, action, principal, session_id,
                 outcome, reason, details, at
             FROM audit_events
             WHERE seq > ?1 AND seq < ?9
                 AND (?2 IS NULL OR upstream = ?2)
                 AND (?3 IS NULL OR action = ?3)
                 AND (?4 IS NULL OR event_type = ?4)
                 AND (?5 IS NULL OR outcome = ?5)
                 AND at >= ?6 AND at < ?7
                 AND (?10 IS NULL OR principal = ?10)
                 AND (?11 IS NULL OR session_id = ?11)
                 AND (?12 IS NULL OR severity = ?12)
                 AND (?13 IS NULL OR id = ?13)
             ORDER BY seq {} LIMIT ?8",
            order.sql()
        );
        let rows = self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let parameters = params![
                filter.after_seq.unwrap_or(i64::MIN),
                filter.upstream,
                filter.name,
                filter.event_type,
                filter.outcome.map(code::outcome_code),
                filter.since_unix_ns.unwrap_or(i64::MIN),
                filter.until_unix_ns.unwrap_or(i64::MAX),
                limit(filter.limit),
                filter.before_seq.unwrap_or(i64::MAX),
                filter.principal,
                filter.session_id,
                filter.severity.map(code::severity_code),
                id,
            ];
            statement.query_map(parameters, audit_row)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(order.newest_first(rows))
    }

    fn metric_rows(&self, filter: &MetricFilter) -> Result<Vec<MetricRow>, StoreError> {
        let figures = self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT instrument, operation, upstream, name, unit, value FROM metrics
                 WHERE minute >= ?1 AND minute < ?2
                     AND (?3 IS NULL OR instrument = ?3)
                     AND (?4 IS NULL OR upstream = ?4)
                     AND (?5 IS NULL OR name = ?5)
                 ORDER BY minute",
            )?;
            let parameters = params![
                filter.since_unix_ns.map_or(i64::MIN, metrics::minute),
                filter.until_unix_ns.map_or(i64::MAX, metrics::minute),
                filter.instrument,
                filter.upstream,
                filter.name,
            ];
            statement.query_map(parameters, figure)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(metrics::sum(figures))
    }

    fn upstreams(&self) -> Result<Vec<UpstreamStatus>, StoreError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT status FROM upstreams ORDER BY at DESC, upstream")?;
            let status = |row: &Row<'_>| parse(row, 0);
            statement.query_map([], status)?.collect()
        })
    }

    fn database_id(&self) -> Result<String, StoreError> {
        self.read(runs::database_id)
    }

    fn numbers(&self) -> Result<Numbers, StoreError> {
        self.read(runs::numbers)
    }

    fn numbers_before(&self, unix_ns: i64) -> Result<Mark, StoreError> {
        self.read(|connection| runs::numbers_before(connection, unix_ns))
    }

    fn trace_run(&self, run: Run) -> Result<Vec<TraceRow>, StoreError> {
        self.read(|connection| runs::traces(connection, run))
    }

    fn audit_run(&self, run: Run) -> Result<Vec<AuditRow>, StoreError> {
        self.read(|connection| runs::audit_events(connection, run))
    }
}

/// Which end of the table to begin at.
#[derive(Clone, Copy)]
enum Order {
    NewestFirst,
    /// Following: what comes next.
    OldestFirst,
}

impl Order {
    fn of(after_seq: Option<i64>) -> Self {
        if after_seq.is_some() { Self::OldestFirst } else { Self::NewestFirst }
    }

    fn sql(self) -> &'static str {
        match self {
            Self::NewestFirst => "DESC",
            Self::OldestFirst => "ASC",
        }
    }

    fn newest_first<T>(self, mut rows: Vec<T>) -> Vec<T> {
        match self {
            Self::NewestFirst => {}
            Self::OldestFirst => rows.reverse(),
        }
        rows
    }
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) fn trace_row(row: &Row<'_>) -> rusqlite::Result<TraceRow> {
    let span_id = |id: i64| stored::span_id_hex(id.cast_unsigned());
    let payload =
        |index| row.get::<_, Option<String>>(index).map(|payload| payload.map(stored::raw_json));
    Ok(TraceRow {
        seq: row.get(0)?,
        id: uuid::Uuid::from_bytes(row.get(1)?).to_string(),
        trace_id: stored::trace_id_hex(u128::from_be_bytes(row.get(2)?)),
        span_id: span_id(row.get(3)?),
        parent_span_id: row.get::<_, Option<i64>>(4)?.map(span_id),
        operation: row.get(5)?,
        method: row.get(6)?,
        upstream: row.get(7)?,
        name: row.get(8)?,
        request: payload(9)?,
        response: payload(10)?,
        request_bytes: row.get::<_, i64>(11)?.unsigned_abs(),
        response_bytes: row.get::<_, i64>(12)?.unsigned_abs(),
        status: known(code::status(row.get(13)?), 13)?,
        error: row.get(14)?,
        duration: row.get::<_, i64>(15)?.cast_unsigned(),
        timestamp: stored::timestamp(row.get(16)?),
        principal: row.get(17)?,
        session_id: row.get(18)?,
        metadata: stored::raw_json(row.get(19)?),
    })
}

pub(super) fn audit_row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    let trace_id = |id: [u8; 16]| stored::trace_id_hex(u128::from_be_bytes(id));
    Ok(AuditRow {
        seq: row.get(0)?,
        id: uuid::Uuid::from_bytes(row.get(1)?).to_string(),
        trace_id: row.get::<_, Option<[u8; 16]>>(2)?.map(trace_id),
        event_type: row.get(3)?,
        severity: known(code::severity(row.get(4)?), 4)?,
        upstream: row.get(5)?,
        action: row.get(6)?,
        principal: row.get(7)?,
        session_id: row.get(8)?,
        outcome: known(code::outcome(row.get(9)?), 9)?,
        reason: row.get(10)?,
        details: stored::raw_json(row.get(11)?),
        timestamp: stored::timestamp(row.get(12)?),
    })
}

fn figure(row: &Row<'_>) -> rusqlite::Result<(Key, Figure)> {
    let text = |index| row.get::<_, String>(index).map(Arc::<str>::from);
    let some = |text: Arc<str>| Some(text).filter(|text| !text.is_empty());
    let key = Key {
        instrument: text(0)?,
        operation: text(1)?,
        upstream: some(text(2)?),
        name: some(text(3)?),
    };
    Ok((key, Figure { unit: text(4)?, value: parse::<MetricValue>(row, 5)? }))
}

fn parse<T: serde::de::DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(index)?).map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(index, kind, Box::new(error))
    })
}

pub(super) fn known<T>(value: Option<T>, index: usize) -> rusqlite::Result<T> {
    value.ok_or_else(|| {
        let kind = rusqlite::types::Type::Integer;
        rusqlite::Error::FromSqlConversionFailure(index, kind, "not a known code".into())
    })
}
