//! Gateways: how they come in, say that they are there, and leave.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use super::Api;
use super::extract::{Device, Linker, Sent, Somebody};
use crate::access::Ability;
use crate::error::ApiError;
use crate::fleet::{Party, described};
use crate::server::Peer;
use crate::wire::{
    Heartbeat, HeartbeatReply, LinkRequest, Linked, Me, Person, Problem, Workspaces,
};

/// Lists the workspaces that the asker may link gateways to.
#[utoipa::path(
    get, path = "/api/v1/workspaces", tag = "gateways", security(("person" = [])),
    responses((status = 200, body = Workspaces)),
)]
pub(super) async fn workspaces(
    State(api): State<Api>,
    Somebody(account): Somebody,
) -> Result<Json<Workspaces>, ApiError> {
    let entries = api.people.entries(account.id).await?;
    let workspaces = entries.iter().filter(|entry| entry.role.may(Ability::LinkGateway));
    Ok(Json(Workspaces {
        workspaces: workspaces.map(described).collect(),
        user: Person { id: account.id.to_string(), email: account.email, name: account.name },
    }))
}

/// Links a gateway.
#[utoipa::path(
    post, path = "/api/v1/gateways", tag = "gateways",
    security(("person" = []), ("deploy_key" = [])), request_body = LinkRequest,
    responses(
        (status = 201, body = Linked),
        (status = 403, description = "The asker may not link there", body = Problem),
        (status = 404, description = "There is no such workspace", body = Problem),
        (status = 409, description = "The workspace is full", body = Problem),
    ),
)]
pub(super) async fn link(
    State(api): State<Api>,
    axum::Extension(peer): axum::Extension<Peer>,
    linker: Linker,
    Sent(request): Sent<LinkRequest>,
) -> Result<(StatusCode, Json<Linked>), ApiError> {
    let linked = match linker {
        Linker::Key(key) => {
            let other = |workspace: &String| *workspace != key.entry.workspace.to_string();
            if request.workspace.as_ref().is_some_and(other) {
                return Err(ApiError::Forbidden("keys of that workspace"));
            }
            api.links.link(Party::Key(&key), &key.entry, peer.address, request).await?
        }
        Linker::Person(account) => {
            let missing = || ApiError::Invalid("name a `workspace`".to_owned());
            let workspace = request.workspace.as_deref().ok_or_else(missing)?;
            let workspace = workspace.parse().map_err(|_| ApiError::NotFound("workspace"))?;
            let entry = api.people.entry(account.id, workspace, Ability::LinkGateway).await?;
            api.links.link(Party::Person(&account), &entry, peer.address, request).await?
        }
    };
    Ok((StatusCode::CREATED, Json(linked)))
}

/// Says where the gateway is, and what the Hub has of it.
#[utoipa::path(
    get, path = "/api/v1/gateways/self", tag = "gateways", security(("gateway" = [])),
    responses((status = 200, body = Me)),
)]
pub(super) async fn me(
    State(api): State<Api>,
    Device(known): Device,
) -> Result<Json<Me>, ApiError> {
    api.room.selves.check(known.origin.gateway.number())?;
    api.links.me(&known).await.map(Json)
}

/// Unlinks the gateway. Its records stay.
#[utoipa::path(
    delete, path = "/api/v1/gateways/self", tag = "gateways", security(("gateway" = [])),
    responses((status = 204)),
)]
pub(super) async fn unlink(
    State(api): State<Api>,
    axum::Extension(peer): axum::Extension<Peer>,
    Device(known): Device,
) -> Result<StatusCode, ApiError> {
    let origin = known.origin;
    api.links.unlink(origin.organization, origin.gateway, None, peer.address).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says that a process of the gateway runs.
#[utoipa::path(
    post, path = "/api/v1/heartbeat", tag = "gateways", security(("gateway" = [])),
    request_body = Heartbeat,
    responses((status = 200, body = HeartbeatReply)),
)]
pub(super) async fn heartbeat(
    State(api): State<Api>,
    Device(known): Device,
    Sent(heartbeat): Sent<Heartbeat>,
) -> Result<Json<HeartbeatReply>, ApiError> {
    let gateway = known.origin.gateway;
    let database = heartbeat.database.clone();
    api.presence.note(gateway, heartbeat)?;
    api.metrics.heartbeats.fetch_add(1, Ordering::Relaxed);
    let streams = api.events.streams(gateway, Some(&database)).await?;
    Ok(Json(HeartbeatReply { streams }))
}
