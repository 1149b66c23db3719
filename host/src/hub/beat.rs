//! Heartbeats: that the process runs, who uses it, what is behind it, and how much waits to be sent.
//!
//! The answer says what the Hub has, which is what decides what is sent.

use std::collections::HashMap;
use std::pin::pin;

use futures_util::FutureExt;
use tokio::time::sleep;
use ultra_hub::wire::{Heartbeat, Host, SetupReport, UpstreamReport};
use ultra_store::{StoreError, UpstreamStatus};

use super::pace::{Failure, Signal, jittered};
use super::state::Here;
use super::sync::Shared;
use super::text::short;
use crate::lock;

/// As many as the Hub shows.
const UPSTREAMS_MAX: usize = 256;

/// Of each text: with as many as there can be a heartbeat stays below the 256 KiB that the Hub takes.
const TEXT_BYTES_MAX: usize = 200;

/// Sends heartbeats until the gateway ends, or the Hub has said its last word.
pub(super) async fn run(shared: &Shared) {
    let mut back_off = shared.back_off();
    let first_client = async {
        shared.options.clients.first().await;
        sleep(shared.timing.first_client).await;
    };
    let mut first_client = pin!(first_client);
    let mut is_greeted = false;
    loop {
        // Whoever asked for a heartbeat until now gets this one.
        let _ = shared.beat_now.notified().now_or_never();
        let beaten = tokio::select! {
            beaten = beat_if_linked(shared) => beaten,
            () = shared.stop.cancelled() => return,
            () = shared.off.cancelled() => return,
        };
        let Some(beaten) = beaten else { return };
        // A Hub that does not answer is left alone, whoever waits for it.
        let is_answered = beaten.is_ok();
        let pause = match beaten {
            Ok(()) => {
                shared.taken(Signal::Heartbeats);
                shared.heard.notify_waiters();
                if back_off.reset() {
                    shared.back.notify_waiters();
                }
                jittered(shared.heartbeat_period())
            }
            Err(failure) => {
                shared.failed(Signal::Heartbeats, &failure);
                back_off.next(&failure)
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.beat_now.notified(), if is_answered => {}
            () = &mut first_client, if is_answered && !is_greeted => is_greeted = true,
            () = shared.stop.cancelled() => return,
            () = shared.off.cancelled() => return,
        }
    }
}

/// Says good-bye. Whether the Hub hears it does not matter.
pub(super) async fn farewell(shared: &Shared) {
    let Ok(database) = shared.store.database_id() else { return };
    let Ok(heartbeat) = heartbeat(shared, database, true) else { return };
    let _ = shared.client.heartbeat(shared.options.secret.expose(), &heartbeat).await;
}

/// Sends a heartbeat. Returns nothing if the gateway is not linked any more.
async fn beat_if_linked(shared: &Shared) -> Option<Result<(), Failure>> {
    if !shared.is_linked().await {
        return None;
    }
    Some(beat(shared).await)
}

/// Sends a heartbeat, and takes over what the Hub has.
pub(super) async fn beat(shared: &Shared) -> Result<(), Failure> {
    let database = shared.store.database_id()?;
    let said = lock(&shared.state).said(&database);
    let heartbeat = heartbeat(shared, database.clone(), false)?;
    let reply = shared.client.heartbeat(shared.options.secret.expose(), &heartbeat).await?;
    let here = Here {
        numbers: shared.store.numbers()?,
        private: shared.store.numbers_before(shared.options.linked_unix_ns)?,
    };
    let has_less = lock(&shared.state).learn(&database, reply.streams, said, here)?;
    if has_less {
        tracing::info!(
            "the Hub has less than it had, as after a backup was restored: the rest is sent again"
        );
    }
    Ok(())
}

fn heartbeat(shared: &Shared, database: String, farewell: bool) -> Result<Heartbeat, StoreError> {
    let numbers = shared.store.numbers()?;
    let unsent =
        lock(&shared.state).streams(&database).map_or(0, |streams| streams.unsent(numbers));
    let options = &shared.options;
    let period_s = shared.heartbeat_period().as_secs();
    Ok(Heartbeat {
        process: shared.process.clone(),
        host: cut_host(&options.host),
        period_s: u32::try_from(period_s).unwrap_or(u32::MAX),
        farewell,
        database,
        unsent,
        clients: options.clients.report(),
        upstreams: upstreams(shared)?,
        setup: SetupReport::default(),
    })
}

/// Returns the servers of this process that are in the config.
fn upstreams(shared: &Shared) -> Result<Vec<UpstreamReport>, StoreError> {
    let definitions = shared.options.upstreams.borrow().clone();
    let transports: HashMap<_, _> = definitions
        .iter()
        .map(|definition| (&*definition.name, definition.endpoint.transport()))
        .collect();
    let (pid, started) = (std::process::id(), shared.options.started_unix_ns);
    // In containers all processes have the same id.
    let is_ours = |status: &UpstreamStatus| status.gateway_pid == pid && status.unix_ns >= started;
    let report = |status: UpstreamStatus| {
        let transport = transports.get(status.upstream.as_str())?;
        Some(UpstreamReport {
            name: cut(&status.upstream),
            state: status.state,
            server: status.server.as_deref().map(cut),
            transport: Some((*transport).to_owned()),
            tools: status.tools,
            error: status.error.as_deref().map(cut),
        })
    };
    let statuses = shared.store.upstreams()?.into_iter().filter(is_ours);
    Ok(statuses.filter_map(report).take(UPSTREAMS_MAX).collect())
}

/// The system and the config name things as they like.
fn cut_host(host: &Host) -> Host {
    Host {
        os: cut(&host.os),
        os_version: host.os_version.as_deref().map(cut),
        arch: cut(&host.arch),
        hostname: cut(&host.hostname),
        version: cut(&host.version),
        kind: cut(&host.kind),
        environment: cut(&host.environment),
    }
}

fn cut(text: &str) -> String {
    short(text, TEXT_BYTES_MAX)
}
