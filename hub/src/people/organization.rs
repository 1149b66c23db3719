//! Organizations, teams and workspaces: made and renamed.

use super::People;
use super::address;
use super::admin_log::Act;
use super::authority::{Authority, By, Change, Place, Scope};
use crate::access::{Ability, Account, Role};
use crate::db::{DbError, Transaction, values};
use crate::error::ApiError;
use crate::id::{OrganizationId, TeamId, UserId, WorkspaceId};

/// Of one organization: more than fit in a menu.
const TEAMS_MAX: i64 = 200;
const WORKSPACES_MAX: i64 = 1000;

/// An organization with everything below, and what the asker may do in it.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) organization: Place,
    pub(crate) teams: Vec<Team>,
    pub(crate) authority: Authority,
}

/// A team with its workspaces.
#[derive(Debug, Clone)]
pub(crate) struct Team {
    pub(crate) place: Place,
    pub(crate) workspaces: Vec<Place>,
}

impl Tree {
    /// Returns every place where that is allowed, from above to below.
    pub(crate) fn places(&self, ability: Ability) -> Vec<&Place> {
        let below =
            self.teams.iter().flat_map(|team| std::iter::once(&team.place).chain(&team.workspaces));
        let all = std::iter::once(&self.organization).chain(below);
        all.filter(|place| self.authority.may(ability, place)).collect()
    }

    /// Leaves out where the asker has no role. A team stays for a workspace of it.
    pub(crate) fn visible(mut self) -> Self {
        let authority = &self.authority;
        let has_role = |place: &Place| authority.at(place).is_some();
        self.teams.retain_mut(|team| {
            team.workspaces.retain(has_role);
            has_role(&team.place) || !team.workspaces.is_empty()
        });
        self
    }

    /// Returns a place by its scope.
    pub(crate) fn place(&self, scope: Scope) -> Option<&Place> {
        let below =
            self.teams.iter().flat_map(|team| std::iter::once(&team.place).chain(&team.workspaces));
        std::iter::once(&self.organization).chain(below).find(|place| place.scope == scope)
    }
}

impl People {
    /// Returns the organization as somebody sees it who has a role in it.
    pub(crate) async fn tree(
        &self,
        user: UserId,
        organization: OrganizationId,
    ) -> Result<Tree, ApiError> {
        let database = &*self.database;
        let authority =
            Authority::read(&database.rows(Authority::SQL, &values![user, organization]).await?)?;
        let sql = "SELECT name FROM organizations WHERE id = $1";
        let row = database.row(sql, &values![organization]).await?.filter(|_| !authority.is_none());
        let name = row.ok_or(ApiError::NotFound("organization"))?.get(0)?;
        let sql = "SELECT id, name FROM teams WHERE organization = $1 ORDER BY name, id";
        let mut teams = Vec::new();
        for row in database.rows(sql, &values![organization]).await? {
            let place = Place::team(row.get(0)?, row.get(1)?);
            teams.push(Team { place, workspaces: Vec::new() });
        }
        let sql = "SELECT id, team, name FROM workspaces WHERE organization = $1 ORDER BY name, id";
        for row in database.rows(sql, &values![organization]).await? {
            let team: TeamId = row.get(1)?;
            if let Some(team) = teams.iter_mut().find(|it| it.place.scope == Scope::Team(team)) {
                let Scope::Team(id) = team.place.scope else { continue };
                team.workspaces.push(Place::workspace(row.get(0)?, id, row.get(2)?));
            }
        }
        Ok(Tree { organization: Place::organization(organization, name), teams, authority })
    }

    /// Renames an organization, team or workspace.
    pub(crate) async fn rename(
        &self,
        by: &By,
        organization: OrganizationId,
        scope: Scope,
        to: &str,
    ) -> Result<(), ApiError> {
        let mut change = self.change(by, organization).await?;
        let place = change.place_for(Ability::Administer, scope).await?;
        let (action, what, sql) = match scope {
            Scope::Organization(_) => (
                "organization.renamed",
                "an organization",
                "UPDATE organizations SET name = $2 WHERE id = $1",
            ),
            Scope::Team(_) => {
                ("team.renamed", "a team", "UPDATE teams SET name = $2 WHERE id = $1")
            }
            Scope::Workspace(_) => (
                "workspace.renamed",
                "a workspace",
                "UPDATE workspaces SET name = $2 WHERE id = $1",
            ),
        };
        let to = address::name(to, what)?;
        if to == place.name {
            return Ok(());
        }
        change
            .execute(sql, &values![scope.number(), &to])
            .await
            .map_err(|error| taken(error, &to))?;
        let act = Act::new(action, &to).of(&scope.to_string()).with("before", place.name);
        change.commit(act).await
    }

    /// Makes a team with its first workspace.
    pub(crate) async fn create_team(
        &self,
        by: &By,
        organization: OrganizationId,
        name: &str,
        workspace: &str,
    ) -> Result<(), ApiError> {
        let mut change = self.change(by, organization).await?;
        change.place_for(Ability::Administer, Scope::Organization(organization)).await?;
        let name = address::name(name, "a team")?;
        let workspace = address::name(workspace, "a workspace")?;
        let sql = "SELECT count(*) FROM teams WHERE organization = $1";
        change.check_room((sql, &values![organization]), TEAMS_MAX, "teams").await?;
        check_workspaces(&mut change).await?;
        let now_ms = change.now_ms;
        let (team, first) = Below { organization, now_ms }
            .insert(&mut *change.transaction, &name, &workspace)
            .await
            .map_err(|error| taken(error, &name))?;
        let act = Act::new("team.created", &name).of(&team.to_string());
        let act = act.with("workspace", workspace).with("workspace_id", first.to_string());
        change.commit(act).await
    }

    /// Makes a workspace in a team.
    pub(crate) async fn create_workspace(
        &self,
        by: &By,
        organization: OrganizationId,
        team: TeamId,
        name: &str,
    ) -> Result<(), ApiError> {
        let mut change = self.change(by, organization).await?;
        let place = change.place_for(Ability::Administer, Scope::Team(team)).await?;
        let name = address::name(name, "a workspace")?;
        check_workspaces(&mut change).await?;
        let below = Below { organization, now_ms: change.now_ms };
        let inserted = below.insert_workspace(&mut *change.transaction, team, &name).await;
        let workspace = inserted.map_err(|error| taken(error, &name))?;
        let act = Act::new("workspace.created", &name)
            .of(&workspace.to_string())
            .with("team", place.name);
        change.commit(act).await
    }
}

async fn check_workspaces(change: &mut Change) -> Result<(), ApiError> {
    let sql = "SELECT count(*) FROM workspaces WHERE organization = $1";
    let organization = change.organization;
    change.check_room((sql, &values![organization]), WORKSPACES_MAX, "workspaces").await
}

fn taken(error: DbError, name: &str) -> ApiError {
    match error {
        DbError::Exists => ApiError::Conflict(format!("there is already one called `{name}`")),
        other => other.into(),
    }
}

/// Makes what is below an organization.
struct Below {
    organization: OrganizationId,
    now_ms: i64,
}

impl Below {
    async fn insert(
        &self,
        transaction: &mut dyn Transaction,
        team: &str,
        workspace: &str,
    ) -> Result<(TeamId, WorkspaceId), DbError> {
        let id = TeamId::new();
        let sql = "INSERT INTO teams (id, organization, name, created_ms) VALUES ($1, $2, $3, $4)";
        transaction.execute(sql, &values![id, self.organization, team, self.now_ms]).await?;
        Ok((id, self.insert_workspace(transaction, id, workspace).await?))
    }

    async fn insert_workspace(
        &self,
        transaction: &mut dyn Transaction,
        team: TeamId,
        name: &str,
    ) -> Result<WorkspaceId, DbError> {
        let id = WorkspaceId::new();
        let sql = "INSERT INTO workspaces (id, organization, team, name, created_ms) VALUES ($1, $2, $3, $4, $5)";
        transaction.execute(sql, &values![id, self.organization, team, name, self.now_ms]).await?;
        Ok(id)
    }
}

/// What an organization begins with.
pub(super) struct Founding<'a> {
    pub(super) organization: &'a str,
    pub(super) slug: &'a str,
    pub(super) team: &'a str,
    pub(super) workspace: &'a str,
    pub(super) owner: &'a Account,
}

impl Founding<'_> {
    /// Makes the organization, and its owner's account, which must not be there yet.
    pub(super) async fn insert(
        &self,
        transaction: &mut dyn Transaction,
        now_ms: i64,
    ) -> Result<OrganizationId, DbError> {
        let id = OrganizationId::new();
        let sql = "INSERT INTO organizations (id, name, slug, created_ms) VALUES ($1, $2, $3, $4)";
        transaction.execute(sql, &values![id, self.organization, self.slug, now_ms]).await?;
        Below { organization: id, now_ms }.insert(transaction, self.team, self.workspace).await?;
        let owner = self.owner;
        let sql = "INSERT INTO users (id, email, name, created_ms) VALUES ($1, $2, $3, $4)";
        transaction.execute(sql, &values![owner.id, &owner.email, &owner.name, now_ms]).await?;
        let sql =
            "INSERT INTO memberships (user_id, organization, scope, scope_id, role, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6)";
        let scope = Scope::Organization(id);
        let row = values![owner.id, id, scope.kind(), scope.number(), Role::Owner.as_str(), now_ms];
        transaction.execute(sql, &row).await?;
        Ok(id)
    }
}
