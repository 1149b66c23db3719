//! Export of spans and metrics over OTLP: beside the calls, never in their way.
//!
//! A call leaves its span in a bounded queue and goes on; a thread of its own, with a runtime of its
//! own, sends what has gathered. A collector that is slow, gone or refuses costs spans, which are
//! counted, and nothing else. Local records are the business of the store.

mod client;
mod meters;
mod semconv;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;
use ultra_store::{MetricDelta, Redactor, Trace};

use crate::config::Observability;
use crate::lock;
use crate::wasm::SpanSink;
use client::{Client, Endpoint};
use meters::Meters;
use semconv::Call;
use worker::Worker;

pub use client::EndpointError;

/// Spans that may wait. At 250 bytes each they take 1 MiB; what comes on top is dropped and counted.
const QUEUE_MAX: usize = 4_096;

/// Sessions whose facts may wait for the worker.
const SESSIONS_QUEUE_MAX: usize = 256;

/// Pace and patience of the worker.
#[derive(Debug, Clone)]
struct Timing {
    /// A span waits at most this long before it is sent.
    batch_wait: Duration,
    /// A request carries at most so many spans, and so many wake the worker. At about 1 KiB each they
    /// stay well below the 4 MiB that gRPC servers take by default.
    batch_max: usize,
    /// Metrics are sent this often. OpenTelemetry's default of 60 s is long for a person who has just
    /// switched it on.
    metrics_period: Duration,
    /// One attempt takes at most this long: OpenTelemetry's default.
    attempt_limit: Duration,
    /// So often is a batch of spans tried before it is dropped.
    attempts_max: u32,
    /// Pause after the first failure; it doubles with each one.
    backoff: Duration,
    /// What waits at the end may take this long in all.
    flush_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            batch_wait: Duration::from_secs(1),
            batch_max: 512,
            metrics_period: Duration::from_secs(10),
            attempt_limit: Duration::from_secs(10),
            attempts_max: 5,
            backoff: Duration::from_millis(500),
            flush_limit: Duration::from_secs(2),
        }
    }
}

/// What the exporter is told about the gateway it reports on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// How MCP clients reach the gateway: `stdio` or `http`.
    pub transport: &'static str,
    /// Applied to every text that a client, an upstream or a component worded, but for names of tools
    /// and prompts.
    pub redactor: Redactor,
}

/// A session whose spans are to carry its protocol revision.
#[derive(Debug, Clone)]
pub struct Session {
    /// The id its traces name.
    pub id: Arc<str>,
    /// The revision negotiated in `initialize`.
    pub protocol_version: Arc<str>,
}

/// What the exporter has done and failed to do since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Spans that wait.
    pub queued: u64,
    /// Spans the collector took.
    pub exported: u64,
    /// Spans dropped: the queue was full, the collector did not answer, or it refused them.
    pub dropped: u64,
    /// Why spans are not taken, while that is the state of things.
    pub traces_error: Option<String>,
    /// Why metrics are not taken, likewise.
    pub metrics_error: Option<String>,
}

/// Sends spans and metrics to a collector, as long as it lives.
///
/// Dropping it flushes in the background; [`Exporter::shutdown`] waits for that.
pub struct Exporter {
    shared: Arc<Shared>,
}

/// What the calls, the worker and whoever asks for its health have in common.
struct Shared {
    timing: Timing,
    /// Held for one push or one swap only, so that a call never waits for an export.
    queue: Mutex<Queue>,
    meters: Mutex<Meters>,
    /// A full batch waits.
    full: Notify,
    /// The gateway ends.
    stop: CancellationToken,
    /// Until when the last exports may take; set when the gateway ends.
    deadline: OnceLock<Instant>,
    /// The worker has ended.
    done: CancellationToken,
    exported: AtomicU64,
    dropped: AtomicU64,
    /// Why traces and metrics are not taken, in this order.
    errors: Mutex<[Option<String>; 2]>,
}

#[derive(Default)]
struct Queue {
    calls: VecDeque<Call>,
    sessions: Vec<Session>,
}

/// Says what is wrong with an endpoint and its headers, for `ultra config check`.
///
/// # Errors
///
/// The first thing that is wrong. Nothing is connected.
pub fn check(config: &Observability) -> Result<(), EndpointError> {
    Endpoint::new(config).map(drop)
}

impl SpanSink for Exporter {
    fn span(&self, trace: &Trace) {
        Self::span(self, trace);
    }
}

impl Exporter {
    /// Starts the export, or returns none when it is switched off or cannot be.
    ///
    /// Connects in the background: a collector may come later. What is wrong with the settings is
    /// logged, and the gateway runs without export.
    pub fn start(config: &Observability, facts: Facts) -> Option<Self> {
        Self::start_with(config, facts, Timing::default(), None)
    }

    fn start_with(
        config: &Observability,
        facts: Facts,
        timing: Timing,
        roots: Option<rustls::RootCertStore>,
    ) -> Option<Self> {
        if !config.enabled {
            return None;
        }
        let endpoint = match Endpoint::new(config) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                error!(%error, "no export of spans and metrics: {error}");
                return None;
            }
        };
        let shared = Arc::new(Shared::new(timing));
        let resource = semconv::resource(&config.service_name);
        let ours = shared.clone();
        let spawned = std::thread::Builder::new().name("otlp".into()).spawn(move || {
            let _done = ours.done.clone().drop_guard();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    error!(%error, "no export of spans and metrics: {error}");
                    return;
                }
            };
            // The client starts tasks of its own, so it is made on the runtime.
            runtime.block_on(async {
                let client = Client::new(endpoint, roots);
                Worker::new(ours, client, facts, resource).run().await;
            });
            // A name that takes long to resolve must not hold up the end of the gateway.
            runtime.shutdown_background();
        });
        match spawned {
            Ok(_) => Some(Self { shared }),
            Err(error) => {
                error!(%error, "no export of spans and metrics: {error}");
                None
            }
        }
    }

    /// Queues the span of a call.
    ///
    /// Copies ids, shared strings and the beginning of texts, never payloads. Waits for nothing
    /// but another call that does the same; when the queue is full, the span is dropped and counted.
    pub fn span(&self, trace: &Trace) {
        self.shared.push(Call::new(trace));
    }

    /// Adds measurements to those that are sent.
    ///
    /// Sums since the start are sent, so that a lost export loses no measurement.
    pub fn metrics(&self, deltas: &[MetricDelta]) {
        let mut meters = lock(&self.shared.meters);
        for delta in deltas {
            meters.add(delta);
        }
    }

    /// Makes a session's protocol revision known to its later spans.
    pub fn session(&self, session: Session) {
        let mut queue = lock(&self.shared.queue);
        if queue.sessions.len() < SESSIONS_QUEUE_MAX {
            queue.sessions.push(session);
        }
    }

    /// Returns what the exporter has done and failed to do.
    pub fn health(&self) -> Health {
        let shared = &self.shared;
        let [traces_error, metrics_error] = lock(&shared.errors).clone();
        Health {
            queued: lock(&shared.queue).calls.len() as u64,
            exported: shared.exported.load(Ordering::Relaxed),
            dropped: shared.dropped.load(Ordering::Relaxed),
            traces_error,
            metrics_error,
        }
    }

    /// Sends what waits, for at most 2 s. Returns whether the worker came to its end in time.
    pub async fn shutdown(&self) -> bool {
        self.shared.stop.cancel();
        let limit = self.shared.timing.flush_limit;
        tokio::time::timeout(limit, self.shared.done.cancelled()).await.is_ok()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    fn new(timing: Timing) -> Self {
        Self {
            timing,
            queue: Mutex::default(),
            meters: Mutex::new(Meters::new(semconv::unix_ns())),
            full: Notify::new(),
            stop: CancellationToken::new(),
            deadline: OnceLock::new(),
            done: CancellationToken::new(),
            exported: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            errors: Mutex::default(),
        }
    }

    fn push(&self, call: Call) {
        let mut queue = lock(&self.queue);
        if queue.calls.len() >= QUEUE_MAX || self.done.is_cancelled() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.calls.push_back(call);
        // Waking a thread costs a call more than everything else here, so the worker comes by itself
        // once a second and is woken for full batches only.
        let full = queue.calls.len() == self.timing.batch_max;
        drop(queue);
        if full {
            self.full.notify_one();
        }
    }

    /// Waits until the gateway ends and its last exports have had their time.
    async fn over(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep_until(self.deadline()).await;
    }

    /// Returns until when the last exports may take, counted from the first time somebody asks.
    fn deadline(&self) -> Instant {
        // A tenth less than `shutdown` waits, so that it sees the worker end.
        *self.deadline.get_or_init(|| Instant::now() + self.timing.flush_limit.mul_f32(0.9))
    }
}
