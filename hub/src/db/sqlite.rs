//! The Hub's database in a file.
//!
//! One connection writes, a few read. SQLite blocks, so each statement runs on a thread for that.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, params_from_iter};
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::task::spawn_blocking;

use super::{Database, DbError, Dialect, Row, Table, Transaction, Value, migrate};

/// Statements that read at the same time; further ones wait.
const READERS: usize = 4;

/// Only somebody with another program has the file locked for long.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Statements kept prepared per connection.
const PREPARED: usize = 128;

/// Pages kept in memory per connection, in KiB.
const CACHE_KIB: i64 = 16 * 1024;

/// A SQLite database.
pub(crate) struct Sqlite {
    writer: Arc<tokio::sync::Mutex<Connection>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    reading: Arc<Semaphore>,
}

impl Sqlite {
    /// Opens a database, or makes it for its owner only, and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, DbError> {
        let path = path.to_owned();
        let (writer, readers) = spawn_blocking(move || {
            protect(&path).map_err(|error| DbError::Unavailable { source: Box::new(error) })?;
            let writer = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            migrate::sqlite(&writer)?;
            let reader = |_| connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY);
            let readers = (0..READERS).map(reader).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, DbError>((writer, readers))
        })
        .await
        .map_err(stopped)??;
        Ok(Self {
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            readers: Arc::new(Mutex::new(readers)),
            reading: Arc::new(Semaphore::new(READERS)),
        })
    }
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").finish_non_exhaustive()
    }
}

/// Makes sure that the file is there and only its owner can read it.
fn protect(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    options.open(path).map(drop)
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, DbError> {
    let open = || {
        let connection =
            Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        if access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
            connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
            // A commit is on the disk when it returns. On macOS only `fullfsync` makes it so.
            connection.execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;",
            )?;
        }
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;")?;
        Ok(connection)
    };
    open().map_err(failed)
}

#[async_trait]
impl Database for Sqlite {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    async fn rows(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        // Never closed. The statement holds it, and not the asker: who gives up leaves the connection busy.
        let permit = Arc::clone(&self.reading).acquire_owned().await.map_err(unavailable)?;
        let (sql, parameters) = (numbered(sql), parameters.to_vec());
        let readers = Arc::clone(&self.readers);
        spawn_blocking(move || {
            let lock = || readers.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = lock().pop().ok_or_else(|| unavailable("no reader is left"))?;
            let rows = query(&connection, &sql, &parameters);
            lock().push(connection);
            drop(permit);
            rows.map_err(failed)
        })
        .await
        .map_err(stopped)?
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, DbError> {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        let mut transaction = SqliteTransaction { writer: Some(writer) };
        transaction
            .run(|connection| {
                // Whoever began before was dropped in the middle of a statement.
                if !connection.is_autocommit() {
                    connection.execute_batch("ROLLBACK")?;
                }
                connection.execute_batch("BEGIN IMMEDIATE")
            })
            .await?;
        Ok(Box::new(transaction))
    }
}

struct SqliteTransaction {
    /// Away only while a statement runs.
    writer: Option<OwnedMutexGuard<Connection>>,
}

impl SqliteTransaction {
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DbError> {
        let Some(writer) = self.writer.take() else {
            return Err(unavailable("the transaction was given up"));
        };
        let (writer, result) = spawn_blocking(move || {
            let result = work(&writer);
            (writer, result)
        })
        .await
        .map_err(stopped)?;
        self.writer = Some(writer);
        result.map_err(failed)
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer
            && !writer.is_autocommit()
        {
            // What is left is undone by the next one that begins.
            let _ = writer.execute_batch("ROLLBACK");
        }
    }
}

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn rows(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        let (sql, parameters) = (numbered(sql), parameters.to_vec());
        self.run(move |connection| query(connection, &sql, &parameters)).await
    }

    async fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, DbError> {
        let (sql, parameters) = (numbered(sql), parameters.to_vec());
        self.run(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            statement.execute(params_from_iter(&parameters)).map(|rows| rows as u64)
        })
        .await
    }

    async fn insert(&mut self, table: &Table, rows: Vec<Vec<Value>>) -> Result<u64, DbError> {
        let new = self.insert_new(table, &[], rows).await?;
        Ok(new.into_iter().filter(|new| *new).count() as u64)
    }

    async fn insert_new(
        &mut self,
        table: &Table,
        _key: &[usize],
        rows: Vec<Vec<Value>>,
    ) -> Result<Vec<bool>, DbError> {
        let names: Vec<_> = table.columns.iter().map(|(name, _)| *name).collect();
        let places: Vec<_> = (1..=names.len()).map(|number| format!("?{number}")).collect();
        let sql = format!(
            "INSERT INTO {} ({}) VALUES ({}) {}",
            table.name,
            names.join(", "),
            places.join(", "),
            table.conflict
        );
        self.run(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let insert = |row: &Vec<Value>| Ok(statement.execute(params_from_iter(row))? > 0);
            rows.iter().map(insert).collect()
        })
        .await
    }

    async fn batch(&mut self, sql: &str) -> Result<(), DbError> {
        let sql = sql.to_owned();
        self.run(move |connection| connection.execute_batch(&sql)).await
    }

    async fn commit(mut self: Box<Self>) -> Result<(), DbError> {
        self.run(|connection| connection.execute_batch("COMMIT")).await
    }
}

/// Returns a statement with `?1` for `$1`: to SQLite `$1` is a name, which says nothing of its place.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

fn query(connection: &Connection, sql: &str, parameters: &[Value]) -> rusqlite::Result<Vec<Row>> {
    let mut statement: rusqlite::CachedStatement<'_> = connection.prepare_cached(sql)?;
    let columns = Statement::column_count(&statement);
    let mut found = statement.query(params_from_iter(parameters))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let values = (0..columns).map(|column| row.get_ref(column).map(value));
        rows.push(Row(values.collect::<rusqlite::Result<_>>()?));
    }
    Ok(rows)
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Int(value),
        ValueRef::Real(value) => Value::Float(value),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Float(value) => ValueRef::Real(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DbError {
    DbError::Unavailable { source: error.into() }
}

/// The program ends, or the statement panicked, which has been reported where it happened.
fn stopped(error: tokio::task::JoinError) -> DbError {
    unavailable(error)
}

pub(super) fn failed(error: rusqlite::Error) -> DbError {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};

    let extended = error.sqlite_error().map(|error| error.extended_code);
    if matches!(extended, Some(SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_UNIQUE)) {
        return DbError::Exists;
    }
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory,
        ) => DbError::Unavailable { source: Box::new(error) },
        Some(_) | None => DbError::Refused { source: Box::new(error) },
    }
}
