//! How gateways come in, are known again, and leave.

use std::sync::Arc;

use super::presence::cut_host;
use crate::access::Entry;
use crate::clock::now_ms;
use crate::db::{Database, values};
use crate::error::ApiError;
use crate::events::{EventStore, Origin};
use crate::id::{DeployKeyId, GatewayId, OrganizationId, UserId, WorkspaceId};
use crate::secret::{Purpose, Secret};
use crate::wire::{LinkRequest, Linked, Me, Workspace};

/// As people can read in a list.
const NAME_CHARS_MAX: usize = 100;

/// Of one workspace: far more than are looked after by hand, and less than fill a database.
const GATEWAYS_MAX: i64 = 100_000;

/// A gateway's streams that were there before it was linked: two kinds in each of a few databases.
const STREAMS_BEFORE_MAX: usize = 16;

/// Who lets a gateway in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Party {
    /// Whose it will be.
    Person(UserId),
    /// Whoever has the key.
    Key(DeployKeyId),
}

/// A gateway that showed its secret.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) origin: Origin,
    pub(crate) name: String,
}

/// How gateways come in, are known again, and leave.
#[derive(Clone)]
pub(crate) struct Links {
    database: Arc<dyn Database>,
    events: Arc<dyn EventStore>,
}

impl Links {
    pub(crate) fn new(database: Arc<dyn Database>, events: Arc<dyn EventStore>) -> Self {
        Self { database, events }
    }

    /// Lets a gateway in, to a workspace that `party` may link to.
    pub(crate) async fn link(
        &self,
        party: Party,
        entry: &Entry,
        request: LinkRequest,
    ) -> Result<Linked, ApiError> {
        let name = request.name.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            let message = format!("a gateway's name has 1 to {NAME_CHARS_MAX} characters");
            return Err(ApiError::Invalid(message));
        }
        if request.before.len() > STREAMS_BEFORE_MAX {
            let message = format!("`before` has at most {STREAMS_BEFORE_MAX} streams");
            return Err(ApiError::Invalid(message));
        }
        self.check_room(entry.workspace).await?;
        let (id, secret) = (GatewayId::new(), Secret::new(Purpose::Gateway));
        let host = cut_host(request.host);
        let (owner, key) = match party {
            Party::Person(user) => (Some(user), None),
            Party::Key(key) => (None, Some(key)),
        };
        self.database
            .execute(
                "INSERT INTO gateways (id, organization, workspace, name, owner, deploy_key, lookup,
                     hash, created_ms, os, os_version, arch, hostname, version, kind, environment)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
                &values![
                    id,
                    entry.organization,
                    entry.workspace,
                    name,
                    owner,
                    key,
                    secret.lookup(),
                    secret.hash(),
                    now_ms(),
                    &host.os,
                    host.os_version.clone(),
                    &host.arch,
                    &host.hostname,
                    &host.version,
                    &host.kind,
                    &host.environment,
                ],
            )
            .await?;
        self.events.leave_out(id, &request.before).await?;
        Ok(Linked {
            gateway_id: id.to_string(),
            name: name.to_owned(),
            workspace: described(entry),
            secret: secret.reveal(),
        })
    }

    async fn check_room(&self, workspace: WorkspaceId) -> Result<(), ApiError> {
        let sql = "SELECT count(*) FROM gateways WHERE workspace = $1 AND unlinked_ms IS NULL";
        let row = self.database.row(sql, &values![workspace]).await?;
        let count = row.map_or(Ok(0), |row| row.get(0))?;
        if count < GATEWAYS_MAX {
            return Ok(());
        }
        let message = format!("this workspace has {GATEWAYS_MAX} gateways; unlink some first");
        Err(ApiError::Conflict(message))
    }

    /// Returns whose secret this is, if it still lets somebody in: not when the gateway was unlinked or
    /// archived, its key revoked, or its owner is gone.
    pub(crate) async fn known(&self, secret: &Secret) -> Result<Known, ApiError> {
        let sql = "SELECT g.id, g.organization, g.workspace, g.name, g.hash, g.unlinked_ms, g.archived_ms,
                 k.revoked_ms, u.disabled_ms, g.owner,
                 (SELECT count(*) FROM memberships m
                  WHERE m.user_id = g.owner AND m.organization = g.organization)
             FROM gateways g
             LEFT JOIN deploy_keys k ON k.id = g.deploy_key
             LEFT JOIN users u ON u.id = g.owner
             WHERE g.lookup = $1";
        let row = self.database.row(sql, &values![secret.lookup()]).await?;
        let row = row.ok_or(ApiError::Unauthorized)?;
        if !secret.matches(&row.get::<Vec<u8>>(4)?) {
            return Err(ApiError::Unauthorized);
        }
        for ended in 5..=8 {
            if row.get::<Option<i64>>(ended)?.is_some() {
                return Err(ApiError::Revoked);
            }
        }
        let memberships: i64 = row.get(10)?;
        if row.get::<Option<UserId>>(9)?.is_some() && memberships == 0 {
            return Err(ApiError::Revoked);
        }
        let origin =
            Origin { gateway: row.get(0)?, organization: row.get(1)?, workspace: row.get(2)? };
        Ok(Known { origin, name: row.get(3)? })
    }

    /// Returns what a gateway may know of itself.
    pub(crate) async fn me(&self, known: &Known) -> Result<Me, ApiError> {
        let sql = "SELECT w.name, t.name, o.name FROM workspaces w
             JOIN teams t ON t.id = w.team JOIN organizations o ON o.id = w.organization
             WHERE w.id = $1";
        let row = self.database.row(sql, &values![known.origin.workspace]).await?;
        let row = row.ok_or(ApiError::NotFound("workspace"))?;
        let workspace = Workspace {
            id: known.origin.workspace.to_string(),
            name: row.get(0)?,
            team: row.get(1)?,
            organization: row.get(2)?,
        };
        let streams = self.events.streams(known.origin.gateway, None).await?;
        let gateway_id = known.origin.gateway.to_string();
        Ok(Me { gateway_id, name: known.name.clone(), workspace, streams })
    }

    /// Ends a gateway's link. Its records stay. Returns its name, if it was linked.
    pub(crate) async fn unlink(
        &self,
        organization: OrganizationId,
        gateway: GatewayId,
    ) -> Result<Option<String>, ApiError> {
        self.end("unlinked_ms", organization, gateway).await
    }

    /// Likewise, for one that will not come back.
    pub(crate) async fn archive(
        &self,
        organization: OrganizationId,
        gateway: GatewayId,
    ) -> Result<Option<String>, ApiError> {
        self.end("archived_ms", organization, gateway).await
    }

    async fn end(
        &self,
        column: &str,
        organization: OrganizationId,
        gateway: GatewayId,
    ) -> Result<Option<String>, ApiError> {
        let sql = format!(
            "UPDATE gateways SET {column} = $3
             WHERE id = $2 AND organization = $1 AND unlinked_ms IS NULL AND archived_ms IS NULL
             RETURNING name"
        );
        let mut transaction = self.database.begin().await?;
        let row = transaction.row(&sql, &values![organization, gateway, now_ms()]).await?;
        transaction.commit().await?;
        Ok(row.map(|row| row.get(0)).transpose()?)
    }

    /// Returns whose a gateway is, and where.
    pub(crate) async fn owner(
        &self,
        workspace: WorkspaceId,
        gateway: GatewayId,
    ) -> Result<Option<UserId>, ApiError> {
        let sql = "SELECT owner FROM gateways WHERE workspace = $1 AND id = $2";
        let row = self.database.row(sql, &values![workspace, gateway]).await?;
        Ok(row.ok_or(ApiError::NotFound("gateway"))?.get(0)?)
    }
}

/// Returns a workspace as the wire has it.
pub(crate) fn described(entry: &Entry) -> Workspace {
    Workspace {
        id: entry.workspace.to_string(),
        name: entry.workspace_name.clone(),
        team: entry.team_name.clone(),
        organization: entry.organization_name.clone(),
    }
}
