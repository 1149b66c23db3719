//! The thread that writes.
//!
//! Everything that waits goes into one transaction. A transaction that fails takes its records with
//! it: audit waiters learn it, traces are dropped and counted. Metrics and states of upstreams stay
//! for the next one. After an error of the file itself the database is opened anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};

use super::commit::{self, Prepared, Upstream, Upstreams};
use super::queue::{Command, Load, Queue, StopGuard, Waiter, Work};
use super::retention::{self, CHUNK_ROWS};
use super::{SqliteOptions, schema};
use crate::StoreError;
use crate::metrics::{self, Figures};
use crate::stored::{Keeping, now_unix_ns};

/// Records of one transaction: more gain nothing, and other gateways want their turn.
const BATCH_COMMANDS_MAX: usize = 1024;

/// Payloads of one transaction, for the same reason.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Pages in the log that are worth writing to the database: 8 MiB.
const CHECKPOINT_PAGES: u32 = 1000;

/// Old rows are looked for so often.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(300);

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
    upstreams: Upstreams,
    maintenance: Instant,
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
            upstreams: Upstreams::new(),
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
                Command::Trace(_) | Command::Catalog(_) | Command::Hold(_) | Command::RenewId => {
                    records.push(command);
                }
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
                Command::Hold(from) => Some(Prepared::Hold(*from)),
                Command::RenewId => Some(Prepared::RenewId),
                Command::Metrics { .. } | Command::Upstream(_) => None,
            })
            .collect();
        let Some(connection) = &mut self.connection else { return Err(StoreError::Closed) };
        let result =
            commit::write(connection, &prepared, &self.figures, &self.upstreams, &self.keeping);
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
        // It may be another file.
        self.upstreams.values_mut().for_each(|upstream| upstream.written = false);
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
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            // What the log holds may fit into the database, and make room in the log.
            self.log_pages.store(CHECKPOINT_PAGES, Ordering::Relaxed);
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
        let deleted = retention::delete_chunk(connection, oldest, rows_max, now, &self.upstreams);
        self.checkpoint();
        self.maintenance = match deleted {
            Ok(rows) if rows >= CHUNK_ROWS => Instant::now(),
            Ok(_) | Err(_) => Instant::now() + MAINTENANCE_PERIOD,
        };
    }
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
