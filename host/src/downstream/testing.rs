//! What tests of this side are made with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use ultra_store::{MemoryOptions, MemoryStore, Redactor, Store};

use super::Setup;
use crate::aggregator::Naming;
use crate::gateway::Gateway;
use crate::upstream::{Guard, Pool, Surroundings};

/// Returns a setup without upstreams and interceptors.
pub(super) fn setup() -> Setup {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let guard = Arc::new(Guard::new("/none".into()));
    let redactor = Redactor::new(Vec::new());
    let (shutdown, timeout) = (CancellationToken::new(), Duration::from_secs(60));
    let surroundings = Surroundings::of_gateway(
        Arc::clone(&guard),
        Arc::clone(&store),
        redactor.clone(),
        shutdown.clone(),
        timeout,
        Arc::default(),
    );
    let (_, upstreams) = watch::channel(Vec::new().into());
    Setup {
        gateway: Gateway::new(watch::channel(None).1),
        server_name: "ultra".to_owned(),
        pool: Pool::new(surroundings, upstreams.clone()),
        upstreams,
        only: None,
        naming: Naming::Prefixed,
        guard,
        store,
        redactor,
        stopping: shutdown.clone(),
        shutdown,
        call_timeout: timeout,
        rush: Arc::default(),
        http_sessions_max: 4,
        http_session_idle: timeout,
        seal: Arc::default(),
        subject: None,
        exporter: None,
        clients: Arc::default(),
    }
}
