//! Settings of an organization, its teams and workspaces.

pub(super) mod log;
pub(super) mod members;
pub(super) mod organization;
pub(super) mod security;

use axum::response::Response;
use http::StatusCode;
use url::form_urlencoded::byte_serialize;

use super::answer::{correctable, see};
use super::visit::Visit;
use crate::access::Ability;
use crate::error::ApiError;

/// The parts of the settings that somebody may open.
#[derive(Debug)]
pub(super) struct Tabs {
    /// The workspace of the page, `ws_…`.
    pub(super) workspace: String,
    pub(super) current: &'static str,
    pub(super) runs_workspace: bool,
    pub(super) runs_organization: bool,
}

impl Tabs {
    pub(super) async fn new(visit: &Visit, current: &'static str) -> Result<Self, ApiError> {
        let entry = &visit.viewing()?.entry;
        Ok(Self {
            workspace: entry.workspace.to_string(),
            current,
            runs_workspace: entry.role.may(Ability::Administer),
            runs_organization: visit.tree().await?.authority.may_everywhere(Ability::Administer),
        })
    }
}

/// Leads to the first part that somebody may open.
pub(super) async fn first(visit: Visit) -> Result<Response, ApiError> {
    let entry = &visit.viewing()?.entry;
    let runs = entry.role.may(Ability::Administer);
    Ok(if runs { see(&place(&visit, "members")?) } else { see("/account") })
}

/// Returns the address of a part.
fn place(visit: &Visit, part: &str) -> Result<String, ApiError> {
    Ok(format!("/w/{}/settings/{part}", visit.viewing()?.entry.workspace))
}

/// Returns where to sign in again before something lasting is done, on a part to which that leads back;
/// nothing if whoever is there just did.
fn again(visit: &Visit, part: &str) -> Result<Option<String>, ApiError> {
    if visit.is_fresh()? {
        return Ok(None);
    }
    let page: String = byte_serialize(place(visit, part)?.as_bytes()).collect();
    Ok(Some(format!("/sign-in?again=1&return_to={page}")))
}

/// Splits what went wrong into a status and what the page says of it.
fn said(error: Option<ApiError>) -> Result<(StatusCode, Option<String>), ApiError> {
    match error.map(correctable).transpose()? {
        Some((status, problem)) => Ok((status, Some(problem))),
        None => Ok((StatusCode::OK, None)),
    }
}
