//! Deploy keys: made and taken back by those who run a workspace, shown by gateways that link themselves.

use super::People;
use super::address;
use super::admin_log::Act;
use super::authority::{By, Place, Scope};
use super::organization::Tree;
use crate::access::{Ability, Entry, Role};
use crate::db::values;
use crate::error::{ApiError, chain};
use crate::id::{DeployKeyId, OrganizationId, WorkspaceId};
use crate::secret::{Purpose, Secret};

/// Days that a key may hold for; or for ever.
pub(crate) const DAYS: [i64; 3] = [30, 90, 365];

/// Keys of one organization that are not revoked.
const KEYS_MAX: i64 = 1000;

const DAY_MS: i64 = 86_400_000;

/// A key's last use is written this often at most.
const USE_PERIOD_MS: i64 = 60_000;

/// A key that somebody showed.
#[derive(Debug, Clone)]
pub(crate) struct DeployKey {
    pub(crate) id: DeployKeyId,
    pub(crate) name: String,
    /// Its workspace, and that it may link there and see nothing.
    pub(crate) entry: Entry,
}

/// A key in the list.
#[derive(Debug, Clone)]
pub(crate) struct KeyLine {
    pub(crate) id: DeployKeyId,
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) created_ms: i64,
    pub(crate) created_by: String,
    pub(crate) used_ms: Option<i64>,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) state: KeyState,
    /// How many gateways it linked that still are.
    pub(crate) gateways: i64,
}

/// Whether a key lets somebody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyState {
    Active,
    Expired,
    Revoked,
}

impl People {
    /// Makes a key; it is in clear only in what this returns.
    pub(crate) async fn create_key(
        &self,
        by: &By,
        organization: OrganizationId,
        workspace: WorkspaceId,
        name: &str,
        days: Option<i64>,
    ) -> Result<Secret, ApiError> {
        let mut change = self.change(by, organization).await?;
        let place = change.place_for(Ability::Administer, Scope::Workspace(workspace)).await?;
        let name = address::name(name, "a key")?;
        if days.is_some_and(|days| !DAYS.contains(&days)) {
            let message = "a key holds for 30, 90 or 365 days, or for ever";
            return Err(ApiError::Invalid(message.to_owned()));
        }
        let sql = "SELECT count(*) FROM deploy_keys WHERE organization = $1 AND revoked_ms IS NULL";
        change.check_room((sql, &values![organization]), KEYS_MAX, "deploy keys").await?;
        let (id, secret, now_ms) =
            (DeployKeyId::new(), Secret::new(Purpose::DeployKey), change.now_ms);
        let sql =
            "INSERT INTO deploy_keys (id, organization, workspace, name, lookup, hash, created_by,
                 created_ms, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let row = values![
            id,
            organization,
            workspace,
            &name,
            secret.lookup(),
            secret.hash(),
            change.by(),
            now_ms,
            days.map(|days| now_ms + days * DAY_MS),
        ];
        change.execute(sql, &row).await?;
        let act = Act::new("deploy_key.created", &name).of(&id.to_string()).warning();
        let act = act.with("workspace", place.scope.to_string()).with("days", days);
        change.commit(act).await?;
        Ok(secret)
    }

    /// Takes a key back: it, and the gateways it linked, are refused from the next request on.
    pub(crate) async fn revoke_key(
        &self,
        by: &By,
        organization: OrganizationId,
        id: DeployKeyId,
    ) -> Result<(), ApiError> {
        let mut change = self.change(by, organization).await?;
        let sql = "SELECT name, workspace FROM deploy_keys WHERE id = $1 AND organization = $2";
        let row = change.row(sql, &values![id, organization]).await?;
        let row = row.ok_or(ApiError::NotFound("deploy key"))?;
        let workspace: WorkspaceId = row.get(1)?;
        let place = change.place_for(Ability::Administer, Scope::Workspace(workspace)).await?;
        let sql = "UPDATE deploy_keys SET revoked_ms = $1 WHERE id = $2 AND revoked_ms IS NULL";
        let now_ms = change.now_ms;
        if change.execute(sql, &values![now_ms, id]).await? == 0 {
            return Ok(());
        }
        let act =
            Act::new("deploy_key.revoked", &row.get::<String>(0)?).of(&id.to_string()).warning();
        change.commit(act.with("workspace", place.scope.to_string())).await
    }

    /// Returns the keys of all workspaces that the asker runs: those that work first, then the newest.
    pub(crate) async fn keys(&self, tree: &Tree) -> Result<Vec<KeyLine>, ApiError> {
        const LINES_MAX: usize = 2000;
        let sql = format!(
            "SELECT k.id, k.name, k.workspace, k.created_ms, u.email, k.used_ms, k.expires_ms, k.revoked_ms,
                 (SELECT count(*) FROM gateways g WHERE g.deploy_key = k.id
                  AND g.unlinked_ms IS NULL AND g.archived_ms IS NULL)
             FROM deploy_keys k JOIN users u ON u.id = k.created_by
             WHERE k.organization = $1
             ORDER BY CASE WHEN k.revoked_ms IS NULL THEN 0 ELSE 1 END, k.id DESC LIMIT {LINES_MAX}"
        );
        let now_ms = self.now_ms();
        let mut keys = Vec::new();
        for row in self.database.rows(&sql, &values![tree.organization.scope.number()]).await? {
            let place = tree.place(Scope::Workspace(row.get(2)?));
            let place = place.filter(|place| tree.authority.may(Ability::Administer, place));
            let Some(place) = place else { continue };
            let expires_ms = row.get(6)?;
            let state = match (row.get::<Option<i64>>(7)?, expires_ms) {
                (Some(_), _) => KeyState::Revoked,
                (None, Some(expires_ms)) if expires_ms <= now_ms => KeyState::Expired,
                (None, Some(_) | None) => KeyState::Active,
            };
            keys.push(KeyLine {
                id: row.get(0)?,
                name: row.get(1)?,
                place: place.clone(),
                created_ms: row.get(3)?,
                created_by: row.get(4)?,
                used_ms: row.get(5)?,
                expires_ms,
                state,
                gateways: row.get(8)?,
            });
        }
        Ok(keys)
    }

    /// Returns the key that somebody showed, and notes that it was used.
    ///
    /// # Errors
    ///
    /// - [`ApiError::Unauthorized`]: there is no such key.
    /// - [`ApiError::Revoked`]: it was taken back, or has expired.
    pub(crate) async fn deploy_key(&self, secret: &Secret) -> Result<DeployKey, ApiError> {
        let sql = "SELECT k.id, k.hash, k.revoked_ms, k.expires_ms, k.used_ms, k.organization, o.name,
                 t.name, k.workspace, w.name, k.name
             FROM deploy_keys k JOIN workspaces w ON w.id = k.workspace JOIN teams t ON t.id = w.team
             JOIN organizations o ON o.id = k.organization WHERE k.lookup = $1";
        let row = self.database.row(sql, &values![secret.lookup()]).await?;
        let row = row.ok_or(ApiError::Unauthorized)?;
        if !secret.matches(&row.get::<Vec<u8>>(1)?) {
            return Err(ApiError::Unauthorized);
        }
        let now_ms = self.now_ms();
        let expired = row.get::<Option<i64>>(3)?.is_some_and(|expires_ms| expires_ms <= now_ms);
        if expired || row.get::<Option<i64>>(2)?.is_some() {
            return Err(ApiError::Revoked);
        }
        let id = row.get(0)?;
        let stale_ms = now_ms - USE_PERIOD_MS;
        if row.get::<Option<i64>>(4)?.is_none_or(|used_ms| used_ms <= stale_ms) {
            let sql = "UPDATE deploy_keys SET used_ms = $1 WHERE id = $2 AND (used_ms IS NULL OR used_ms <= $3)";
            if let Err(error) = self.database.execute(sql, &values![now_ms, id, stale_ms]).await {
                // Whether it holds is known all the same.
                tracing::warn!(error = chain(&error), "cannot note that a deploy key was used");
            }
        }
        Ok(DeployKey {
            id,
            name: row.get(10)?,
            entry: Entry {
                organization: row.get(5)?,
                organization_name: row.get(6)?,
                team_name: row.get(7)?,
                workspace: row.get(8)?,
                workspace_name: row.get(9)?,
                role: Role::Beacon,
            },
        })
    }
}
