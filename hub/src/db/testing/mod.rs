//! Databases for tests: SQLite in a directory, and a PostgreSQL of the test run's own.

#[allow(unreachable_pub, dead_code, reason = "other test programs include this file too")]
mod cluster;

use std::sync::Arc;

use super::{Database, Postgres, Sqlite};
use cluster::Cluster;

/// A database with the Hub's schema. Gone when this is dropped, or with the test run.
pub(crate) struct TestDatabase {
    pub(crate) database: Arc<dyn Database>,
    _directory: Option<tempfile::TempDir>,
}

impl TestDatabase {
    /// A SQLite database.
    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = Sqlite::open(&directory.path().join("hub.db")).await.unwrap();
        Self { database: Arc::new(database), _directory: Some(directory) }
    }

    /// A PostgreSQL database; nothing, loudly, where PostgreSQL is not installed.
    pub(crate) async fn postgres() -> Option<Self> {
        let url = tokio::task::spawn_blocking(|| Cluster::shared().map(Cluster::database));
        let url = url.await.unwrap()?;
        let database = Postgres::open(&url, super::postgres::tls()).await.unwrap();
        Some(Self { database: Arc::new(database), _directory: None })
    }

    /// A PostgreSQL database on a server of its own, which waits for the disk: for measuring.
    pub(crate) async fn postgres_that_waits() -> Option<Self> {
        let url = tokio::task::spawn_blocking(|| {
            let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(&[])?));
            Some(cluster.database())
        });
        let url = url.await.unwrap()?;
        let database = Postgres::open(&url, super::postgres::tls()).await.unwrap();
        Some(Self { database: Arc::new(database), _directory: None })
    }

    /// One of each kind there is.
    pub(crate) async fn each() -> Vec<Self> {
        let mut databases = vec![Self::sqlite().await];
        databases.extend(Self::postgres().await);
        databases
    }
}
