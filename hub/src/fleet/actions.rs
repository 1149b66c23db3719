//! What people do to gateways, from the list: unlink one, archive one.

use std::sync::Arc;

use axum::extract::{Form, Path, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use axum::{Extension, RequestExt, Router};
use serde::Deserialize;

use crate::access::Ability;
use crate::api::Api;
use crate::error::ApiError;
use crate::id::GatewayId;
use crate::server::Peer;
use crate::web::{Gate, Viewing, failure};

#[derive(Clone)]
struct Actions {
    api: Api,
    gate: Arc<dyn Gate>,
}

/// What every form that changes something has.
#[derive(Deserialize)]
struct Guarded {
    csrf: String,
}

/// What is done.
#[derive(Clone, Copy)]
enum Action {
    Unlink,
    Archive,
}

/// Returns the routes of forms about gateways.
pub(crate) fn router(api: Api, gate: Arc<dyn Gate>) -> Router {
    Router::new()
        .route(
            "/w/{workspace}/gateways/{gateway}/unlink",
            post(async |state, path, peer, request| {
                act(Action::Unlink, state, path, peer, request).await
            }),
        )
        .route(
            "/w/{workspace}/gateways/{gateway}/archive",
            post(async |state, path, peer, request| {
                act(Action::Archive, state, path, peer, request).await
            }),
        )
        .with_state(Actions { api, gate })
}

async fn act(
    action: Action,
    State(actions): State<Actions>,
    Path((workspace, gateway)): Path<(String, String)>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, Response> {
    let (parts, body) = request.into_parts();
    let viewing = actions.gate.enter(&parts, Some(&workspace)).await?;
    let request = Request::from_parts(parts.clone(), body);
    let form = request.extract::<Form<Guarded>, _>().await.ok();
    let csrf = form.as_ref().map(|form| form.csrf.as_str());
    let done = match actions.api.people.check_form(&parts, &viewing.csrf, csrf) {
        Ok(()) => actions.perform(action, &viewing, &gateway, peer).await,
        Err(refused) => Err(refused),
    };
    done.map_err(|error| failure(Some(viewing), &error))?;
    Ok(Redirect::to(&format!("/w/{workspace}/gateways")).into_response())
}

impl Actions {
    async fn perform(
        &self,
        action: Action,
        viewing: &Viewing,
        gateway: &str,
        peer: Peer,
    ) -> Result<(), ApiError> {
        let gateway: GatewayId = gateway.parse().map_err(|_| ApiError::NotFound("gateway"))?;
        let entry = &viewing.entry;
        let owner = self.api.links.owner(entry.workspace, gateway).await?;
        let own = owner.is_some() && owner == viewing.account.as_ref().map(|account| account.id);
        let may = entry.role.may(Ability::ManageGateways)
            || (own && entry.role.may(Ability::LinkGateway) && entry.role.may(Ability::SeeRecords));
        if !may {
            return Err(ApiError::Forbidden(Ability::ManageGateways.who()));
        }
        let (links, account) = (&self.api.links, viewing.account.as_ref());
        match action {
            Action::Unlink => {
                links.unlink(entry.organization, gateway, account, peer.address).await
            }
            Action::Archive => {
                links.archive(entry.organization, gateway, account, peer.address).await
            }
        }
    }
}
