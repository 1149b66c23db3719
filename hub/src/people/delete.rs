//! Organizations, teams and workspaces that end, with everything in them.
//!
//! What is few goes at once and together: whoever asks a moment later finds no place, and its gateways and
//! keys are refused. Records are many: [`removal`](crate::events::removal) deletes them afterwards.

use super::admin_log::Act;
use super::authority::{By, Change, Place, Scope};
use super::{People, setup};
use crate::access::Ability;
use crate::db::{DbError, Dialect, values};
use crate::error::{ApiError, chain};
use crate::id::{OrganizationId, UserId};

/// PostgreSQL lets one of two go first that wait for each other, and others come while this takes long.
const TRIES_MAX: u32 = 3;

impl People {
    /// Deletes a place and everything in it. `confirmed` is its name, as somebody typed it who means it.
    ///
    /// # Errors
    ///
    /// - [`ApiError::Invalid`]: that is not its name.
    /// - [`ApiError::Conflict`]: whoever deletes it would run no workspace any more.
    pub(crate) async fn delete(
        &self,
        by: &By,
        organization: OrganizationId,
        scope: Scope,
        confirmed: &str,
    ) -> Result<(), ApiError> {
        let mut tries = 1;
        loop {
            match self.try_delete(by, organization, scope, confirmed).await {
                Err(ApiError::Database(error)) if tries < TRIES_MAX => {
                    tracing::debug!(error = chain(&error), "a deletion is tried again");
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_delete(
        &self,
        by: &By,
        organization: OrganizationId,
        scope: Scope,
        confirmed: &str,
    ) -> Result<(), ApiError> {
        let mut change = self.change(by, organization).await?;
        let place = change.place_to_delete(scope).await?;
        if confirmed.trim() != place.name {
            let message = format!("to delete it, type its name: `{}`", place.name);
            return Err(ApiError::Invalid(message));
        }
        change.check_workspace_left(scope).await?;
        let members = change.members(scope).await?;
        let (gateways, keys) = change.lock_gateways(self.database.dialect(), scope).await?;
        for sql in statements(scope, change.now_ms) {
            change.execute(&sql, &values![scope.number()]).await?;
        }
        let action = match scope {
            // There is no Admin Log any more to write to.
            Scope::Organization(_) => return change.end(&place, &members).await,
            Scope::Team(_) => "team.deleted",
            Scope::Workspace(_) => "workspace.deleted",
        };
        let act = Act::new(action, &place.name).of(&scope.to_string()).warning();
        change.commit(act.with("gateways", gateways).with("deploy_keys", keys)).await
    }
}

impl Change {
    /// Finds a place that may be deleted.
    async fn place_to_delete(&mut self, scope: Scope) -> Result<Place, ApiError> {
        let (ability, who) = match scope {
            Scope::Organization(_) => (Ability::Own, "owners"),
            Scope::Team(_) => (Ability::Administer, "admins and owners of the organization"),
            Scope::Workspace(_) => (Ability::Administer, "admins and owners of its team"),
        };
        let place = self.place_for(ability, scope).await?;
        if self.authority.may_delete(&place) { Ok(place) } else { Err(ApiError::Forbidden(who)) }
    }

    /// All pages are pages of a workspace: who has none left could not make another one.
    async fn check_workspace_left(&mut self, scope: Scope) -> Result<(), ApiError> {
        let others = match scope {
            Scope::Organization(_) => return Ok(()),
            Scope::Team(_) => "team <> $2",
            Scope::Workspace(_) => "id <> $2",
        };
        let sql = format!("SELECT id, team FROM workspaces WHERE organization = $1 AND {others}");
        let parameters = values![self.organization, scope.number()];
        for row in self.transaction.rows(&sql, &parameters).await? {
            let place = Place::workspace(row.get(0)?, row.get(1)?, String::new());
            if self.authority.may(Ability::Administer, &place) {
                return Ok(());
            }
        }
        let message = "you would have no workspace left to work in; make another one first";
        Err(ApiError::Conflict(message.to_owned()))
    }

    /// Returns who has a role there, if all roles in the organization end.
    async fn members(&mut self, scope: Scope) -> Result<Vec<UserId>, DbError> {
        let Scope::Organization(organization) = scope else { return Ok(Vec::new()) };
        let sql = "SELECT DISTINCT user_id FROM memberships WHERE organization = $1";
        let rows = self.transaction.rows(sql, &values![organization]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Makes heartbeats wait, and everything else of the place's gateways; returns how many gateways and
    /// deploy keys there work until now.
    async fn lock_gateways(
        &mut self,
        dialect: Dialect,
        scope: Scope,
    ) -> Result<(i64, i64), DbError> {
        if dialect == Dialect::Postgres {
            // Far more rows than anything else changes together.
            let sql = "SET LOCAL statement_timeout = '5min'; SET LOCAL plan_cache_mode = auto";
            self.transaction.batch(sql).await?;
        }
        let (workspaces, now_ms) = (workspaces(scope), self.now_ms);
        let lock = format!(
            "SELECT unlinked_ms IS NULL AND archived_ms IS NULL FROM gateways
             WHERE workspace IN ({workspaces}) ORDER BY id{}",
            dialect.for_update()
        );
        let keys = format!(
            "SELECT count(*) FROM deploy_keys WHERE workspace IN ({workspaces})
             AND revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > {now_ms})"
        );
        let mut gateways = 0;
        for row in self.transaction.rows(&lock, &values![scope.number()]).await? {
            gateways += i64::from(row.get::<bool>(0)?);
        }
        let keys = self.row(&keys, &values![scope.number()]).await?;
        Ok((gateways, keys.map_or(Ok(0), |row| row.get(0))?))
    }

    /// Deletes accounts that an organization leaves behind, and makes it all durable.
    async fn end(mut self, place: &Place, members: &[UserId]) -> Result<(), ApiError> {
        let members: Vec<_> = members.iter().map(|id| id.number().to_string()).collect();
        // Those of which nothing speaks elsewhere; after the last organization all, those who had been removed too.
        let gone = format!(
            "SELECT u.id FROM users u
             WHERE (u.id IN ({}) OR NOT EXISTS (SELECT 1 FROM organizations))
             AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = u.id)
             AND NOT EXISTS (SELECT 1 FROM invites i WHERE i.created_by = u.id)
             AND NOT EXISTS (SELECT 1 FROM deploy_keys k WHERE k.created_by = u.id)
             AND NOT EXISTS (SELECT 1 FROM gateways g WHERE g.owner = u.id)",
            members.join(", ")
        );
        for table in ["sessions", "grants", "tokens", "identities"] {
            let sql = format!("DELETE FROM {table} WHERE user_id IN ({gone})");
            self.execute(&sql, &[]).await?;
        }
        self.execute(&format!("DELETE FROM users WHERE id IN ({gone})"), &[]).await?;
        setup::reopen(&mut *self.transaction).await?;
        self.transaction.commit().await?;
        tracing::warn!(
            organization = place.name,
            user = self.by.account.email,
            client.address = %self.by.address,
            "an organization was deleted"
        );
        Ok(())
    }
}

/// The workspaces that go with a place, whose number is `$1`.
fn workspaces(scope: Scope) -> &'static str {
    match scope {
        Scope::Organization(_) => "SELECT id FROM workspaces WHERE organization = $1",
        Scope::Team(_) => "SELECT id FROM workspaces WHERE team = $1",
        Scope::Workspace(_) => "SELECT id FROM workspaces WHERE id = $1",
    }
}

/// Returns what deletes a place, whose number is `$1`: what points at something goes before it.
fn statements(scope: Scope, now_ms: i64) -> Vec<String> {
    let workspaces = workspaces(scope);
    let gateways = format!("SELECT id FROM gateways WHERE workspace IN ({workspaces})");
    let in_workspaces = format!("scope = 'workspace' AND scope_id IN ({workspaces})");
    let (roles, above): (_, &[&str]) = match scope {
        Scope::Organization(_) => (
            "organization = $1".to_owned(),
            &["teams WHERE organization", "admin_log WHERE organization", "organizations WHERE id"],
        ),
        Scope::Team(_) => {
            (format!("scope = 'team' AND scope_id = $1 OR {in_workspaces}"), &["teams WHERE id"])
        }
        Scope::Workspace(_) => (in_workspaces, &[]),
    };
    let mut all = vec![
        format!(
            "INSERT INTO removals (workspace, removed_ms)
             SELECT w.id, {now_ms} FROM ({workspaces}) w"
        ),
        format!("DELETE FROM processes WHERE gateway IN ({gateways})"),
        format!("DELETE FROM presence WHERE gateway IN ({gateways})"),
        format!("DELETE FROM gateways WHERE workspace IN ({workspaces})"),
        format!("DELETE FROM deploy_keys WHERE workspace IN ({workspaces})"),
        format!("DELETE FROM memberships WHERE {roles}"),
        format!("DELETE FROM invites WHERE {roles}"),
        format!("DELETE FROM workspaces WHERE id IN ({workspaces})"),
    ];
    all.extend(above.iter().map(|rows| format!("DELETE FROM {rows} = $1")));
    all
}
