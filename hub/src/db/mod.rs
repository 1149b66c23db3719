//! What the Hub needs of a database, and the two that give it.
//!
//! Statements are written once, for both: integers of 64 bits, numbers, text and bytes; parameters `$1`, `$2`, …,
//! and no other `$`. What only one of them can do is asked for with [`Database::dialect`].

mod migrate;
mod postgres;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;

use async_trait::async_trait;

pub(crate) use postgres::{Postgres, tls as postgres_tls};
pub(crate) use sqlite::Sqlite;
#[cfg(test)]
pub(crate) use value::FromValue;
pub(crate) use value::{Row, Value, values};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// What stands at the end of a `SELECT` whose rows nobody else may change before the transaction
    /// ends. In SQLite nobody can: one transaction writes at a time.
    pub(crate) fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE",
        }
    }
}

/// A database.
#[async_trait]
pub(crate) trait Database: fmt::Debug + Send + Sync {
    /// Which one it is.
    fn dialect(&self) -> Dialect;

    /// Reads with one statement. It changes nothing, and waits for no writer.
    async fn rows(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError>;

    /// Begins a transaction that writes. Dropping it undoes it.
    async fn begin(&self) -> Result<Box<dyn Transaction>, DbError>;

    /// Runs one statement that writes; returns how many rows it touched.
    async fn execute(&self, sql: &str, parameters: &[Value]) -> Result<u64, DbError> {
        let mut transaction = self.begin().await?;
        let rows = transaction.execute(sql, parameters).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// Reads the first row, if there is one.
    async fn row(&self, sql: &str, parameters: &[Value]) -> Result<Option<Row>, DbError> {
        Ok(self.rows(sql, parameters).await?.into_iter().next())
    }
}

/// Statements that take effect together.
#[async_trait]
pub(crate) trait Transaction: Send {
    /// Runs a statement that returns rows.
    async fn rows(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError>;

    /// Runs a statement; returns how many rows it touched.
    async fn execute(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, DbError>;

    /// Inserts many rows at once; returns how many were new.
    async fn insert(&mut self, table: &Table, rows: Vec<Vec<Value>>) -> Result<u64, DbError>;

    /// Inserts those of many rows whose key is not there yet; returns for each whether it was.
    ///
    /// `key` are the columns of the table's unique key, counted from 0. What stands in
    /// [`Table::conflict`] must do nothing. Of equal rows at most one counts as new.
    async fn insert_new(
        &mut self,
        table: &Table,
        key: &[usize],
        rows: Vec<Vec<Value>>,
    ) -> Result<Vec<bool>, DbError>;

    /// Runs statements without parameters, such as those that change the schema.
    async fn batch(&mut self, sql: &str) -> Result<(), DbError>;

    /// Makes it durable.
    async fn commit(self: Box<Self>) -> Result<(), DbError>;

    /// Reads the first row, if there is one.
    async fn row(&mut self, sql: &str, parameters: &[Value]) -> Result<Option<Row>, DbError> {
        Ok(self.rows(sql, parameters).await?.into_iter().next())
    }
}

/// Where many rows are inserted at once.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [(&'static str, Type)],
    /// What stands behind, such as `ON CONFLICT DO NOTHING`.
    pub(crate) conflict: &'static str,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Int,
    Text,
    Bytes,
}

/// Returns how much room a database takes.
pub(crate) async fn size_bytes(database: &dyn Database) -> Result<i64, DbError> {
    let sql = match database.dialect() {
        Dialect::Sqlite => "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
        Dialect::Postgres => "SELECT pg_database_size(current_database())",
    };
    database.row(sql, &[]).await?.ok_or(DbError::Column { column: 0 })?.get(0)
}

/// Why a database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    /// There is already a row with this key.
    #[error("there is one already")]
    Exists,
    /// It may work later: no connection, no space, too much to do.
    #[error("the database is not available")]
    Unavailable { source: Box<dyn std::error::Error + Send + Sync> },
    /// It will not work later either.
    #[error("the database refused")]
    Refused { source: Box<dyn std::error::Error + Send + Sync> },
    /// A row is not what the statement's reader expected.
    #[error("column {column} is not what was expected")]
    Column { column: usize },
    /// A newer Hub changed the schema.
    #[error("the database has schema {found}, this version knows {known}")]
    TooNew { found: i64, known: i64 },
}
