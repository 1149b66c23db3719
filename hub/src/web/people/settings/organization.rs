//! The organization with its teams and workspaces.

use askama::Template;
use axum::response::Response;

use super::super::answer::{page, page_with, see};
use super::super::visit::Visit;
use super::{Tabs, again, place, said};
use crate::access::Ability;
use crate::error::ApiError;
use crate::id::{OrganizationId, TeamId, WorkspaceId};
use crate::people::authority::{By, Place, Scope};
use crate::people::organization::Tree;
use crate::web::Frame;

#[derive(Template)]
#[template(path = "settings/organization.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    csrf: String,
    problem: Option<String>,
    /// Where to sign in again before something is deleted; nothing if they just did.
    again: Option<String>,
    /// The address below which the forms are.
    base: String,
    tree: Tree,
}

impl Page {
    fn runs_all(&self) -> bool {
        self.tree.authority.may_everywhere(Ability::Administer)
    }

    fn runs(&self, place: &Place) -> bool {
        self.tree.authority.may(Ability::Administer, place)
    }

    /// Where forms about a place go.
    fn form(&self, place: &Place) -> String {
        match place.scope {
            Scope::Organization(_) => format!("{}/organization", self.base),
            Scope::Team(id) => format!("{}/teams/{id}", self.base),
            Scope::Workspace(id) => format!("{}/workspaces/{id}", self.base),
        }
    }

    fn may_delete(&self, place: &Place) -> bool {
        self.tree.authority.may_delete(place)
    }
}

/// Says that there is no organization any more.
#[derive(Template)]
#[template(path = "people/deleted.html")]
struct Deleted {
    frame: Frame,
    name: String,
    /// Whether it was the last one.
    is_last: bool,
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
        again: again(visit, "organization")?,
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

async fn delete_scope(visit: &Visit, scope: Scope) -> Result<(), ApiError> {
    let (by, organization) = who(visit)?;
    visit.check_fresh()?;
    visit.people.delete(&by, organization, scope, visit.form.text("confirm")).await
}

/// Deletes the organization, and says good-bye.
pub(in super::super) async fn delete(visit: Visit) -> Result<Response, ApiError> {
    let name = visit.viewing()?.entry.organization_name.clone();
    match delete_scope(&visit, Scope::Organization(visit.organization()?)).await {
        Ok(()) => {
            let is_last = !visit.people.is_set_up().await?;
            page(&Deleted { frame: Visit::outside("Deleted"), name, is_last })
        }
        Err(error) => answer(&visit, Some(error)).await,
    }
}

/// Deletes a team.
pub(in super::super) async fn delete_team(visit: Visit) -> Result<Response, ApiError> {
    let team: TeamId = visit.param("team", "team")?;
    deleted(&visit, delete_scope(&visit, Scope::Team(team)).await).await
}

/// Deletes a workspace.
pub(in super::super) async fn delete_workspace(visit: Visit) -> Result<Response, ApiError> {
    let workspace: WorkspaceId = visit.param("target", "workspace")?;
    deleted(&visit, delete_scope(&visit, Scope::Workspace(workspace)).await).await
}

async fn deleted(visit: &Visit, result: Result<(), ApiError>) -> Result<Response, ApiError> {
    if let Err(error) = result {
        return answer(visit, Some(error)).await;
    }
    // It may have been the workspace of the page.
    let scope = Scope::Workspace(visit.viewing()?.entry.workspace);
    let is_left = visit.tree().await?.place(scope).is_some();
    Ok(if is_left { see(&place(visit, "organization")?) } else { see("/settings") })
}
