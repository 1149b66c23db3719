//! Every route, grouped by who calls it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use tokio::sync::Mutex;

use crate::api::{self, Api};
use crate::db::Database;
use crate::error::{ApiError, chain};
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
        known: Arc::default(),
    };
    Router::new()
        // For gateways and programs.
        .merge(api::router(api.clone()))
        // For people: who they are, and what they look at.
        .merge(people::router(Arc::clone(&api.people)))
        .merge(fleet::router(api, web.gate.clone()))
        .merge(web::router(web))
        .layer(from_fn(web::headers))
        // For those who look after the Hub.
        .merge(
            Router::new()
                .route("/livez", get(async || "ok\n"))
                .route("/readyz", get(ready))
                .route("/metrics", get(figures))
                .with_state(operations),
        )
        .layer(from_fn(deadline))
        .layer(from_fn_with_state(metrics, count))
}

async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::Unavailable { retry_s: 10 }.into_response(),
    }
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
    use super::*;
    use crate::db::testing::TestDatabase;
    use crate::fleet::{SqlFleet, Uptime};

    async fn operations(database: Arc<dyn Database>) -> Operations {
        let uptime = Arc::new(Uptime::begin(&*database).await.unwrap());
        let fleet = Arc::new(SqlFleet::new(Arc::clone(&database), uptime));
        Operations { database, fleet, metrics: Arc::default(), known: Arc::default() }
    }

    async fn text(operations: &Operations) -> String {
        let response = figures(State(operations.clone())).await;
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
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
            assert!(!missing.contains("ultra_hub_gateways"), "{missing}");
        }
    }
}
