//! Deploy keys.

use askama::Template;
use axum::response::Response;

use super::super::answer::{page_with, see};
use super::super::visit::Visit;
use super::{Tabs, again, place, said};
use crate::access::Ability;
use crate::error::ApiError;
use crate::people::authority::{Place, Scope};
use crate::people::keys::{DAYS, KeyLine, KeyState};
use crate::people::organization::Tree;
use crate::web::Frame;

#[derive(Template)]
#[template(path = "settings/security.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    csrf: String,
    problem: Option<String>,
    /// A key that was made just now, in clear. Not shown again.
    secret: Option<String>,
    /// Where to sign in again before a key is made; nothing if they just did.
    again: Option<String>,
    /// The address below which the forms are.
    base: String,
    /// What the key is chosen for at first.
    workspace: String,
    tree: Tree,
    keys: Vec<KeyLine>,
}

impl Page {
    fn workspaces(&self) -> Vec<&Place> {
        let is_workspace = |place: &&Place| matches!(place.scope, Scope::Workspace(_));
        self.tree.places(Ability::Administer).into_iter().filter(is_workspace).collect()
    }

    fn days(&self) -> [i64; 3] {
        DAYS
    }

    fn state(&self, key: &KeyLine) -> &'static str {
        match key.state {
            KeyState::Active => "Active",
            KeyState::Expired => "Expired",
            KeyState::Revoked => "Revoked",
        }
    }

    fn is_revoked(&self, key: &KeyLine) -> bool {
        key.state == KeyState::Revoked
    }
}

/// Shows them.
pub(in super::super) async fn show(visit: Visit) -> Result<Response, ApiError> {
    answer(&visit, None, None).await
}

async fn answer(
    visit: &Visit,
    error: Option<ApiError>,
    secret: Option<String>,
) -> Result<Response, ApiError> {
    let (status, problem) = said(error)?;
    let tree = visit.tree().await?;
    let workspace = visit.viewing()?.entry.workspace.to_string();
    let page = Page {
        frame: visit.frame("Security"),
        tabs: Tabs::new(visit, "security").await?,
        csrf: visit.session()?.csrf.clone(),
        problem,
        secret,
        again: again(visit, "security")?,
        base: format!("/w/{workspace}/settings"),
        workspace,
        keys: visit.people.keys(&tree).await?,
        tree,
    };
    page_with(status, &page)
}

/// Makes a key, and shows it once.
pub(in super::super) async fn create(visit: Visit) -> Result<Response, ApiError> {
    let created = async {
        visit.check_fresh()?;
        let workspace = visit.form.text("workspace_id").parse();
        let workspace =
            workspace.map_err(|_| ApiError::Invalid("choose a workspace".to_owned()))?;
        let days = match visit.form.text("days") {
            "never" => None,
            days => Some(
                days.parse()
                    .map_err(|_| ApiError::Invalid("choose how long it holds".to_owned()))?,
            ),
        };
        let (by, organization) = (visit.by()?, visit.organization()?);
        visit.people.create_key(&by, organization, workspace, visit.form.text("name"), days).await
    };
    match created.await {
        Ok(secret) => answer(&visit, None, Some(secret.reveal())).await,
        Err(error) => answer(&visit, Some(error), None).await,
    }
}

/// Takes a key back.
pub(in super::super) async fn revoke(visit: Visit) -> Result<Response, ApiError> {
    let id = visit.param("key", "deploy key")?;
    match visit.people.revoke_key(&visit.by()?, visit.organization()?, id).await {
        Ok(()) => Ok(see(&place(&visit, "security")?)),
        Err(error) => answer(&visit, Some(error), None).await,
    }
}
