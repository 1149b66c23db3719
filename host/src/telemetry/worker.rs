//! The loop that sends what has gathered.
//!
//! One export at a time. Spans are tried a few times and then dropped; metrics are not retried, since
//! the next export repeats them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tracing::{info, warn};

use super::client::{Answer, Client, ExportError};
use super::semconv::{self, Call, Sessions};
use super::{Facts, Shared, lock};

/// Sends what the calls leave in the queue, until the gateway ends.
pub(super) struct Worker {
    shared: Arc<Shared>,
    client: Client,
    facts: Facts,
    resource: Resource,
    sessions: Sessions,
    metrics_due: Instant,
}

/// What is exported, and its place among the errors.
#[derive(Clone, Copy)]
enum Signal {
    Traces = 0,
    Metrics = 1,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: Client,
        facts: Facts,
        resource: Resource,
    ) -> Self {
        let metrics_due = Instant::now() + shared.timing.metrics_period;
        Self { shared, client, facts, resource, sessions: Sessions::default(), metrics_due }
    }

    /// Runs until the gateway ends and what waited then is sent or given up.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let mut tick =
            interval_at(Instant::now() + shared.timing.batch_wait, shared.timing.batch_wait);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = shared.full.notified() => {}
                () = shared.stop.cancelled() => break,
            }
            self.send_spans().await;
            self.send_metrics_when_due().await;
        }
        // The time for what waits begins now.
        shared.deadline();
        self.send_spans().await;
        self.send_metrics().await;
    }

    /// Empties the queue. After the gateway's end, the first batch that is not taken is the last.
    async fn send_spans(&mut self) {
        loop {
            let batch = self.take_batch();
            if batch.is_empty() {
                return;
            }
            let taken = self.send_batch(&batch).await;
            if !taken && self.shared.stop.is_cancelled() {
                let left = std::mem::take(&mut lock(&self.shared.queue).calls).len() as u64;
                self.shared.dropped.fetch_add(left, Ordering::Relaxed);
                return;
            }
            self.send_metrics_when_due().await;
        }
    }

    fn take_batch(&mut self) -> Vec<Call> {
        let mut queue = lock(&self.shared.queue);
        let sessions = std::mem::take(&mut queue.sessions);
        let size = queue.calls.len().min(self.shared.timing.batch_max);
        let batch = queue.calls.drain(..size).collect();
        drop(queue);
        for session in sessions {
            self.sessions.put(session);
        }
        batch
    }

    /// Sends a batch, several times if need be. Returns whether the collector took it.
    async fn send_batch(&mut self, batch: &[Call]) -> bool {
        let attempts_max = self.shared.timing.attempts_max;
        let mut pause = self.shared.timing.backoff;
        for attempt in 1.. {
            let last = attempt >= attempts_max || self.shared.stop.is_cancelled();
            match self.limited(self.client.traces(self.trace_request(batch))).await {
                Ok(answer) => {
                    let rejected = answer.rejected.min(batch.len() as u64);
                    self.shared
                        .exported
                        .fetch_add(batch.len() as u64 - rejected, Ordering::Relaxed);
                    self.shared.dropped.fetch_add(rejected, Ordering::Relaxed);
                    self.answered(Signal::Traces, &answer);
                    return true;
                }
                Err(error) => {
                    self.failed(Signal::Traces, &error);
                    if last || !error.may_pass() {
                        break;
                    }
                    // Many gateways may wait for the same collector: up to a quarter apart.
                    let jitter = pause.mul_f32(rand::random::<f32>() / 4.0);
                    let pause_now = error.retry_after().unwrap_or(pause) + jitter;
                    tokio::select! {
                        () = sleep(pause_now) => {}
                        () = self.shared.stop.cancelled() => {}
                    }
                    pause *= 2;
                }
            }
        }
        self.shared.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
        false
    }

    async fn send_metrics_when_due(&mut self) {
        if Instant::now() >= self.metrics_due {
            self.send_metrics().await;
            self.metrics_due = Instant::now() + self.shared.timing.metrics_period;
        }
    }

    async fn send_metrics(&mut self) {
        let metrics = lock(&self.shared.meters).collect(semconv::unix_ns());
        if metrics.is_empty() {
            return;
        }
        let scope_metrics =
            ScopeMetrics { scope: Some(semconv::scope()), metrics, ..ScopeMetrics::default() };
        let resource_metrics = ResourceMetrics {
            resource: Some(self.resource.clone()),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        };
        let request = ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] };
        match self.limited(self.client.metrics(request)).await {
            Ok(answer) => self.answered(Signal::Metrics, &answer),
            Err(error) => self.failed(Signal::Metrics, &error),
        }
    }

    fn trace_request(&self, batch: &[Call]) -> ExportTraceServiceRequest {
        let spans = batch.iter().map(|call| call.span(&self.facts, &self.sessions)).collect();
        let scope_spans =
            ScopeSpans { scope: Some(semconv::scope()), spans, ..ScopeSpans::default() };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
    }

    /// Waits for an export, as long as one may take.
    async fn limited(
        &self,
        export: impl Future<Output = Result<Answer, ExportError>>,
    ) -> Result<Answer, ExportError> {
        let limit: Duration = self.shared.timing.attempt_limit;
        tokio::select! {
            result = export => result,
            () = sleep(limit) => Err(ExportError::Timeout { limit }),
            () = self.shared.over() => Err(ExportError::Over),
        }
    }

    /// Notes that the collector took an export, in whole or in part.
    fn answered(&self, signal: Signal, answer: &Answer) {
        let error = match answer.rejected {
            0 => None,
            rejected => Some(format!("refused {rejected} of the last: {}", answer.message)),
        };
        self.note(signal, error);
    }

    fn failed(&mut self, signal: Signal, error: &ExportError) {
        if matches!(error, ExportError::Timeout { .. }) {
            self.client.reconnect();
        }
        self.note(signal, Some(error.to_string()));
    }

    /// Notes how the last export went, and logs when that is news.
    fn note(&self, signal: Signal, error: Option<String>) {
        let before =
            std::mem::replace(&mut lock(&self.shared.errors)[signal as usize], error.clone());
        let endpoint = self.client.endpoint.display.as_str();
        let what = signal.as_str();
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        match (before, error) {
            (None, Some(error)) => {
                warn!(
                    otlp.endpoint = endpoint,
                    "collector `{endpoint}` does not take {what}: {error}"
                );
            }
            (Some(_), None) => info!(
                otlp.endpoint = endpoint,
                spans_dropped = dropped,
                "collector `{endpoint}` takes {what} again, {dropped} spans were dropped"
            ),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}

impl Signal {
    fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Metrics => "metrics",
        }
    }
}
