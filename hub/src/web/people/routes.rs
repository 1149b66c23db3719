//! Every page of people, who may open it, and what it does. What does not stand here, is not there.

use axum::response::Response;
use futures_util::future::BoxFuture;

use super::visit::Visit;
use super::{account, authorize, invites, settings, setup, sign_in, token};
use crate::access::Ability;
use crate::error::ApiError;

/// What a request does to the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Shows, and changes nothing of anybody's.
    Get,
    Post,
}

/// Who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Anybody, as often as one asker may.
    Anyone,
    /// Likewise; programs without cookies, which are answered as RFC 6749 says.
    Program,
    /// Whoever is signed in.
    Account,
    /// Whoever is signed in and may see some workspace: no Beacons.
    Viewer,
    /// Whoever may do that in the workspace of the path.
    Workspace(Ability),
    /// Whoever may do that in the whole organization of the workspace of the path.
    Organization(Ability),
}

impl Need {
    /// Whether somebody must be signed in.
    pub(super) fn is_signed_in(self) -> bool {
        match self {
            Self::Anyone | Self::Program => false,
            Self::Account | Self::Viewer | Self::Workspace(_) | Self::Organization(_) => true,
        }
    }
}

/// What a page does.
pub(super) type Act = fn(Visit) -> BoxFuture<'static, Result<Response, ApiError>>;

/// A page.
pub(super) struct Route {
    pub(super) verb: Verb,
    pub(super) path: &'static str,
    pub(super) need: Need,
    pub(super) act: Act,
}

const fn get(path: &'static str, need: Need, act: Act) -> Route {
    Route { verb: Verb::Get, path, need, act }
}

const fn post(path: &'static str, need: Need, act: Act) -> Route {
    Route { verb: Verb::Post, path, need, act }
}

/// Runs the workspace of the path. What is changed may be beside or above it: that is judged where it is
/// changed, in the same transaction.
const RUNS_WORKSPACE: Need = Need::Workspace(Ability::Administer);

const RUNS_ORGANIZATION: Need = Need::Organization(Ability::Administer);

/// Every page.
pub(super) const ROUTES: &[Route] = &[
    get("/setup/{ticket}", Need::Anyone, |visit| Box::pin(setup::form(visit))),
    post("/setup/{ticket}", Need::Anyone, |visit| Box::pin(setup::set_up(visit))),
    get("/sign-in", Need::Anyone, |visit| Box::pin(sign_in::form(visit))),
    post("/sign-in", Need::Anyone, |visit| Box::pin(sign_in::ask(visit))),
    get("/sign-in/code", Need::Anyone, |visit| Box::pin(sign_in::code_form(visit))),
    post("/sign-in/code", Need::Anyone, |visit| Box::pin(sign_in::take(visit))),
    get("/sign-in/oidc", Need::Anyone, |visit| Box::pin(sign_in::begin_oidc(visit))),
    get("/sign-in/oidc/callback", Need::Anyone, |visit| Box::pin(sign_in::finish_oidc(visit))),
    post("/sign-out", Need::Account, |visit| Box::pin(sign_in::sign_out(visit))),
    get("/invites", Need::Account, |visit| Box::pin(invites::list(visit))),
    get("/invites/{ticket}", Need::Anyone, |visit| Box::pin(invites::link(visit))),
    post("/invites/{invite}/accept", Need::Account, |visit| Box::pin(invites::accept(visit))),
    get("/.well-known/oauth-authorization-server", Need::Program, |visit| {
        Box::pin(token::metadata(visit))
    }),
    get("/oauth/authorize", Need::Account, |visit| Box::pin(authorize::form(visit))),
    post("/oauth/authorize", Need::Account, |visit| Box::pin(authorize::decide(visit))),
    post("/oauth/token", Need::Program, |visit| Box::pin(token::token(visit))),
    post("/oauth/revoke", Need::Program, |visit| Box::pin(token::revoke(visit))),
    get("/account", Need::Viewer, |visit| Box::pin(account::show(visit))),
    post("/account", Need::Viewer, |visit| Box::pin(account::rename(visit))),
    post("/account/sessions/{session}/end", Need::Viewer, |visit| Box::pin(account::end(visit))),
    post("/account/sessions/end-others", Need::Viewer, |visit| {
        Box::pin(account::end_others(visit))
    }),
    post("/account/command-line/{family}/end", Need::Viewer, |visit| {
        Box::pin(account::end_family(visit))
    }),
    get("/settings", Need::Viewer, |visit| Box::pin(settings::first(visit))),
    get("/w/{workspace}/settings", Need::Workspace(Ability::SeeRecords), |visit| {
        Box::pin(settings::first(visit))
    }),
    get("/w/{workspace}/settings/organization", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::organization::show(visit))
    }),
    post("/w/{workspace}/settings/organization", RUNS_ORGANIZATION, |visit| {
        Box::pin(settings::organization::rename(visit))
    }),
    post(
        "/w/{workspace}/settings/organization/delete",
        Need::Organization(Ability::Own),
        |visit| Box::pin(settings::organization::delete(visit)),
    ),
    post("/w/{workspace}/settings/teams", RUNS_ORGANIZATION, |visit| {
        Box::pin(settings::organization::create_team(visit))
    }),
    post("/w/{workspace}/settings/teams/{team}", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::organization::rename_team(visit))
    }),
    post("/w/{workspace}/settings/teams/{team}/delete", RUNS_ORGANIZATION, |visit| {
        Box::pin(settings::organization::delete_team(visit))
    }),
    post("/w/{workspace}/settings/teams/{team}/workspaces", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::organization::create_workspace(visit))
    }),
    post("/w/{workspace}/settings/workspaces/{target}", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::organization::rename_workspace(visit))
    }),
    post("/w/{workspace}/settings/workspaces/{target}/delete", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::organization::delete_workspace(visit))
    }),
    get("/w/{workspace}/settings/members", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::members::show(visit))
    }),
    post("/w/{workspace}/settings/members/{user}/role", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::members::change(visit))
    }),
    post("/w/{workspace}/settings/members/{user}/remove", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::members::remove(visit))
    }),
    post("/w/{workspace}/settings/invites", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::members::invite(visit))
    }),
    post("/w/{workspace}/settings/invites/{invite}/revoke", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::members::revoke(visit))
    }),
    get("/w/{workspace}/settings/security", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::security::show(visit))
    }),
    post("/w/{workspace}/settings/keys", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::security::create(visit))
    }),
    post("/w/{workspace}/settings/keys/{key}/revoke", RUNS_WORKSPACE, |visit| {
        Box::pin(settings::security::revoke(visit))
    }),
    get("/w/{workspace}/settings/log", RUNS_ORGANIZATION, |visit| {
        Box::pin(settings::log::show(visit))
    }),
];
