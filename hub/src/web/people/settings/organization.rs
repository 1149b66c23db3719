//! The organization with its teams and workspaces.

use askama::Template;
use axum::response::Response;

use super::super::answer::{page_with, see};
use super::super::visit::Visit;
use super::{Tabs, place, said};
use crate::access::Ability;
use crate::error::ApiError;
use crate::id::{OrganizationId, TeamId, WorkspaceId};
use crate::people::authority::{By, Scope};
use crate::people::organization::Tree;
use crate::web::Frame;

#[derive(Template)]
#[template(path = "settings/organization.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    csrf: String,
    problem: Option<String>,
    /// The address below which the forms are.
    base: String,
    tree: Tree,
}

impl Page {
    fn runs_all(&self) -> bool {
        self.tree.authority.may_everywhere(Ability::Administer)
    }

    fn runs(&self, place: &crate::people::authority::Place) -> bool {
        self.tree.authority.may(Ability::Administer, place)
    }
}

/// Shows them.
pub(in super::super) async fn show(visit: Visit) -> Result<Response, ApiError> {
    answer(&visit, None).await
}

async fn answer(visit: &Visit, error: Option<ApiError>) -> Result<Response, ApiError> {
    let (status, problem) = said(error)?;
    let page = Page {
        frame: visit.frame("Organization"),
        tabs: Tabs::new(visit, "organization").await?,
        csrf: visit.session()?.csrf.clone(),
        problem,
        base: format!("/w/{}/settings", visit.viewing()?.entry.workspace),
        tree: visit.tree().await?.visible(),
    };
    page_with(status, &page)
}

async fn done(visit: &Visit, result: Result<(), ApiError>) -> Result<Response, ApiError> {
    match result {
        Ok(()) => Ok(see(&place(visit, "organization")?)),
        Err(error) => answer(visit, Some(error)).await,
    }
}

fn who(visit: &Visit) -> Result<(By, OrganizationId), ApiError> {
    Ok((visit.by()?, visit.organization()?))
}

async fn rename_scope(visit: &Visit, scope: Scope) -> Result<Response, ApiError> {
    let (by, organization) = who(visit)?;
    let renamed = visit.people.rename(&by, organization, scope, visit.form.text("name")).await;
    done(visit, renamed).await
}

/// Renames the organization.
pub(in super::super) async fn rename(visit: Visit) -> Result<Response, ApiError> {
    rename_scope(&visit, Scope::Organization(visit.organization()?)).await
}

/// Renames a team.
pub(in super::super) async fn rename_team(visit: Visit) -> Result<Response, ApiError> {
    let team: TeamId = visit.param("team", "team")?;
    rename_scope(&visit, Scope::Team(team)).await
}

/// Renames a workspace.
pub(in super::super) async fn rename_workspace(visit: Visit) -> Result<Response, ApiError> {
    let workspace: WorkspaceId = visit.param("target", "workspace")?;
    rename_scope(&visit, Scope::Workspace(workspace)).await
}

/// Makes a team.
pub(in super::super) async fn create_team(visit: Visit) -> Result<Response, ApiError> {
    let (by, organization) = who(&visit)?;
    let (name, workspace) = (visit.form.text("name"), visit.form.text("first_workspace"));
    let created = visit.people.create_team(&by, organization, name, workspace).await;
    done(&visit, created).await
}

/// Makes a workspace.
pub(in super::super) async fn create_workspace(visit: Visit) -> Result<Response, ApiError> {
    let (by, organization) = who(&visit)?;
    let team = visit.param("team", "team")?;
    let created =
        visit.people.create_workspace(&by, organization, team, visit.form.text("name")).await;
    done(&visit, created).await
}
