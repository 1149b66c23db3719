//! Heartbeats, on their way to the database.
//!
//! A fleet says every few seconds what mostly has not changed. So heartbeats are gathered, and written
//! together. What is lost when the Hub dies comes again with the next ones.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::state::{OFFLINE_AFTER_MS, silent_ms};
use crate::clock::now_ms;
use crate::db::{Database, DbError, Table, Transaction, Type, Value, values};
use crate::error::{ApiError, chain};
use crate::id::GatewayId;
use crate::wire::{
    ClientReport, HEARTBEAT_PERIOD_S_MIN, Heartbeat, Host, SetupReport, UpstreamReport,
};

/// Heartbeats wait so long for others.
const GATHER: Duration = Duration::from_secs(2);

/// A gateway has a process for each client that is open; more than this many heartbeats at once, or in a
/// minute, are refused.
const BEATS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(120).expect("not zero");

/// Nobody's gateway is silent for longer between two heartbeats.
const PERIOD_S_MAX: u32 = 24 * 60 * 60;

/// Of a heartbeat's lists and texts. More is cut off.
const CLIENTS_MAX: usize = 64;
const UPSTREAMS_MAX: usize = 256;
const TEXT_CHARS_MAX: usize = 256;

/// Processes of one gateway that are kept, the newest; pages show as many.
const PROCESSES_MAX: i64 = 64;

/// More records than any machine keeps: sums of this stay numbers.
const UNSENT_MAX: u64 = 1 << 40;

/// What was written of a machine is written again after so long: another replica may have written
/// something else meanwhile.
const FACTS_MS: i64 = 5 * 60_000;

/// What pages show of a heartbeat, as it is stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) clients: Vec<ClientReport>,
    pub(super) upstreams: Vec<UpstreamReport>,
}

impl Report {
    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// What waits to be written.
#[derive(Default)]
struct Waiting {
    beats: Beats,
    synced: HashMap<i64, i64>,
    facts: Facts,
}

/// By gateway and process.
type Beats = HashMap<(i64, String), Beat>;

/// What was written of each gateway's machine, as a hash, and when.
#[derive(Default)]
struct Facts(HashMap<i64, (i64, u64)>);

impl Facts {
    fn has(&self, gateway: i64, hash: u64, now_ms: i64) -> bool {
        self.0
            .get(&gateway)
            .is_some_and(|(at_ms, written)| *written == hash && now_ms - at_ms < FACTS_MS)
    }

    /// Notes what was written, and forgets what is to be written again anyway.
    fn note(&mut self, written: &HashMap<i64, u64>, now_ms: i64) {
        self.0.retain(|_, (at_ms, _)| now_ms - *at_ms < FACTS_MS);
        self.0.extend(written.iter().map(|(gateway, hash)| (*gateway, (now_ms, *hash))));
    }
}

struct Beat {
    seen_ms: i64,
    silent_ms: i64,
    farewell: bool,
    unsent: i64,
    report: String,
    host: Host,
    setup: SetupReport,
}

/// Takes heartbeats.
pub(crate) struct Presence {
    database: Arc<dyn Database>,
    waiting: Mutex<Waiting>,
    limiter: DefaultKeyedRateLimiter<i64>,
    hasher: RandomState,
}

impl Presence {
    pub(crate) fn new(database: Arc<dyn Database>) -> Self {
        Self {
            database,
            waiting: Mutex::default(),
            limiter: RateLimiter::keyed(Quota::per_minute(BEATS_PER_MINUTE)),
            hasher: RandomState::new(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a gateway was heard of.
    pub(crate) fn note(&self, gateway: GatewayId, heartbeat: Heartbeat) -> Result<(), ApiError> {
        if let Err(not_until) = self.limiter.check_key(&gateway.number()) {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            return Err(ApiError::RateLimited { retry_s: wait.as_secs() + 1 });
        }
        let process = Uuid::parse_str(&heartbeat.process)
            .map_err(|_| ApiError::Invalid("`process` is a UUID".to_owned()))?;
        let period_s = heartbeat.period_s.clamp(HEARTBEAT_PERIOD_S_MIN, PERIOD_S_MAX);
        let seen_ms = now_ms();
        let report = Report {
            clients: heartbeat.clients.into_iter().take(CLIENTS_MAX).map(client).collect(),
            upstreams: heartbeat.upstreams.into_iter().take(UPSTREAMS_MAX).map(upstream).collect(),
        };
        let report = serde_json::to_string(&report)
            .map_err(|_| ApiError::Invalid("the report is no JSON".to_owned()))?;
        let beat = Beat {
            seen_ms,
            silent_ms: silent_ms(seen_ms, period_s),
            farewell: heartbeat.farewell,
            unsent: heartbeat.unsent.min(UNSENT_MAX).cast_signed(),
            report,
            host: cut_host(heartbeat.host),
            setup: cut_setup(heartbeat.setup),
        };
        self.waiting().beats.insert((gateway.number(), process.to_string()), beat);
        Ok(())
    }

    /// Notes that a gateway sent records.
    pub(crate) fn note_sync(&self, gateway: GatewayId) {
        self.waiting().synced.insert(gateway.number(), now_ms());
    }

    /// Writes what was gathered, again and again, and a last time at the end.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        loop {
            let ending = tokio::select! {
                () = tokio::time::sleep(GATHER) => false,
                () = shutdown.cancelled() => true,
            };
            match self.flush().await {
                Ok(()) => {}
                Err(error @ DbError::Refused { .. }) => {
                    tracing::error!(error = chain(&error), "heartbeats were refused and are lost");
                }
                Err(error) => tracing::warn!(%error, "cannot note which gateways are there"),
            }
            self.limiter.retain_recent();
            if ending {
                return;
            }
        }
    }

    /// Writes what was gathered.
    pub(crate) async fn flush(&self) -> Result<(), DbError> {
        let (beats, synced) = {
            let mut waiting = self.waiting();
            (std::mem::take(&mut waiting.beats), std::mem::take(&mut waiting.synced))
        };
        let written = self.flush_beats(beats).await;
        // By itself: so each transaction takes its rows in one order, and replicas do not wait for each
        // other in a circle. What heartbeats are refused for is not the fault of those who sent records.
        written.and(self.flush_synced(synced).await)
    }

    async fn flush_beats(&self, mut beats: Beats) -> Result<(), DbError> {
        if beats.is_empty() {
            return Ok(());
        }
        let mut written = self.write_beats(&beats).await;
        if matches!(written, Err(DbError::Refused { .. })) {
            // A gateway may have been deleted since: no fault of the others.
            written = match gateways(&*self.database).await {
                Ok(there) => {
                    beats.retain(|(gateway, _), _| there.contains(gateway));
                    self.write_beats(&beats).await
                }
                Err(error) => Err(error),
            };
        }
        let mut waiting = self.waiting();
        match &written {
            Ok(()) => {}
            // One of them is what no database takes. The others come again with the next ones.
            Err(DbError::Refused { .. }) => {}
            // What came meanwhile is newer.
            Err(_) => {
                for (of, beat) in beats {
                    waiting.beats.entry(of).or_insert(beat);
                }
            }
        }
        written
    }

    async fn write_beats(&self, beats: &Beats) -> Result<(), DbError> {
        let changed = self.changed(beats);
        let mut transaction = self.database.begin().await?;
        write(&mut *transaction, beats, &changed).await?;
        transaction.commit().await?;
        self.waiting().facts.note(&changed, now_ms());
        Ok(())
    }

    async fn flush_synced(&self, synced: HashMap<i64, i64>) -> Result<(), DbError> {
        if synced.is_empty() {
            return Ok(());
        }
        let written = write_synced(&*self.database, &synced).await;
        if written.is_err() {
            let mut waiting = self.waiting();
            for (gateway, at_ms) in synced {
                waiting.synced.entry(gateway).or_insert(at_ms);
            }
        }
        written
    }

    /// Returns the gateways whose machine is not as it was written, with the hash of what it is now.
    fn changed(&self, beats: &Beats) -> HashMap<i64, u64> {
        let (waiting, now_ms) = (self.waiting(), now_ms());
        let hashes = beats.iter().map(|((gateway, _), beat)| {
            (*gateway, self.hasher.hash_one(format!("{:?}{:?}", beat.host, beat.setup)))
        });
        hashes.filter(|(gateway, hash)| !waiting.facts.has(*gateway, *hash, now_ms)).collect()
    }
}

const PROCESSES: Table = Table {
    name: "processes",
    columns: &[
        ("gateway", Type::Int),
        ("process", Type::Text),
        ("seen_ms", Type::Int),
        ("silent_ms", Type::Int),
        ("farewell", Type::Int),
        ("unsent", Type::Int),
        ("report", Type::Text),
        ("stamp", Type::Int),
    ],
    conflict: "ON CONFLICT (gateway, process) DO UPDATE SET seen_ms = excluded.seen_ms, \
               silent_ms = excluded.silent_ms, farewell = excluded.farewell, \
               unsent = excluded.unsent, report = excluded.report, stamp = excluded.stamp",
};

async fn write(
    transaction: &mut dyn Transaction,
    beats: &Beats,
    changed: &HashMap<i64, u64>,
) -> Result<(), DbError> {
    // Says which rows are of this writing.
    let stamp = rand::random::<i64>();
    // In one order: replicas that write the same rows do not wait for each other in a circle.
    let mut rows: Vec<Vec<Value>> = Vec::with_capacity(beats.len());
    let mut order: Vec<_> = beats.iter().collect();
    order.sort_by_key(|(of, _)| *of);
    for ((gateway, process), beat) in &order {
        let (seen, silent) = (beat.seen_ms, beat.silent_ms);
        let row = values![
            *gateway,
            process.as_str(),
            seen,
            silent,
            beat.farewell,
            beat.unsent,
            beat.report.as_str(),
            stamp
        ];
        rows.push(row.into());
    }
    transaction.insert(&PROCESSES, rows).await?;
    for ((gateway, _), beat) in &order {
        if changed.contains_key(gateway) {
            write_facts(transaction, *gateway, beat).await?;
        }
    }
    // Whoever vanished without a word counts for as long as it makes a difference, and of the others no more
    // than a machine has: a gateway that makes up processes fills nothing.
    let touched = "SELECT gateway FROM processes WHERE stamp = $1";
    let sql = format!(
        "DELETE FROM processes WHERE gateway IN ({touched}) AND (seen_ms < $2
             OR (gateway, process) IN (SELECT gateway, process FROM
                 (SELECT gateway, process, row_number() OVER
                     (PARTITION BY gateway ORDER BY seen_ms DESC, process) AS place
                  FROM processes WHERE gateway IN ({touched})) AS placed WHERE place > $3))"
    );
    let oldest_ms = now_ms() - 2 * OFFLINE_AFTER_MS;
    transaction.execute(&sql, &values![stamp, oldest_ms, PROCESSES_MAX]).await?;
    let sql = format!(
        "INSERT INTO presence (gateway, seen_ms, silent_ms, farewell, unsent)
         SELECT gateway, max(seen_ms), max(CASE farewell WHEN 0 THEN silent_ms ELSE 0 END),
             min(farewell), max(unsent)
         FROM processes WHERE gateway IN ({touched}) GROUP BY gateway ORDER BY gateway
         ON CONFLICT (gateway) DO UPDATE SET seen_ms = excluded.seen_ms,
             silent_ms = excluded.silent_ms, farewell = excluded.farewell,
             unsent = excluded.unsent"
    );
    transaction.execute(&sql, &values![stamp]).await.map(drop)
}

async fn gateways(database: &dyn Database) -> Result<HashSet<i64>, DbError> {
    let rows = database.rows("SELECT id FROM gateways", &[]).await?;
    rows.iter().map(|row| row.get(0)).collect()
}

async fn write_synced(database: &dyn Database, synced: &HashMap<i64, i64>) -> Result<(), DbError> {
    let mut synced: Vec<_> = synced.iter().collect();
    synced.sort_unstable();
    let mut transaction = database.begin().await?;
    for (gateway, at_ms) in synced {
        let sql = "UPDATE presence SET synced_ms = $2 WHERE gateway = $1";
        transaction.execute(sql, &values![*gateway, *at_ms]).await?;
    }
    transaction.commit().await
}

async fn write_facts(
    transaction: &mut dyn Transaction,
    gateway: i64,
    beat: &Beat,
) -> Result<(), DbError> {
    let (host, setup) = (&beat.host, &beat.setup);
    let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
    transaction
        .execute(
            "UPDATE gateways SET os = $2, os_version = $3, arch = $4, hostname = $5, version = $6,
                 kind = $7, environment = $8, enforcement_profile = $9, config_scan_ms = $10,
                 servers_managed = $11, servers_total = $12, drift_events = $13
             WHERE id = $1",
            &values![
                gateway,
                &host.os,
                host.os_version.clone(),
                &host.arch,
                &host.hostname,
                &host.version,
                &host.kind,
                &host.environment,
                setup.enforcement_profile.clone(),
                setup.config_scan_unix_ms,
                number(setup.servers_managed),
                number(setup.servers_total),
                number(setup.drift_events),
            ],
        )
        .await
        .map(drop)
}

/// Returns the beginning of a text.
fn cut(text: String) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

pub(super) fn cut_host(host: Host) -> Host {
    Host {
        os: cut(host.os),
        os_version: host.os_version.map(cut),
        arch: cut(host.arch),
        hostname: cut(host.hostname),
        version: cut(host.version),
        kind: cut(host.kind),
        environment: cut(host.environment),
    }
}

fn cut_setup(setup: SetupReport) -> SetupReport {
    SetupReport { enforcement_profile: setup.enforcement_profile.map(cut), ..setup }
}

fn client(client: ClientReport) -> ClientReport {
    ClientReport { name: cut(client.name), version: cut(client.version), ..client }
}

fn upstream(upstream: UpstreamReport) -> UpstreamReport {
    UpstreamReport {
        name: cut(upstream.name),
        state: cut(upstream.state),
        server: upstream.server.map(cut),
        transport: upstream.transport.map(cut),
        tools: upstream.tools,
        error: upstream.error.map(cut),
    }
}

#[cfg(test)]
mod tests;
