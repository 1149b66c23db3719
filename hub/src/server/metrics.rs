//! What the Hub counts of itself, for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;

use crate::error::Word;

/// Upper bounds in seconds: the bars of pages and of acknowledgements are among them.
const BOUNDS_S: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.15, 0.3, 0.5, 2.5, 10.0];

#[derive(Debug, Default)]
struct Series {
    buckets: [u64; BOUNDS_S.len()],
    count: u64,
    sum: Duration,
}

/// What the Hub counts of itself.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By method, route and status.
    requests: Mutex<BTreeMap<(&'static str, String, u16), Series>>,
    /// By the word of the refusal.
    refused: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) batches: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) heartbeats: AtomicU64,
}

/// Where batches are sent.
const BATCHES: &str = "/api/v1/records";

/// Counts every request, by the route it was for. A layer around all routes.
pub(crate) async fn count(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let method = match *request.method() {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::PUT => "PUT",
        _ => "other",
    };
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    let route = route.unwrap_or_else(|| "none".to_owned());
    if let Some(Word(word)) = response.extensions().get().filter(|_| route == BATCHES) {
        metrics.note_refused(word);
    }
    metrics.note(method, route, response.status().as_u16(), begun.elapsed());
    response
}

impl Metrics {
    fn note(&self, method: &'static str, route: String, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let series = requests.entry((method, route, status)).or_default();
        series.count += 1;
        series.sum += took;
        for (bucket, bound) in series.buckets.iter_mut().zip(BOUNDS_S) {
            *bucket += u64::from(took.as_secs_f64() <= bound);
        }
    }

    fn note_refused(&self, word: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(word).or_default() += 1;
    }

    /// Returns everything in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let counters = [
            ("batches", "Batches of records taken.", &self.batches),
            ("records", "Records taken, those that were there already among them.", &self.records),
            ("records_rejected", "Records that could not be read.", &self.rejected),
            ("heartbeats", "Heartbeats taken.", &self.heartbeats),
        ];
        for (name, help, counter) in counters {
            let value = counter.load(Ordering::Relaxed);
            sample(
                &mut text,
                &format!("ultra_hub_{name}_total"),
                "counter",
                help,
                &[(String::new(), value as f64)],
            );
        }
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let refused: Vec<_> = refused
            .iter()
            .map(|(word, count)| (format!("{{reason=\"{word}\"}}"), *count as f64))
            .collect();
        let name = "ultra_hub_batches_refused_total";
        sample(&mut text, name, "counter", "Batches refused, by the word of the error.", &refused);
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "ultra_hub_http_request_duration_seconds";
        let _ = writeln!(
            text,
            "# HELP {name} Until the answer's head was ready.\n# TYPE {name} histogram"
        );
        for ((method, route, status), series) in &*requests {
            let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
            for (bucket, bound) in series.buckets.iter().zip(BOUNDS_S) {
                let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {bucket}");
            }
            let (count, sum) = (series.count, series.sum.as_secs_f64());
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ =
                writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
        }
        text
    }
}

/// Writes one metric with its samples, each with its labels in braces or nothing.
pub(crate) fn sample(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: &[(String, f64)],
) {
    // A string takes everything.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refused_batches_are_counted_by_reason() {
        use axum::Router;
        use axum::body::Body;
        use axum::middleware::from_fn_with_state;
        use axum::routing::post;
        use tower_service::Service;

        use crate::error::ApiError;

        let metrics = Arc::new(Metrics::default());
        let refuse = || async { Err::<(), _>(ApiError::Unavailable { retry_s: 1 }) };
        let mut router = Router::new()
            .nest("/api/v1", Router::new().route("/records", post(refuse)))
            .route("/elsewhere", post(refuse))
            .layer(from_fn_with_state(Arc::clone(&metrics), count));

        for path in [BATCHES, BATCHES, "/elsewhere"] {
            let request = Request::post(path).body(Body::empty()).unwrap();
            router.call(request).await.unwrap();
        }

        let text = metrics.text();
        let line = "\nultra_hub_batches_refused_total{reason=\"unavailable\"} 2\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn requests_are_counted_by_route() {
        let metrics = Metrics::default();
        metrics.note("GET", "/w/{workspace}".to_owned(), 200, Duration::from_millis(20));

        let text = metrics.text();

        let line = "_bucket{method=\"GET\",route=\"/w/{workspace}\",status=\"200\",le=\"0.01\"} 0";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("le=\"0.025\"} 1"), "{text}");
        assert!(text.contains("ultra_hub_records_total 0"), "{text}");
    }
}
