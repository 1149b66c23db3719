//! The API: what gateways and programs say to the Hub, below `/api/v1`, and its description.
//!
//! No SQL, and no status but success: what goes wrong is an [`ApiError`].

mod gateways;
mod ingest;
mod records;
mod room;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Path};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::request::Parts;
use utoipa::OpenApi;

pub(crate) use room::Room;

use crate::access::Ability;
use crate::error::ApiError;
use crate::events::EventStore;
use crate::fleet::{Fleet, Known, Links, Presence};
use crate::people::People;
use crate::secret::{Purpose, Secret, bearer};
use crate::server::Metrics;
use crate::wire;

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

/// The description of the API, from which it is tested.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ultra Hub",
        description = "What gateways and programs say to the Hub. Errors are a `Problem` each: one word that \
                       does not change, and a text for people.",
    ),
    paths(
        gateways::workspaces,
        gateways::link,
        gateways::me,
        gateways::unlink,
        gateways::heartbeat,
        ingest::records,
        records::gateways,
        records::gateway,
        records::streams,
        records::traces,
        records::trace,
        records::audit_events,
        records::servers,
        records::server,
    ),
    components(schemas(wire::BatchHead, wire::Problem)),
    modifiers(&Bearer),
)]
pub(crate) struct Description;

/// Every request shows a token.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

        let components = api.components.get_or_insert_default();
        let schemes = [
            ("person", "An access token of `ultra login`, `uha_…`."),
            ("gateway", "A gateway's own secret, `ugw_…`."),
            ("deploy_key", "A deploy key, `dk_…`."),
        ];
        for (name, description) in schemes {
            let mut scheme = Http::new(HttpAuthScheme::Bearer);
            scheme.description = Some(description.to_owned());
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
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
        .route("/workspaces/{workspace}/servers", get(records::servers))
        .route("/workspaces/{workspace}/servers/{server}", get(records::server))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .route("/records", post(ingest::records))
        .fallback(async || ApiError::NotFound("route; see /api/openapi.json"))
        .with_state(api);
    Router::new()
        .nest("/api/v1", v1)
        .route("/api/openapi.json", get(async || Json(Description::openapi())))
}

/// A gateway that showed its secret.
pub(crate) struct Device(pub(crate) Known);

impl FromRequestParts<Api> for Device {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers).ok_or(ApiError::Unauthorized)?;
        let secret = Secret::parse(Purpose::Gateway, token).ok_or(ApiError::Unauthorized)?;
        api.links.known(&secret).await.map(Self)
    }
}

/// Somebody with a token, in the workspace of the path, who may see its records.
pub(crate) struct Reader(pub(crate) crate::access::Entry);

impl FromRequestParts<Api> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let account = api.people.bearer(&parts.headers).await?;
        let path =
            Path::<std::collections::HashMap<String, String>>::from_request_parts(parts, api);
        let path = path.await.map_err(|_| ApiError::NotFound("workspace"))?;
        let workspace = path.get("workspace").and_then(|id| id.parse().ok());
        let workspace = workspace.ok_or(ApiError::NotFound("workspace"))?;
        api.people.entry(account.id, workspace, Ability::SeeRecords).await.map(Self)
    }
}
