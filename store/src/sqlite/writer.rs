//! The thread that writes.
//!
//! Everything that waits goes into one transaction. A transaction that fails takes its records with
//! it: audit waiters learn it, traces are dropped and counted. Metrics and states of upstreams stay
//! for the next one. After an error of the file itself the database is opened anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::queue::{CatalogUse, Command, Load, Queue, StopGuard, Waiter, Work};
use super::{SqliteOptions, schema};
use crate::StoreError;
use crate::memory::CATALOGS_PER_UPSTREAM;
use crate::metrics::{self, Figure, Figures, Key};
use crate::record::{AuditEvent, MetricValue, Trace, UpstreamStatus};
use crate::stored::{AuditText, Keeping, TraceText, now_unix_ns};

/// Records of one transaction: more gain nothing, and other gateways want their turn.
const BATCH_COMMANDS_MAX: usize = 1024;

/// Payloads of one transaction, for the same reason.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Pages in the log that are worth writing to the database: SQLite's own default.
const CHECKPOINT_PAGES: u32 = 1000;

/// Old rows are looked for so often.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(300);

/// Old rows deleted at a time: a few milliseconds, which a call may have to wait.
const CHUNK_ROWS: i64 = 500;

/// A gateway not heard of for a day is gone.
const GATEWAY_SILENCE_MAX_NS: i64 = 24 * 60 * 60 * 1_000_000_000;

/// Figures that wait for a transaction that succeeds. Beyond, the oldest are lost.
const FIGURES_WAITING_MAX: usize = 10_000;

/// The writer's own state.
pub(super) struct Writer {
    options: SqliteOptions,
    keeping: Keeping,
    queue: Arc<Queue>,
    connection: Option<Connection>,
    /// Which file the connection has open.
    file: Option<schema::FileId>,
    /// Pages in the log after the last commit.
    log_pages: Arc<AtomicU32>,
    /// Not yet written.
    figures: Figures,
    /// Of this gateway.
    upstreams: BTreeMap<(String, u32), Upstream>,
    maintenance: Instant,
}

pub(super) struct Upstream {
    status: UpstreamStatus,
    written: bool,
}

/// A record with its texts as they are stored.
enum Prepared<'a> {
    Trace(&'a Trace, TraceText<'a>),
    Audit(&'a AuditEvent, AuditText<'a>),
    Catalog(&'a CatalogUse),
}

impl Writer {
    pub(super) fn new(options: SqliteOptions, connection: Connection, queue: Arc<Queue>) -> Self {
        let keeping = Keeping {
            redactor: options.redactor.clone(),
            payload_bytes_max: options.payload_bytes_max,
        };
        let mut writer = Self {
            options,
            keeping,
            queue,
            connection: None,
            file: None,
            log_pages: Arc::default(),
            figures: Figures::new(),
            upstreams: BTreeMap::new(),
            // Soon, but not while the gateway starts.
            maintenance: Instant::now() + Duration::from_secs(10),
        };
        writer.adopt(connection);
        writer
    }

    pub(super) fn run(mut self) {
        let _stop = StopGuard(Arc::clone(&self.queue));
        loop {
            match self.queue.next(self.maintenance) {
                Work::Write(commands) => {
                    self.write(commands);
                    self.checkpoint();
                    if Instant::now() >= self.maintenance {
                        self.maintain();
                    }
                }
                Work::Maintain => self.maintain(),
                Work::Stop => break,
            }
        }
        self.abandon_if_replaced();
        // Closing the last connection of all writes the log to the database.
        drop(self.connection.take());
    }

    /// Writes commands in as few transactions as their limits allow.
    fn write(&mut self, mut commands: VecDeque<Command>) {
        while !commands.is_empty() {
            let mut load = Load::default();
            let mut count = 0;
            for command in commands.iter().take(BATCH_COMMANDS_MAX) {
                if count > 0 && load.bytes > BATCH_BYTES_MAX {
                    break;
                }
                load.add(Load::of(command));
                count += 1;
            }
            let rest = commands.split_off(count);
            self.write_batch(commands, load);
            commands = rest;
        }
    }

    fn write_batch(&mut self, commands: VecDeque<Command>, load: Load) {
        let count = commands.len() as u64;
        let mut waiters: Vec<Waiter> = Vec::with_capacity(load.audit_events);
        let mut unheard = load.traces as u64;
        let mut records = Vec::with_capacity(commands.len());
        for command in commands {
            match command {
                Command::Metrics { minute, deltas } => {
                    metrics::gather(&mut self.figures, minute, deltas);
                }
                Command::Upstream(status) => {
                    let key = (status.upstream.clone(), status.gateway_pid);
                    self.upstreams.insert(key, Upstream { status: *status, written: false });
                }
                Command::Audit(event, waiter) => {
                    unheard += u64::from(waiter.is_none());
                    waiters.extend(waiter);
                    records.push(Command::Audit(event, None));
                }
                Command::Trace(_) | Command::Catalog(_) => records.push(command),
            }
        }
        while self.figures.len() > FIGURES_WAITING_MAX {
            self.figures.pop_first();
        }
        match self.commit(&records) {
            Ok(()) => {
                self.figures.clear();
                self.upstreams.values_mut().for_each(|upstream| upstream.written = true);
                self.queue.finish(count, load, Ok(()));
                waiters.into_iter().for_each(|waiter| {
                    // Whoever does not wait any more does not want to know.
                    let _ = waiter.send(Ok(()));
                });
            }
            Err(error) => {
                self.queue.count_dropped(unheard);
                self.queue.finish(count, load, Err(chain(&error)));
                waiters.into_iter().for_each(|waiter| {
                    let _ = waiter.send(Err(error.clone()));
                });
            }
        }
    }

    /// Writes records and what else is waiting in one transaction, durably or not at all.
    fn commit(&mut self, records: &[Command]) -> Result<(), StoreError> {
        self.ensure_open()?;
        // Before the transaction: other gateways need not wait for it.
        let prepared: Vec<Prepared<'_>> = records
            .iter()
            .filter_map(|command| match command {
                Command::Trace(trace) => Some(Prepared::Trace(trace, self.keeping.trace(trace))),
                Command::Audit(event, _) => Some(Prepared::Audit(event, self.keeping.audit(event))),
                Command::Catalog(catalog) => Some(Prepared::Catalog(catalog)),
                Command::Metrics { .. } | Command::Upstream(_) => None,
            })
            .collect();
        let Some(connection) = &mut self.connection else { return Err(StoreError::Closed) };
        let result =
            write_all(connection, &prepared, &self.figures, &self.upstreams, &self.keeping);
        result.map_err(|error| self.failed(error))
    }

    /// Opens the database again if that is due: after an error, or if the file is not there any more.
    fn ensure_open(&mut self) -> Result<(), StoreError> {
        if let Some(pages_max) = self.queue.take_pages_max()
            && let Some(connection) = &self.connection
        {
            let set =
                connection.pragma_update_and_check(None, "max_page_count", pages_max, |_| Ok(()));
            set.map_err(|error| self.failed(error))?;
        }
        self.abandon_if_replaced();
        if self.connection.is_none() {
            let connection = schema::open(&self.options.path)?;
            self.adopt(connection);
        }
        Ok(())
    }

    /// Gives up the connection if its file was deleted or replaced: what is written to it would be
    /// durable where nobody can find it.
    fn abandon_if_replaced(&mut self) {
        if self.file == schema::file_id(&self.options.path) {
            return;
        }
        if let Some(connection) = self.connection.take() {
            // Closing would delete the log by its name, which may be that of the new file.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }

    fn adopt(&mut self, mut connection: Connection) {
        let log_pages = Arc::clone(&self.log_pages);
        let hook = move |_: &mut Wal, pages: i32| {
            log_pages.store(pages.unsigned_abs(), Ordering::Relaxed);
            Ok(())
        };
        // It cannot fail but for want of memory; the log then is only written when it is closed.
        let _ = connection.wal_hook(Some(hook));
        connection.set_prepared_statement_cache_capacity(64);
        self.connection = Some(connection);
        self.file = schema::file_id(&self.options.path);
    }

    /// Makes an error of SQLite one of the store, and gives up the connection if it may be the cause.
    fn failed(&mut self, error: rusqlite::Error) -> StoreError {
        let goes_on = matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        );
        if !goes_on {
            self.connection = None;
        }
        StoreError::Database { source: schema::cause(error) }
    }

    /// Writes the log to the database when it has become long.
    ///
    /// What cannot be written stays in the log, durable all the same: an error here is no error of
    /// any record. It comes again with the next commits.
    fn checkpoint(&mut self) {
        if self.log_pages.load(Ordering::Relaxed) < CHECKPOINT_PAGES {
            return;
        }
        if let Some(connection) = &self.connection {
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        // The hook tells again with the next commit.
        self.log_pages.store(0, Ordering::Relaxed);
    }

    /// Deletes a chunk of what is too old. Comes back soon if there is more.
    ///
    /// An error is no error of any record; the next time is as good.
    fn maintain(&mut self) {
        let now = now_unix_ns();
        let oldest = i64::try_from(self.options.retention.as_nanos())
            .map_or(i64::MIN, |retention| now.saturating_sub(retention));
        let rows_max = i64::try_from(self.options.retention_rows).unwrap_or(i64::MAX);
        let Some(connection) = &mut self.connection else {
            self.maintenance = Instant::now() + MAINTENANCE_PERIOD;
            return;
        };
        let deleted = delete_chunk(connection, oldest, rows_max, now, &self.upstreams);
        self.checkpoint();
        self.maintenance = match deleted {
            Ok(rows) if rows >= CHUNK_ROWS.unsigned_abs() => Instant::now(),
            Ok(_) | Err(_) => Instant::now() + MAINTENANCE_PERIOD,
        };
    }
}

fn write_all(
    connection: &mut Connection,
    prepared: &[Prepared<'_>],
    figures: &Figures,
    upstreams: &BTreeMap<(String, u32), Upstream>,
    keeping: &Keeping,
) -> rusqlite::Result<()> {
    // Dropping a transaction rolls it back.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for record in prepared {
        match record {
            Prepared::Trace(trace, text) => insert_trace(&transaction, trace, text)?,
            Prepared::Audit(event, text) => insert_audit(&transaction, event, text)?,
            Prepared::Catalog(catalog) => write_catalog(&transaction, catalog)?,
        }
    }
    for ((minute, key), figure) in figures {
        add_figure(&transaction, *minute, key, figure, keeping)?;
    }
    for Upstream { status, written } in upstreams.values() {
        if !written {
            write_upstream(&transaction, status, keeping)?;
        }
    }
    transaction.commit()
}

fn bytes_of(payload: Option<&bytes::Bytes>) -> i64 {
    payload.map_or(0, |payload| i64::try_from(payload.len()).unwrap_or(i64::MAX))
}

fn insert_trace(
    transaction: &Transaction<'_>,
    trace: &Trace,
    text: &TraceText<'_>,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO traces (id, trace_id, span_id, parent_span_id, started, duration, status,
             operation, method, upstream, name, principal, session_id, request_bytes, response_bytes,
             error, metadata)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    insert.execute(params![
        trace.id.as_bytes(),
        trace.trace_id.to_be_bytes(),
        trace.span_id.cast_signed(),
        trace.parent_span_id.map(u64::cast_signed),
        trace.started_unix_ns,
        trace.duration_ns.cast_signed(),
        super::read::status_code(trace.status),
        trace.operation,
        &*trace.method,
        trace.upstream.as_deref(),
        text.name.as_deref(),
        &*trace.principal,
        &*trace.session_id,
        bytes_of(trace.request.as_ref()),
        bytes_of(trace.response.as_ref()),
        text.error.as_deref(),
        &*text.metadata,
    ])?;
    if text.request.is_none() && text.response.is_none() {
        return Ok(());
    }
    transaction
        .prepare_cached("INSERT INTO trace_payloads (seq, request, response) VALUES (?, ?, ?)")?
        .execute(params![
            transaction.last_insert_rowid(),
            text.request.as_deref(),
            text.response.as_deref()
        ])?;
    Ok(())
}

fn insert_audit(
    transaction: &Transaction<'_>,
    event: &AuditEvent,
    text: &AuditText<'_>,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO audit_events (id, trace_id, at, event_type, severity, outcome, upstream, action,
             principal, session_id, reason, details)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    insert.execute(params![
        event.id.as_bytes(),
        event.trace_id.map(u128::to_be_bytes),
        event.unix_ns,
        event.event_type,
        super::read::severity_code(event.severity),
        super::read::outcome_code(event.outcome),
        event.upstream.as_deref(),
        text.action.as_deref(),
        &*event.principal,
        event.session_id.as_deref(),
        text.reason.as_deref(),
        &*text.details,
    ])?;
    Ok(())
}

/// Adds a figure to that of all gateways.
fn add_figure(
    transaction: &Transaction<'_>,
    minute: i64,
    key: &Key,
    figure: &Figure,
    keeping: &Keeping,
) -> rusqlite::Result<()> {
    let upstream = key.upstream.as_deref().unwrap_or_default();
    let name = keeping.text(key.name.as_deref()).unwrap_or_default();
    let known = transaction
        .prepare_cached(
            "SELECT value FROM metrics
             WHERE minute = ? AND instrument = ? AND operation = ? AND upstream = ? AND name = ?",
        )?
        .query_row(params![minute, &*key.instrument, &*key.operation, upstream, name], |row| {
            row.get::<_, String>(0)
        })
        .optional()?;
    let mut value = figure.value.clone();
    // What another version wrote in another shape makes room.
    if let Some(mut sum) = known.and_then(|json| serde_json::from_str::<MetricValue>(&json).ok())
        && sum.add(&figure.value)
    {
        value = sum;
    }
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO metrics
                 (minute, instrument, operation, upstream, name, unit, value)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            minute,
            &*key.instrument,
            &*key.operation,
            upstream,
            name,
            &*figure.unit,
            json(&value)?,
        ])?;
    Ok(())
}

fn write_upstream(
    transaction: &Transaction<'_>,
    status: &UpstreamStatus,
    keeping: &Keeping,
) -> rusqlite::Result<()> {
    let text = |text: &Option<String>| keeping.text(text.as_deref()).map(Into::into);
    let stored = UpstreamStatus {
        error: text(&status.error),
        stderr: text(&status.stderr),
        ..status.clone()
    };
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO upstreams (upstream, gateway_pid, at, seen, status)
             VALUES (?, ?, ?, ?, ?)",
        )?
        .execute(params![
            stored.upstream,
            stored.gateway_pid,
            stored.unix_ns,
            now_unix_ns(),
            json(&stored)?,
        ])?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn write_catalog(transaction: &Transaction<'_>, entry: &CatalogUse) -> rusqlite::Result<()> {
    let CatalogUse { upstream, fingerprint, catalog } = entry;
    let now = now_unix_ns();
    let Some(catalog) = catalog else {
        transaction
            .prepare_cached(
                "UPDATE catalogs SET used_at = ? WHERE upstream = ? AND fingerprint = ?",
            )?
            .execute(params![now, upstream, fingerprint])?;
        return Ok(());
    };
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO catalogs (upstream, fingerprint, used_at, catalog)
             VALUES (?, ?, ?, ?)",
        )?
        .execute(params![upstream, fingerprint, now, catalog.as_ref()])?;
    transaction
        .prepare_cached(
            "DELETE FROM catalogs WHERE upstream = ?1 AND fingerprint NOT IN
                 (SELECT fingerprint FROM catalogs WHERE upstream = ?1
                  ORDER BY used_at DESC, rowid DESC LIMIT ?2)",
        )?
        .execute(params![upstream, CATALOGS_PER_UPSTREAM as i64])?;
    Ok(())
}

/// Deletes some of what is too old or too much; returns how many rows of the table with most.
pub(super) fn delete_chunk(
    connection: &mut Connection,
    oldest_unix_ns: i64,
    rows_max: i64,
    now_unix_ns: i64,
    upstreams: &BTreeMap<(String, u32), Upstream>,
) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let traces = delete_rows(&transaction, "traces", "started", oldest_unix_ns, rows_max)?;
    let audit_events = delete_rows(&transaction, "audit_events", "at", oldest_unix_ns, rows_max)?;
    // Every figure of the oldest hour there is, if it is too old.
    let figures = transaction
        .prepare_cached(
            "DELETE FROM metrics
             WHERE minute < min(?, (SELECT min(minute) + 60 FROM metrics))",
        )?
        .execute([metrics::minute(oldest_unix_ns)])? as u64;
    for (upstream, gateway_pid) in upstreams.keys() {
        transaction
            .prepare_cached("UPDATE upstreams SET seen = ? WHERE upstream = ? AND gateway_pid = ?")?
            .execute(params![now_unix_ns, upstream, gateway_pid])?;
    }
    transaction
        .prepare_cached("DELETE FROM upstreams WHERE seen < ?")?
        .execute([now_unix_ns - GATEWAY_SILENCE_MAX_NS])?;
    transaction.commit()?;
    Ok(traces.max(audit_events).max(figures))
}

/// Looks at the first rows of a table only. The last row always stays, for its number.
fn delete_rows(
    transaction: &Transaction<'_>,
    table: &str,
    time: &str,
    oldest: i64,
    rows_max: i64,
) -> rusqlite::Result<u64> {
    let last: Option<i64> = transaction
        .prepare_cached(&format!("SELECT max(seq) FROM {table}"))?
        .query_row([], |row| row.get(0))?;
    let Some(last) = last else { return Ok(0) };
    let first_kept = last.saturating_sub(rows_max).saturating_add(1).min(last);
    let outdated = format!(
        "SELECT seq FROM (SELECT seq, {time} FROM {table} ORDER BY seq LIMIT {CHUNK_ROWS})
         WHERE (seq < ?1 OR {time} < ?2) AND seq < ?3"
    );
    let limits = params![first_kept, oldest, last];
    if table == "traces" {
        transaction
            .prepare_cached(&format!("DELETE FROM trace_payloads WHERE seq IN ({outdated})"))?
            .execute(limits)?;
    }
    let deleted = transaction
        .prepare_cached(&format!("DELETE FROM {table} WHERE seq IN ({outdated})"))?
        .execute(limits)?;
    Ok(deleted as u64)
}

/// Joins an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
