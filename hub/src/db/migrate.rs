//! The schema, and how a database comes to it.

use deadpool_postgres::Object;
use rusqlite::Connection;

use super::{DbError, Dialect, postgres, sqlite};

/// By version: what leads to it from the one before. `{bytes}` is the type of bytes. A line that begins
/// with `--sqlite` or `--postgres` is for that one only.
const MIGRATIONS: [&[&str]; 1] = [&[
    include_str!("schema/accounts.sql"),
    include_str!("schema/fleet.sql"),
    include_str!("schema/events.sql"),
]];

/// Replicas that start at the same time wait for each other.
const LOCK: i64 = 0x756c_7472_6168_7562;

/// Says that a database is ours, as `PRAGMA application_id`.
const APPLICATION_ID: i64 = 0x756c_6862;

fn text(of: Dialect, migration: &[&str]) -> String {
    let (ours, theirs, bytes) = match of {
        Dialect::Sqlite => ("--sqlite ", "--postgres ", "BLOB"),
        Dialect::Postgres => ("--postgres ", "--sqlite ", "BYTEA"),
    };
    let lines = migration.iter().flat_map(|part| part.lines());
    let lines = lines.filter(|line| !line.starts_with(theirs));
    let lines = lines.map(|line| line.strip_prefix(ours).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n").replace("{bytes}", bytes)
}

fn known() -> i64 {
    MIGRATIONS.len() as i64
}

fn missing(found: i64) -> Result<&'static [&'static [&'static str]], DbError> {
    let known = known();
    let from = usize::try_from(found).unwrap_or_default();
    MIGRATIONS.get(from..).ok_or(DbError::TooNew { found, known })
}

/// Brings a SQLite database up to date.
pub(super) fn sqlite(connection: &Connection) -> Result<(), DbError> {
    let migrate = || {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let get = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (found, application) = (get("user_version")?, get("application_id")?);
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if application != APPLICATION_ID && tables > 0 {
            return Ok(Err("this file is not a database of the Hub"));
        }
        let Ok(missing) = missing(found) else { return Ok(Ok(Some(found))) };
        for migration in missing {
            connection.execute_batch(&text(Dialect::Sqlite, migration))?;
        }
        connection.pragma_update(None, "user_version", known())?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.execute_batch("COMMIT")?;
        Ok(Ok(None))
    };
    match migrate().map_err(sqlite::failed)? {
        Ok(None) => Ok(()),
        Ok(Some(found)) => Err(DbError::TooNew { found, known: known() }),
        Err(foreign) => Err(DbError::Refused { source: foreign.into() }),
    }
}

/// Brings a PostgreSQL database up to date.
pub(super) async fn postgres(client: &mut Object) -> Result<(), DbError> {
    let failed = postgres::failed;
    let transaction = client.transaction().await.map_err(failed)?;
    let lock = format!(
        "SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({LOCK});
         CREATE TABLE IF NOT EXISTS ultra_schema (version BIGINT NOT NULL);"
    );
    transaction.batch_execute(&lock).await.map_err(failed)?;
    let version = transaction.query_opt("SELECT version FROM ultra_schema", &[]).await;
    let found = version.map_err(failed)?.map_or(0, |row| row.get::<_, i64>(0));
    let missing = missing(found)?;
    if missing.is_empty() {
        return Ok(());
    }
    for migration in missing {
        let sql = text(Dialect::Postgres, migration);
        transaction.batch_execute(&sql).await.map_err(failed)?;
    }
    let known = known();
    let set =
        format!("DELETE FROM ultra_schema; INSERT INTO ultra_schema (version) VALUES ({known})");
    transaction.batch_execute(&set).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}
