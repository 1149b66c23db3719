//! The Hub's database in PostgreSQL.

use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use rustls::ClientConfig;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type as PgType, to_sql_checked};

use super::{Database, DbError, Dialect, Row, Table, Transaction, Type, Value, migrate};

/// Connections of one replica. PostgreSQL takes 100 of all by default.
const CONNECTIONS: usize = 16;

/// Whoever gets no connection for so long is told to come back.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// No statement of ours takes longer, but for those of migrations.
const STATEMENT_MS_MAX: u64 = 30_000;

/// A replica that was cut off in the middle of a transaction holds its locks no longer than this.
const IDLE_TRANSACTION_MS_MAX: u64 = 30_000;

/// A server that is gone is noticed within this time, and not when TCP gives up after a quarter of an hour.
const SERVER_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Statements kept prepared by a connection. There are about a hundred; filters make some more, by the
/// number of their values.
const PREPARED_MAX: usize = 256;

/// A PostgreSQL database.
#[derive(Debug)]
pub(crate) struct Postgres {
    pool: Pool,
}

impl Postgres {
    /// Connects to `postgres://user:password@host/database`, and brings the schema up to date.
    ///
    /// With `sslmode=require`, `verify-full` or `prefer` in the address, TLS with the certificates of `tls`,
    /// which are always verified.
    pub(crate) async fn open(url: &str, tls: ClientConfig) -> Result<Self, DbError> {
        // The driver knows the words of `libpq` but for those that only say how much is verified.
        let url = ["verify-full", "verify-ca"].iter().fold(url.to_owned(), |url, mode| {
            url.replace(&format!("sslmode={mode}"), "sslmode=require")
        });
        let mut config: tokio_postgres::Config = url.parse().map_err(refused)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECTION_WAIT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SERVER_SILENCE_MAX);
        }
        if !url.contains("keepalives") {
            config.keepalives_idle(SERVER_SILENCE_MAX);
            config.keepalives_interval(SERVER_SILENCE_MAX / 3);
            config.keepalives_retries(3);
        }
        if config.get_application_name().is_none() {
            config.application_name("ultra-hub");
        }
        let given = config.get_options().unwrap_or_default();
        // Plans are made for the values: with a generic one, a search would lock the table of every day.
        let options = format!(
            "-c statement_timeout={STATEMENT_MS_MAX} -c plan_cache_mode=force_custom_plan \
             -c idle_in_transaction_session_timeout={IDLE_TRANSACTION_MS_MAX} {given}"
        );
        config.options(options);
        let manager = Manager::from_config(
            config,
            tokio_postgres_rustls::MakeRustlsConnect::new(tls),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION_WAIT))
            .create_timeout(Some(CONNECTION_WAIT))
            .build()
            .map_err(refused)?;
        let mut client = pool.get().await.map_err(unavailable)?;
        migrate::postgres(&mut client).await?;
        drop(client);
        Ok(Self { pool })
    }
}

/// How PostgreSQL servers are trusted: with the certificates of the system.
pub(crate) fn tls() -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[async_trait]
impl Database for Postgres {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    async fn rows(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        query(&self.client().await?, sql, parameters).await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, DbError> {
        // Whoever is dropped while it begins must not leave it begun.
        let transaction = PostgresTransaction { client: Some(self.client().await?) };
        transaction.client().batch_execute("BEGIN").await.map_err(failed)?;
        Ok(Box::new(transaction))
    }

    async fn execute(&self, sql: &str, parameters: &[Value]) -> Result<u64, DbError> {
        execute(&self.client().await?, sql, parameters).await
    }
}

impl Postgres {
    async fn client(&self) -> Result<Object, DbError> {
        let client = self.pool.get().await.map_err(unavailable)?;
        if client.statement_cache.size() > PREPARED_MAX {
            client.statement_cache.clear();
        }
        Ok(client)
    }
}

struct PostgresTransaction {
    /// Until the end of the transaction.
    client: Option<Object>,
}

impl PostgresTransaction {
    fn client(&self) -> &Object {
        self.client.as_ref().expect("only `commit` takes it, and takes the transaction too")
    }
}

impl Drop for PostgresTransaction {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        // Back to the pool when it is undone. If that fails, or there is nobody left to do it, the
        // connection is closed, which undoes it too.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            drop(Object::take(client));
            return;
        };
        runtime.spawn(async move {
            let undone = client.batch_execute("ROLLBACK");
            if !matches!(tokio::time::timeout(CONNECTION_WAIT, undone).await, Ok(Ok(()))) {
                drop(Object::take(client));
            }
        });
    }
}

#[async_trait]
impl Transaction for PostgresTransaction {
    async fn rows(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        query(self.client(), sql, parameters).await
    }

    async fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, DbError> {
        execute(self.client(), sql, parameters).await
    }

    async fn insert(&mut self, table: &Table, rows: Vec<Vec<Value>>) -> Result<u64, DbError> {
        let columns = columns(table, rows);
        let client = self.client();
        let statement = client.prepare_cached(&insertion(table)).await.map_err(failed)?;
        client.execute(&statement, &arrays(&columns)).await.map_err(failed)
    }

    async fn insert_new(
        &mut self,
        table: &Table,
        key: &[usize],
        rows: Vec<Vec<Value>>,
    ) -> Result<Vec<bool>, DbError> {
        let names: Vec<_> = key.iter().map(|column| table.columns[*column].0).collect();
        let sql = format!("{} RETURNING {}", insertion(table), names.join(", "));
        let (count, columns) = (rows.len(), columns(table, rows));
        let client = self.client();
        let statement = client.prepare_cached(&sql).await.map_err(failed)?;
        let inserted = client.query(&statement, &arrays(&columns)).await.map_err(failed)?;
        if inserted.len() == count {
            return Ok(vec![true; count]);
        }
        let inserted = inserted.iter().map(|found| row(found).map(|row| key_text(row.0.iter())));
        let mut inserted: HashSet<String> = inserted.collect::<Result<_, _>>()?;
        let is_new = |at| {
            let values = key.iter().map(|column: &usize| &columns[*column][at]);
            inserted.remove(&key_text(values))
        };
        Ok((0..count).map(is_new).collect())
    }

    async fn batch(&mut self, sql: &str) -> Result<(), DbError> {
        self.client().batch_execute(sql).await.map_err(failed)
    }

    async fn commit(mut self: Box<Self>) -> Result<(), DbError> {
        self.client().batch_execute("COMMIT").await.map_err(failed)?;
        // Back to the pool, and not away.
        drop(self.client.take());
        Ok(())
    }
}

/// Returns the statement that inserts an array for each column.
fn insertion(table: &Table) -> String {
    let names: Vec<_> = table.columns.iter().map(|(name, _)| *name).collect();
    let arrays = table.columns.iter().enumerate();
    let arrays: Vec<_> =
        arrays.map(|(at, (_, of))| format!("${}::{}[]", at + 1, name(*of))).collect();
    format!(
        "INSERT INTO {} ({}) SELECT * FROM UNNEST({}) {}",
        table.name,
        names.join(", "),
        arrays.join(", "),
        table.conflict
    )
}

fn columns(table: &Table, rows: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
    let column = || Vec::with_capacity(rows.len());
    let mut columns: Vec<Vec<Value>> = table.columns.iter().map(|_| column()).collect();
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    columns
}

fn arrays(columns: &[Vec<Value>]) -> Vec<&(dyn ToSql + Sync)> {
    columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect()
}

/// Returns a text that is the same for equal keys only.
fn key_text<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    values.map(|value| format!("{value:?} ")).collect()
}

fn name(of: Type) -> &'static str {
    match of {
        Type::Int => "int8",
        Type::Text => "text",
        Type::Bytes => "bytea",
    }
}

fn references(parameters: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    parameters.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

async fn query(client: &Object, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    let rows = client.query(&statement, &references(parameters)).await.map_err(failed)?;
    rows.iter().map(row).collect()
}

async fn execute(client: &Object, sql: &str, parameters: &[Value]) -> Result<u64, DbError> {
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    client.execute(&statement, &references(parameters)).await.map_err(failed)
}

fn row(row: &tokio_postgres::Row) -> Result<Row, DbError> {
    let value = |(at, column): (usize, &tokio_postgres::Column)| {
        let value = match *column.type_() {
            PgType::INT8 => row.try_get::<_, Option<i64>>(at).map(Value::from),
            PgType::INT4 => row.try_get::<_, Option<i32>>(at).map(|v| v.map(i64::from).into()),
            PgType::BOOL => row.try_get::<_, Option<bool>>(at).map(Value::from),
            PgType::FLOAT8 => row.try_get::<_, Option<f64>>(at).map(Value::from),
            PgType::BYTEA => row.try_get::<_, Option<Vec<u8>>>(at).map(Value::from),
            PgType::TEXT | PgType::VARCHAR | PgType::NAME => {
                row.try_get::<_, Option<String>>(at).map(Value::from)
            }
            // `sum` of integers of 64 bits, unless it is cast: no statement of ours may return that.
            _ => return Err(DbError::Column { column: at }),
        };
        value.map_err(failed)
    };
    row.columns().iter().enumerate().map(value).collect::<Result<_, _>>().map(Row)
}

impl ToSql for Value {
    fn to_sql(
        &self,
        of: &PgType,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(value) => match *of {
                PgType::INT4 => i32::try_from(*value)?.to_sql(of, out),
                PgType::BOOL => (*value != 0).to_sql(of, out),
                PgType::FLOAT8 => (*value as f64).to_sql(of, out),
                _ => value.to_sql_checked(of, out),
            },
            Self::Float(value) => value.to_sql_checked(of, out),
            Self::Text(value) if value.contains('\0') => {
                // PostgreSQL has no text with this character.
                value.replace('\0', "\u{fffd}").to_sql_checked(of, out)
            }
            Self::Text(value) => value.to_sql_checked(of, out),
            Self::Bytes(value) => value.to_sql_checked(of, out),
        }
    }

    fn accepts(_: &PgType) -> bool {
        true
    }

    to_sql_checked!();
}

fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> DbError {
    DbError::Unavailable { source: error.into() }
}

fn refused(error: impl Into<Box<dyn Error + Send + Sync>>) -> DbError {
    DbError::Refused { source: error.into() }
}

pub(super) fn failed(error: tokio_postgres::Error) -> DbError {
    let Some(code) = error.code() else {
        // The connection is gone, or was never there.
        return unavailable(error);
    };
    if *code == SqlState::UNIQUE_VIOLATION {
        return DbError::Exists;
    }
    // A server that became a standby; somebody who holds a lock; a row whose day got its own table while it
    // was on its way (there are no other checks).
    let passes = [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::CHECK_VIOLATION,
    ];
    // Class 08 connection, 40 deadlock, 53 resources, 57 operator, 58 system.
    match code.code().get(..2) {
        Some("08" | "40" | "53" | "57" | "58") => unavailable(error),
        Some(_) | None if passes.contains(code) => unavailable(error),
        Some(_) | None => refused(error),
    }
}
