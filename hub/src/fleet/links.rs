//! How gateways come in, are known again, and leave.

use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::presence::cut_host;
use crate::access::{Account, Entry};
use crate::clock::now_ms;
use crate::db::{Database, DbError, Transaction, values};
use crate::error::ApiError;
use crate::events::{EventStore, Origin};
use crate::id::{DeployKeyId, GatewayId, OrganizationId, UserId, WorkspaceId};
use crate::people::authority::{Scope, lock, place};
use crate::people::keys::DeployKey;
use crate::people::{Act, admin_log};
use crate::secret::{Purpose, Secret};
use crate::wire::{Host, LinkRequest, Linked, Me, StreamState, Workspace};

/// As people can read in a list.
const NAME_CHARS_MAX: usize = 100;

/// Of one workspace: far more than are looked after by hand, and less than fill a database.
const GATEWAYS_MAX: i64 = 100_000;

/// A gateway's streams that were there before it was linked: two kinds in each of a few databases.
const STREAMS_BEFORE_MAX: usize = 16;

/// Who lets a gateway in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Party<'a> {
    /// Whose it will be.
    Person(&'a Account),
    /// Whoever has the key.
    Key(&'a DeployKey),
}

impl Party<'_> {
    /// Returns the owner and the deploy key, one of which there is.
    fn ids(self) -> (Option<UserId>, Option<DeployKeyId>) {
        match self {
            Self::Person(account) => (Some(account.id), None),
            Self::Key(key) => (None, Some(key.id)),
        }
    }
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
    ///
    /// Asked again with the same [`LinkRequest::request`], because the answer was lost, it answers for the
    /// same gateway with a new secret; the old one is dead.
    ///
    /// # Cancel safety
    ///
    /// A gateway is linked, and in the Admin Log, or it is neither.
    pub(crate) async fn link(
        &self,
        party: Party<'_>,
        entry: &Entry,
        address: IpAddr,
        request: LinkRequest,
    ) -> Result<Linked, ApiError> {
        let asked = Asked::read(request)?;
        let secret = Secret::new(Purpose::Gateway);
        let mut id = GatewayId::new();
        loop {
            // Before there is a gateway: what it keeps to itself is never asked for. Of one that does not
            // come to be, nobody ever looks at the streams.
            let (organization, workspace) = (entry.organization, entry.workspace);
            let origin = Origin { organization, workspace, gateway: id };
            self.events.leave_out(origin, &asked.before).await?;
            let mut transaction = self.database.begin().await?;
            lock(&mut *transaction, self.database.dialect(), organization).await?;
            // It may have been deleted just now.
            place(&mut *transaction, organization, Scope::Workspace(workspace)).await?;
            let known = asked.linked(&mut *transaction, party, workspace).await?;
            if let Some(known) = known.filter(|known| *known != id) {
                id = known;
                continue;
            }
            let new = New { id, party, entry, asked: &asked, secret: &secret };
            if known.is_some() {
                new.renew(&mut *transaction).await?;
            } else {
                check_room(&mut *transaction, workspace).await?;
                new.insert(&mut *transaction).await?;
                let act = new.act().from(address);
                admin_log::write(&mut *transaction, organization, now_ms(), &act).await?;
            }
            transaction.commit().await?;
            return Ok(Linked {
                gateway_id: id.to_string(),
                name: asked.name,
                workspace: described(entry),
                secret: secret.reveal(),
            });
        }
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

    /// Ends a gateway's link; its records stay. Without an account, the gateway does so itself.
    pub(crate) async fn unlink(
        &self,
        organization: OrganizationId,
        gateway: GatewayId,
        by: Option<&Account>,
        address: IpAddr,
    ) -> Result<(), ApiError> {
        self.end(End::Unlink, organization, gateway, by, address).await
    }

    /// Likewise, for one that will not come back, linked or not.
    pub(crate) async fn archive(
        &self,
        organization: OrganizationId,
        gateway: GatewayId,
        by: Option<&Account>,
        address: IpAddr,
    ) -> Result<(), ApiError> {
        self.end(End::Archive, organization, gateway, by, address).await
    }

    async fn end(
        &self,
        end: End,
        organization: OrganizationId,
        gateway: GatewayId,
        by: Option<&Account>,
        address: IpAddr,
    ) -> Result<(), ApiError> {
        let mut transaction = self.database.begin().await?;
        lock(&mut *transaction, self.database.dialect(), organization).await?;
        let now_ms = now_ms();
        if transaction.execute(end.sql(), &values![organization, gateway, now_ms]).await? == 0 {
            return Err(ApiError::NotFound("gateway"));
        }
        let sql = "SELECT g.name, w.id, w.name, u.email, k.id, k.name FROM gateways g
             JOIN workspaces w ON w.id = g.workspace
             LEFT JOIN users u ON u.id = g.owner
             LEFT JOIN deploy_keys k ON k.id = g.deploy_key WHERE g.id = $1";
        let row = transaction.row(sql, &values![gateway]).await?;
        let row = row.ok_or(ApiError::NotFound("gateway"))?;
        let act = Act::new(end.action(), &row.get::<String>(0)?).of(&gateway.to_string());
        let mut act = in_workspace(act, row.get(1)?, &row.get::<String>(2)?);
        if let Some(owner) = row.get::<Option<String>>(3)? {
            act = act.with("owner", owner);
        }
        if let Some(key) = row.get::<Option<DeployKeyId>>(4)? {
            act = with_key(act, key, &row.get::<String>(5)?);
        }
        if let Some(account) = by {
            act = act.by(account);
        }
        admin_log::write(&mut *transaction, organization, now_ms, &act.from(address)).await?;
        Ok(transaction.commit().await?)
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

/// How a link ends.
#[derive(Clone, Copy)]
enum End {
    Unlink,
    Archive,
}

impl End {
    fn sql(self) -> &'static str {
        match self {
            Self::Unlink => {
                "UPDATE gateways SET unlinked_ms = $3 WHERE id = $2 AND organization = $1
                     AND unlinked_ms IS NULL AND archived_ms IS NULL"
            }
            Self::Archive => {
                "UPDATE gateways SET archived_ms = $3 WHERE id = $2 AND organization = $1
                     AND archived_ms IS NULL"
            }
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::Unlink => "gateway.unlinked",
            Self::Archive => "gateway.archived",
        }
    }
}

/// A request that makes sense.
struct Asked {
    name: String,
    host: Host,
    before: Vec<StreamState>,
    request: Option<String>,
}

impl Asked {
    fn read(request: LinkRequest) -> Result<Self, ApiError> {
        let name = request.name.trim().to_owned();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            let message = format!("a gateway's name has 1 to {NAME_CHARS_MAX} characters");
            return Err(ApiError::Invalid(message));
        }
        if request.before.len() > STREAMS_BEFORE_MAX {
            let message = format!("`before` has at most {STREAMS_BEFORE_MAX} streams");
            return Err(ApiError::Invalid(message));
        }
        let uuid = request.request.map(|text| Uuid::parse_str(&text)).transpose();
        let uuid = uuid.map_err(|_| ApiError::Invalid("`request` is a UUID".to_owned()))?;
        Ok(Self {
            name,
            host: cut_host(request.host),
            before: request.before,
            request: uuid.map(|uuid| uuid.to_string()),
        })
    }

    /// Returns the gateway that this request has linked already, and that still is.
    async fn linked(
        &self,
        transaction: &mut dyn Transaction,
        party: Party<'_>,
        workspace: WorkspaceId,
    ) -> Result<Option<GatewayId>, DbError> {
        let Some(request) = &self.request else { return Ok(None) };
        let (owner, key) = party.ids();
        let sql = "SELECT id FROM gateways WHERE request = $1 AND workspace = $2
                 AND (owner = $3 OR deploy_key = $4) AND unlinked_ms IS NULL AND archived_ms IS NULL";
        let row = transaction.row(sql, &values![request, workspace, owner, key]).await?;
        row.map(|row| row.get(0)).transpose()
    }
}

/// A gateway that comes in.
struct New<'a> {
    id: GatewayId,
    party: Party<'a>,
    entry: &'a Entry,
    asked: &'a Asked,
    secret: &'a Secret,
}

impl New<'_> {
    async fn insert(&self, transaction: &mut dyn Transaction) -> Result<(), DbError> {
        let sql = "INSERT INTO gateways (id, organization, workspace, name, owner, deploy_key, request,
                 lookup, hash, created_ms, os, os_version, arch, hostname, version, kind, environment)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
        let (host, (owner, key)) = (&self.asked.host, self.party.ids());
        let row = values![
            self.id,
            self.entry.organization,
            self.entry.workspace,
            &self.asked.name,
            owner,
            key,
            self.asked.request.clone(),
            self.secret.lookup(),
            self.secret.hash(),
            now_ms(),
            &host.os,
            host.os_version.clone(),
            &host.arch,
            &host.hostname,
            &host.version,
            &host.kind,
            &host.environment,
        ];
        transaction.execute(sql, &row).await.map(drop)
    }

    /// Gives it a new secret, and the name that it asks for now.
    async fn renew(&self, transaction: &mut dyn Transaction) -> Result<(), DbError> {
        let sql = "UPDATE gateways SET name = $2, lookup = $3, hash = $4 WHERE id = $1";
        let (lookup, hash) = (self.secret.lookup(), self.secret.hash());
        let row = values![self.id, &self.asked.name, lookup, hash];
        transaction.execute(sql, &row).await.map(drop)
    }

    fn act(&self) -> Act {
        let act = Act::new("gateway.linked", &self.asked.name).of(&self.id.to_string());
        let act = in_workspace(act, self.entry.workspace, &self.entry.workspace_name);
        match self.party {
            Party::Person(account) => act.by(account),
            Party::Key(key) => with_key(act, key.id, &key.name),
        }
    }
}

async fn check_room(
    transaction: &mut dyn Transaction,
    workspace: WorkspaceId,
) -> Result<(), ApiError> {
    let sql = "SELECT count(*) FROM gateways
         WHERE workspace = $1 AND unlinked_ms IS NULL AND archived_ms IS NULL";
    let row = transaction.row(sql, &values![workspace]).await?;
    let count: i64 = row.map_or(Ok(0), |row| row.get(0))?;
    if count < GATEWAYS_MAX {
        return Ok(());
    }
    let message = format!("this workspace has {GATEWAYS_MAX} gateways; unlink some first");
    Err(ApiError::Conflict(message))
}

fn in_workspace(act: Act, id: WorkspaceId, name: &str) -> Act {
    act.with("scope", id.to_string()).with("scope_name", name)
}

fn with_key(act: Act, id: DeployKeyId, name: &str) -> Act {
    act.with("deploy_key", id.to_string()).with("deploy_key_name", name)
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

#[cfg(test)]
mod tests;
