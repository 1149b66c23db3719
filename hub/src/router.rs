//! Every route, grouped by who calls it.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::FutureExt;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::Mutex;

use crate::api::{self, Api};
use crate::db::Database;
use crate::error::{ApiError, chain};
use crate::events::{EventStore, Waiting};
use crate::fleet::{Figures, Fleet};
use crate::server::{Metrics, count, sample};
use crate::web::{self, Web};
use crate::{fleet, people};

/// Until the head of an answer: pages, exports and streams begin at once and may go on.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Of the database, when somebody asks whether the Hub is ready.
const READY_MAX: Duration = Duration::from_secs(2);

/// What the database says of itself and of the gateways is asked for this often at most: it counts them all.
const FIGURES_FRESH: Duration = Duration::from_secs(5);

/// What those who look after the Hub ask for.
#[derive(Clone)]
struct Operations {
    database: Arc<dyn Database>,
    metrics: Arc<Metrics>,
    fleet: Arc<dyn Fleet>,
    events: Arc<dyn EventStore>,
    /// What the database said lately, and when.
    known: Arc<Mutex<Option<(Instant, Gauges)>>>,
}

/// Returns the routes of the Hub.
pub(crate) fn hub(api: Api, web: Web, database: Arc<dyn Database>) -> Router {
    let metrics = Arc::clone(&api.metrics);
    let operations = Operations {
        database,
        metrics: Arc::clone(&metrics),
        fleet: Arc::clone(&api.fleet),
        events: Arc::clone(&api.events),
        known: Arc::default(),
    };
    Router::new()
        // For gateways and programs.
        .merge(api::router(api.clone()))
        // For people: who they are, and what they look at.
        .merge(people::router(Arc::clone(&api.people)))
        .merge(fleet::router(api, web.gate.clone()))
        .merge(web::router(web))
        .layer(from_fn(deadline))
        .layer(from_fn(web::headers))
        // For those who look after the Hub.
        .merge(
            Router::new()
                .route("/livez", get(async || "ok\n"))
                .route("/readyz", get(ready))
                .route("/metrics", get(figures))
                .with_state(operations)
                .layer(from_fn(deadline)),
        )
        .layer(from_fn_with_state(metrics, count))
}

/// Answers in time, and whatever happens: of a panic its asker learns no more than of any other fault.
async fn deadline(request: Request, next: Next) -> Response {
    let is_page = is_page(request.uri().path(), request.headers());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let error = match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(Ok(response)) => return response,
        Ok(Err(panic)) => ApiError::Panicked { message: message(&*panic) },
        Err(_) => ApiError::Unavailable { retry_s: 10 },
    };
    if is_page { web::failure(None, &error) } else { error.into_response() }
}

/// Whether somebody asks who reads pages.
fn is_page(path: &str, headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    !path.starts_with("/api/") && accept.is_some_and(|accept| accept.contains("text/html"))
}

/// What somebody said who panicked.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("nothing was said").to_owned()
}

async fn ready(State(operations): State<Operations>) -> Response {
    let asked = operations.database.rows("SELECT 1", &[]);
    match tokio::time::timeout(READY_MAX, asked).await {
        Ok(Ok(_)) => "ready\n".into_response(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database is not there");
            (StatusCode::SERVICE_UNAVAILABLE, "the database is not there\n").into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database is slow\n").into_response(),
    }
}

/// Always answers: what is counted in memory needs no database.
async fn figures(State(operations): State<Operations>) -> Response {
    let mut text = operations.metrics.text();
    write_waiting(&mut text, &operations.events.waiting());
    operations.figures().await.write(&mut text);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

impl Operations {
    /// Returns what the database says; nothing if it does not in time. Asked for at most every
    /// [`FIGURES_FRESH`], however often somebody looks.
    async fn figures(&self) -> Gauges {
        let mut known = self.known.lock().await;
        if let Some((at, gauges)) = *known
            && at.elapsed() < FIGURES_FRESH
        {
            return gauges;
        }
        let gauges = match tokio::time::timeout(READY_MAX, self.fleet.figures()).await {
            Ok(Ok(figures)) => Gauges(Some(figures)),
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "the database has no figures");
                Gauges(None)
            }
            Err(_) => Gauges(None),
        };
        *known = Some((Instant::now(), gauges));
        gauges
    }
}

/// Writes how much the Hub has taken and not stored yet.
fn write_waiting(text: &mut String, waiting: &[Waiting]) {
    let mut gauge = |name, help, value: fn(&Waiting) -> u64| {
        let one = |lane: &Waiting| (format!("{{lane=\"{}\"}}", lane.lane), value(lane) as f64);
        sample(text, name, "gauge", help, &waiting.iter().map(one).collect::<Vec<_>>());
    };
    let help = "Batches that wait to be stored, or are being stored.";
    gauge("ultra_hub_queued_batches", help, |lane| lane.batches);
    gauge("ultra_hub_queued_records", "Their records.", |lane| lane.records);
}

/// What the database says, if it does.
#[derive(Clone, Copy)]
struct Gauges(Option<Figures>);

impl Gauges {
    fn write(self, text: &mut String) {
        let mut gauge = |name, help, value: i64| {
            sample(text, name, "gauge", help, &[(String::new(), value as f64)]);
        };
        let up = i64::from(self.0.is_some());
        gauge("ultra_hub_database_up", "Whether the database answers in time.", up);
        let Some(figures) = self.0 else { return };
        gauge("ultra_hub_gateways", "Gateways that are linked.", figures.gateways);
        let help = "Records that gateways have not sent yet.";
        gauge("ultra_hub_unsent_records", help, figures.unsent);
        let help = "Gateways whose heartbeats come in time.";
        gauge("ultra_hub_gateways_online", help, figures.online);
        gauge("ultra_hub_database_bytes", "Size of the database.", figures.database_bytes);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tokio_util::task::TaskTracker;
    use tower_service::Service;

    use super::*;
    use crate::db::testing::TestDatabase;
    use crate::events::sql::SqlEvents;
    use crate::fleet::{SqlFleet, Uptime};

    async fn operations(database: Arc<dyn Database>) -> Operations {
        let uptime = Arc::new(Uptime::begin(&*database).await.unwrap());
        let fleet = Arc::new(SqlFleet::new(Arc::clone(&database), uptime));
        let tasks = TaskTracker::new();
        let events = SqlEvents::open(Arc::clone(&database), Default::default(), &tasks).await;
        let events = Arc::new(events.unwrap());
        Operations { database, fleet, events, metrics: Arc::default(), known: Arc::default() }
    }

    async fn text(operations: &Operations) -> String {
        let response = figures(State(operations.clone())).await;
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_database_that_is_away_takes_no_counter_along() {
        for test in TestDatabase::each().await {
            let up = operations(Arc::clone(&test.database)).await;
            let away = operations(Arc::clone(&test.database)).await;
            let before = text(&up).await;
            test.database.execute("ALTER TABLE gateways RENAME TO away", &[]).await.unwrap();

            let (kept, missing) = (text(&up).await, text(&away).await);

            assert!(before.contains("\nultra_hub_database_up 1\n"), "{before}");
            assert!(before.contains("\nultra_hub_gateways_online 0\n"), "{before}");
            // Not asked again so soon.
            assert_eq!(kept, before);
            assert!(missing.contains("\nultra_hub_database_up 0\n"), "{missing}");
            assert!(missing.contains("\nultra_hub_records_total 0\n"), "{missing}");
            let waiting = "\nultra_hub_queued_records{lane=\"old\"} 0\n";
            assert!(missing.contains(waiting), "{missing}");
            assert!(!missing.contains("ultra_hub_gateways"), "{missing}");
        }
    }

    async fn answer(path: &str, accept: &str) -> (Response, String) {
        let mut router = Router::new()
            .route("/panics", get(async || -> &str { panic!("over {}", "there") }))
            .route("/api/panics", get(async || -> &str { panic!("here") }))
            .route("/never", get(std::future::pending::<&str>))
            .route("/api/never", get(std::future::pending::<&str>))
            .layer(from_fn(deadline));
        let request = Request::builder().uri(path).header(header::ACCEPT, accept);
        let answer = router.call(request.body(Body::empty()).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (Response::from_parts(head, Body::empty()), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_or_never_ends_is_answered_as_it_was_asked() {
        for (path, status, word) in [("panics", 500, "internal"), ("never", 503, "unavailable")] {
            for (path, accept, is_page) in [
                (format!("/{path}"), "text/html,*/*", true),
                (format!("/{path}"), "application/json", false),
                (format!("/api/{path}"), "text/html", false),
            ] {
                let (head, body) = answer(&path, accept).await;

                assert_eq!(head.status(), status, "{path} {accept}");
                let problem = format!("{{\"error\":\"{word}\"");
                assert_eq!(body.starts_with(&problem), !is_page, "{path} {accept} {body}");
                assert_eq!(body.contains("<html"), is_page, "{path} {accept} {body}");
                assert!(!body.contains("here"), "{path} {accept} {body}");
            }
        }
    }
}
