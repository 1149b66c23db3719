//! Opening the store for commands that read.

use ultra_store::{Reader, SqliteReader};

use super::CliError;
use crate::config::{Backend, Config};

/// Opens the database for reading. Nothing if no gateway has written one yet.
pub(super) fn open_reader(config: &Config) -> Result<Option<Box<dyn Reader>>, CliError> {
    match config.storage.backend {
        Backend::Memory => Err(CliError::user("with `storage.backend: memory` nothing is on disk")
            .hint("records live and end with their gateway; `backend: sqlite` keeps them")),
        Backend::Sqlite if !config.storage.path.exists() => Ok(None),
        Backend::Sqlite => Ok(Some(Box::new(SqliteReader::open(&config.storage.path)?))),
    }
}
