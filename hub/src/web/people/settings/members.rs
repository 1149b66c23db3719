//! Who has which role where, and who is invited.

use askama::Template;
use axum::response::Response;

use super::super::answer::{page_with, see};
use super::super::visit::Visit;
use super::{Tabs, place, said};
use crate::access::{Ability, Role};
use crate::error::ApiError;
use crate::people::authority::{Place, Scope};
use crate::people::invites::{Invite, Invited};
use crate::people::members::Membership;
use crate::people::organization::Tree;
use crate::web::Frame;

#[derive(Template)]
#[template(path = "settings/members.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    csrf: String,
    problem: Option<String>,
    /// Of an invite that was made just now. Not shown again.
    link: Option<String>,
    sends_mail: bool,
    /// The address below which the forms are.
    base: String,
    tree: Tree,
    memberships: Vec<Membership>,
    invites: Vec<Invite>,
}

impl Page {
    /// The roles that may be chosen for somebody who is there.
    fn roles(&self, place: &Place) -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| self.tree.authority.may_give(*role, place)).collect()
    }

    /// The roles that somebody may be invited as.
    fn invited_roles(&self) -> Vec<Role> {
        let places = self.places();
        let may_give =
            |role: &Role| places.iter().any(|place| self.tree.authority.may_give(*role, place));
        Role::ALL.into_iter().filter(|role| *role != Role::Beacon).filter(may_give).collect()
    }

    fn places(&self) -> Vec<&Place> {
        self.tree.places(Ability::Administer)
    }

    /// What kind of place it is.
    fn kind(&self, place: &Place) -> &'static str {
        match place.scope {
            Scope::Organization(_) => "organization",
            Scope::Team(_) => "team",
            Scope::Workspace(_) => "workspace",
        }
    }
}

/// Shows them.
pub(in super::super) async fn show(visit: Visit) -> Result<Response, ApiError> {
    answer(&visit, None, None).await
}

async fn answer(
    visit: &Visit,
    error: Option<ApiError>,
    link: Option<String>,
) -> Result<Response, ApiError> {
    let (status, problem) = said(error)?;
    let tree = visit.tree().await?;
    let page = Page {
        frame: visit.frame("Members"),
        tabs: Tabs::new(visit, "members").await?,
        csrf: visit.session()?.csrf.clone(),
        problem,
        link,
        sends_mail: visit.people.sends_mail(),
        base: format!("/w/{}/settings", visit.viewing()?.entry.workspace),
        memberships: visit.people.memberships(&tree).await?,
        invites: visit.people.invites(&tree).await?,
        tree,
    };
    page_with(status, &page)
}

async fn done(visit: &Visit, result: Result<(), ApiError>) -> Result<Response, ApiError> {
    match result {
        Ok(()) => Ok(see(&place(visit, "members")?)),
        Err(error) => answer(visit, Some(error), None).await,
    }
}

fn scope(visit: &Visit) -> Result<Scope, ApiError> {
    visit.form.text("scope").parse()
}

fn role(visit: &Visit) -> Result<Role, ApiError> {
    let unknown = || ApiError::Invalid("choose a role".to_owned());
    Role::parse(visit.form.text("role")).ok_or_else(unknown)
}

/// Changes a role.
pub(in super::super) async fn change(visit: Visit) -> Result<Response, ApiError> {
    let user = visit.param("user", "member")?;
    let (by, organization) = (visit.by()?, visit.organization()?);
    let (scope, role) = (scope(&visit)?, role(&visit)?);
    let changed = visit.people.change_role(&by, organization, user, scope, role).await;
    done(&visit, changed).await
}

/// Takes a role away.
pub(in super::super) async fn remove(visit: Visit) -> Result<Response, ApiError> {
    let user = visit.param("user", "member")?;
    let (by, organization) = (visit.by()?, visit.organization()?);
    let removed = visit.people.remove_member(&by, organization, user, scope(&visit)?).await;
    // Whoever took their own role away may not see this page any more.
    if removed.is_ok() && by.account.id == user {
        return Ok(see("/"));
    }
    done(&visit, removed).await
}

/// Invites somebody, or gives them the role if they are here.
pub(in super::super) async fn invite(visit: Visit) -> Result<Response, ApiError> {
    let (by, organization) = (visit.by()?, visit.organization()?);
    let email = visit.form.text("email");
    let (scope, role) = (scope(&visit)?, role(&visit)?);
    match visit.people.invite(&by, organization, email, scope, role).await {
        Ok(Invited::Joined) => done(&visit, Ok(())).await,
        Ok(Invited::Link(link)) => answer(&visit, None, Some(link)).await,
        Err(error) => answer(&visit, Some(error), None).await,
    }
}

/// Takes an invite back.
pub(in super::super) async fn revoke(visit: Visit) -> Result<Response, ApiError> {
    let id = visit.param("invite", "invite")?;
    let revoked = visit.people.revoke_invite(&visit.by()?, visit.organization()?, id).await;
    done(&visit, revoked).await
}
