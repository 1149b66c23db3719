//! The API: what gateways and programs say to the Hub, below `/api/v1`, and its description.
//!
//! No SQL, and no status but success: what goes wrong is an [`ApiError`].

mod description;
mod extract;
mod gateways;
mod ingest;
mod records;
mod room;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use utoipa::OpenApi;

pub(crate) use room::Room;

use crate::error::ApiError;
use crate::events::EventStore;
use crate::fleet::{Fleet, Links, Presence};
use crate::people::People;
use crate::server::Metrics;
use description::Description;

/// Bodies other than batches.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What the API is made from.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) people: Arc<People>,
    pub(crate) links: Links,
    pub(crate) presence: Arc<Presence>,
    pub(crate) events: Arc<dyn EventStore>,
    pub(crate) fleet: Arc<dyn Fleet>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) room: Arc<Room>,
}

/// Returns the routes.
pub(crate) fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/workspaces", get(gateways::workspaces))
        .route("/gateways", post(gateways::link))
        .route("/gateways/self", get(gateways::me).merge(delete(gateways::unlink)))
        .route("/heartbeat", post(gateways::heartbeat))
        .route("/workspaces/{workspace}/gateways", get(records::gateways))
        .route("/workspaces/{workspace}/gateways/{gateway}", get(records::gateway))
        .route("/workspaces/{workspace}/gateways/{gateway}/streams", get(records::streams))
        .route("/workspaces/{workspace}/traces", get(records::traces))
        .route("/workspaces/{workspace}/traces/{trace}", get(records::trace))
        .route("/workspaces/{workspace}/audit", get(records::audit_events))
        .route("/workspaces/{workspace}/audit/{event}", get(records::audit_event))
        .route("/workspaces/{workspace}/servers", get(records::servers))
        .route("/workspaces/{workspace}/servers/{server}", get(records::server))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .route("/records", post(ingest::records))
        .with_state(api);
    let api = Router::new()
        .nest("/v1", v1)
        .route("/openapi.json", get(async || Json(Description::openapi())))
        .fallback(async || ApiError::NotFound("route; see /api/openapi.json"))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed);
    Router::new().nest("/api", api)
}

#[cfg(test)]
pub(crate) mod tests;
