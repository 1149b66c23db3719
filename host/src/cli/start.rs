//! `ultra start`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ultra_store::{MemoryOptions, MemoryStore, Redactor, SqliteOptions, SqliteStore, Store};

use super::{CliError, CliResult, log};
use crate::config::{Backend, Config, Endpoint, Environment};
use crate::downstream::{Setup, stdio};
use crate::gateway::Gateway;
use crate::upstream::{Guard, Program};

/// Measurements are handed to the store this often, while there are some.
const METRICS_PERIOD: Duration = Duration::from_secs(5);

/// At the end, the store may take this long to write what is queued.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// Run the gateway as an MCP server on stdio
///
/// Starts every enabled upstream and serves their tools, resources and prompts. Stdout belongs to MCP;
/// the log goes to stderr. Ends when the client goes away, or at SIGINT and SIGTERM.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Load the components in this directory beside the built-in ones
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Start although a component of the directory was refused
    #[arg(long)]
    allow_refused_plugins: bool,
}

/// Returns the store the config asks for.
fn open_store(config: &Config, redactor: &Redactor) -> Result<Arc<dyn Store>, CliError> {
    let storage = &config.storage;
    match storage.backend {
        Backend::Memory => {
            let options = MemoryOptions {
                payload_bytes_max: storage.payload_bytes_max,
                redactor: redactor.clone(),
                ..MemoryOptions::default()
            };
            Ok(Arc::new(MemoryStore::new(options)))
        }
        Backend::Sqlite => {
            let options = SqliteOptions {
                payload_bytes_max: storage.payload_bytes_max,
                retention: storage.retention,
                retention_rows: storage.retention_rows,
                redactor: redactor.clone(),
                ..SqliteOptions::new(&storage.path)
            };
            let store = SqliteStore::open(options).map_err(|error| {
                CliError::other(&error).hint("`storage.path` names another file, `storage.backend: memory` none")
            })?;
            Ok(Arc::new(store))
        }
    }
}

/// Returns how each enabled upstream is started.
fn programs(config: &Config, environment: &Environment) -> Vec<(Arc<str>, Program)> {
    let mut programs = Vec::new();
    for upstream in config.upstreams.iter().filter(|upstream| upstream.enabled) {
        match &upstream.endpoint {
            Endpoint::Stdio { command, args, env, cwd } => {
                let mut all = environment.for_children();
                all.extend(env.clone());
                let program =
                    Program { command: command.clone(), args: args.clone(), env: all, cwd: cwd.clone() };
                programs.push((Arc::clone(&upstream.name), program));
            }
            Endpoint::Http { .. } => tracing::warn!(
                upstream = %upstream.name,
                "upstream `{}` is left out: this version starts upstreams on stdio only", upstream.name
            ),
        }
    }
    if programs.is_empty() {
        let path = config.path.as_ref().map_or_else(|| "the config file".to_owned(), |path| path.display().to_string());
        tracing::warn!("no upstream is enabled: add one under `upstream` in {path}");
    }
    programs
}
