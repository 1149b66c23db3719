//! The database: who may read it, how it is opened, its tables and their versions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::StoreError;

/// Of the newest schema known here; as `PRAGMA user_version`.
const VERSION: i64 = 2;

/// "ultr": says that a database is ours, as `PRAGMA application_id`.
const APPLICATION_ID: i64 = 0x756c_7472;

/// How long a transaction waits for those of other gateways.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

/// SQLite's own waiting grows to 100 ms; transactions here take one.
const BUSY_STEP: Duration = Duration::from_micros(500);

/// Of a new database. Payloads of a KiB or two leave much of SQLite's 4 KiB unused; measured per call,
/// this takes a third less writing and a fifth less time.
const PAGE_BYTES: i64 = 8192;

/// The log is cut to this when it starts over: it grows while somebody reads, or when the disk is slow.
const LOG_BYTES_MAX: i64 = 16 * 1024 * 1024;

/// By version: what leads to it from the one before.
///
/// Rows are found by `seq`, which follows time; nothing else is indexed, because an index costs every
/// call and only people read. So that reading does not have to leaf through payloads, they have a
/// table of their own. The row with the highest `seq` is never deleted: numbers are not used twice.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE traces (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        trace_id BLOB NOT NULL,
        span_id INTEGER NOT NULL,
        parent_span_id INTEGER,
        started INTEGER NOT NULL,
        duration INTEGER NOT NULL,
        status INTEGER NOT NULL,
        operation TEXT NOT NULL,
        method TEXT NOT NULL,
        upstream TEXT,
        name TEXT,
        principal TEXT NOT NULL,
        session_id TEXT NOT NULL,
        request_bytes INTEGER NOT NULL,
        response_bytes INTEGER NOT NULL,
        error TEXT,
        metadata TEXT NOT NULL
    ) STRICT;

    CREATE TABLE trace_payloads (
        seq INTEGER PRIMARY KEY,
        request TEXT,
        response TEXT
    ) STRICT;

    CREATE TABLE audit_events (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        trace_id BLOB,
        at INTEGER NOT NULL,
        event_type TEXT NOT NULL,
        severity INTEGER NOT NULL,
        outcome INTEGER NOT NULL,
        upstream TEXT,
        action TEXT,
        principal TEXT NOT NULL,
        session_id TEXT,
        reason TEXT,
        details TEXT NOT NULL
    ) STRICT;

    -- In `upstream` and `name` of metrics nothing is an empty text, so that they can be a key.
    CREATE TABLE metrics (
        minute INTEGER NOT NULL,
        instrument TEXT NOT NULL,
        operation TEXT NOT NULL,
        upstream TEXT NOT NULL,
        name TEXT NOT NULL,
        unit TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (minute, instrument, operation, upstream, name)
    ) STRICT, WITHOUT ROWID;

    -- `seen` is when the gateway last said that it runs; `at` is within `status` too.
    CREATE TABLE upstreams (
        upstream TEXT NOT NULL,
        gateway_pid INTEGER NOT NULL,
        at INTEGER NOT NULL,
        seen INTEGER NOT NULL,
        status TEXT NOT NULL,
        PRIMARY KEY (upstream, gateway_pid)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE catalogs (
        upstream TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        used_at INTEGER NOT NULL,
        catalog BLOB NOT NULL,
        PRIMARY KEY (upstream, fingerprint)
    ) STRICT;
",
    "
    -- One row. From the two numbers on records wait to be sent; nothing if nobody sends them.
    CREATE TABLE sending (
        database_id TEXT NOT NULL,
        unsent_trace INTEGER,
        unsent_audit_event INTEGER
    ) STRICT;

    INSERT INTO sending (database_id) VALUES (lower(hex(randomblob(16))));
",
];

/// Opens a database to write to. Makes it if there is none, brings its schema up to date.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let inaccessible = |error| failed(path, Arc::new(error));
    protect(path).map_err(inaccessible)?;
    let (connection, schema) = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|mut connection| prepare(&mut connection).map(|schema| (connection, schema)))
        .map_err(|error| failed(path, cause(error)))?;
    match schema {
        Schema::Known => {}
        Schema::Newer(found) => {
            return Err(StoreError::TooNew { path: path.to_owned(), found, known: VERSION });
        }
        Schema::Foreign => return Err(failed(path, Arc::new(SchemaError::Foreign))),
    }
    protect_log(path).map_err(inaccessible)?;
    Ok(connection)
}

/// Opens a database to read from. Makes nothing.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, StoreError> {
    // SQLite would say "unable to open database file".
    std::fs::metadata(path).map_err(|error| failed(path, Arc::new(error)))?;
    let (connection, found) = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|connection| schema(&connection).map(|schema| (connection, schema)))
        .map_err(|error| failed(path, cause(error)))?;
    match found {
        (VERSION, true) => Ok(connection),
        (found, true) if found > VERSION => {
            Err(StoreError::TooNew { path: path.to_owned(), found, known: VERSION })
        }
        (found, true) => Err(failed(path, Arc::new(SchemaError::Older { found }))),
        (_, false) => Err(failed(path, Arc::new(SchemaError::Foreign))),
    }
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection is used by one thread at a time.
    let mut connection =
        Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    wait_when_busy(&mut connection)?;
    Ok(connection)
}

fn failed(path: &Path, source: Arc<dyn std::error::Error + Send + Sync>) -> StoreError {
    StoreError::Open { path: path.to_owned(), source }
}

/// What SQLite said, once: rusqlite's error and its source repeat each other.
#[derive(Debug, thiserror::Error)]
#[error("{text} (SQLite code {code})")]
struct SqliteError {
    text: String,
    code: i32,
}

/// Returns an error of SQLite as the source of one of the store.
pub(super) fn cause(error: rusqlite::Error) -> Arc<dyn std::error::Error + Send + Sync> {
    match error {
        rusqlite::Error::SqliteFailure(failure, text) => {
            let code = failure.extended_code;
            let text = text.unwrap_or_else(|| rusqlite::ffi::code_to_str(code).to_owned());
            Arc::new(SqliteError { text, code })
        }
        other => Arc::new(other),
    }
}

/// Why a database that can be opened is of no use.
#[derive(Debug, thiserror::Error)]
enum SchemaError {
    #[error("not a database of Ultra")]
    Foreign,
    #[error("its schema {found} is of an older version, whose next start brings it up to date")]
    Older { found: i64 },
}

enum Schema {
    Known,
    Newer(i64),
    Foreign,
}

/// Returns the version, and whether the database is ours.
fn schema(connection: &Connection) -> rusqlite::Result<(i64, bool)> {
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((version, application == APPLICATION_ID))
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<Schema> {
    // Read first: a foreign database is left as it is.
    let (version, ours) = schema(connection)?;
    if ours && version > VERSION {
        return Ok(Schema::Newer(version));
    }
    if !ours && !is_empty(connection)? {
        return Ok(Schema::Foreign);
    }
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    use_log(connection)?;
    // FULL: a commit is on the disk when it returns. On macOS only `fullfsync` makes it so.
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA fullfsync = ON;
         PRAGMA checkpoint_fullfsync = ON;
         PRAGMA trusted_schema = OFF;",
    )?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_MAX, |_| Ok(()))?;
    // The writer checkpoints between commits, when nobody waits.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    if ours && version == VERSION { Ok(Schema::Known) } else { migrate(connection) }
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

/// Switches to a write-ahead log, which stays so for the file.
///
/// SQLite does not wait here when another gateway does the same.
fn use_log(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + BUSY_WAIT_MAX;
    loop {
        let mode = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(BUSY_STEP);
            }
            Err(error) => return Err(error),
            Ok(_) => {
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
                let text = "the file system does not take a write-ahead log".to_owned();
                return Err(rusqlite::Error::SqliteFailure(code, Some(text)));
            }
        }
    }
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<Schema> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another gateway may have been faster.
    let (version, ours) = schema(&transaction)?;
    if version > VERSION {
        return Ok(Schema::Newer(version));
    }
    if !ours && !is_empty(&transaction)? {
        return Ok(Schema::Foreign);
    }
    for migration in &MIGRATIONS[usize::try_from(version).unwrap_or_default()..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(Schema::Known)
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}

fn wait_when_busy(connection: &mut Connection) -> rusqlite::Result<()> {
    let mut since = Instant::now();
    connection.busy_handler(Some(move |attempt: i32| {
        if attempt == 0 {
            since = Instant::now();
        }
        std::thread::sleep(BUSY_STEP);
        since.elapsed() < BUSY_WAIT_MAX
    }))
}

/// Which file has a path: its device and number.
pub(super) type FileId = (u64, u64);

/// Returns nothing if there is none. Without such numbers all files are the same.
pub(super) fn file_id(path: &Path) -> Option<FileId> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        Some((0, 0))
    }
}

/// Returns the files that SQLite keeps beside a database.
fn log_files(path: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

/// Makes sure that a database is there which only its owner can read.
///
/// An existing file is never opened here: closing it would give up the locks that another connection
/// of this process holds on it.
#[cfg(unix)]
fn protect(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            close_to_others(path)?;
            protect_log(path)
        }
        Err(error) => Err(error),
    }
}

/// SQLite gives the log the database's own mode; one from before that was repaired may be open.
#[cfg(unix)]
fn protect_log(path: &Path) -> std::io::Result<()> {
    for file in log_files(path) {
        match close_to_others(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(unix)]
fn close_to_others(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        // Fails, and with it opening, unless the file is ours.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn protect(path: &Path) -> std::io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::OpenOptions::new().append(true).create(true).open(path).map(drop)
}

#[cfg(not(unix))]
fn protect_log(_path: &Path) -> std::io::Result<()> {
    Ok(())
}
