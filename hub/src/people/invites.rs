//! Invites: a role for an address, to be accepted by whoever proves that the address is theirs.
//!
//! The link names the invite and proves nothing: who made it could have opened it themselves.

use super::People;
use super::address::Email;
use super::admin_log::{self, Act};
use super::authority::{Authority, By, Place, Scope, lock, place};
use super::members::{in_place, join};
use super::organization::Tree;
use super::ticket::Ticket;
use crate::access::{Ability, Account, Role};
use crate::db::{Row, values};
use crate::error::ApiError;
use crate::id::{InviteId, OrganizationId, UserId};

/// Somebody back from a short holiday still finds it.
const VALID_MS: i64 = 7 * 86_400_000;

/// Open ones of an organization.
const OPEN_MAX: i64 = 500;

/// An open invite, as those see it who run the place.
#[derive(Debug, Clone)]
pub(crate) struct Invite {
    pub(crate) id: InviteId,
    pub(crate) email: String,
    pub(crate) role: Role,
    pub(crate) place: Place,
    pub(crate) created_by: String,
    pub(crate) expires_ms: i64,
}

/// An invite, as the invited see it.
#[derive(Debug, Clone)]
pub(crate) struct Invitation {
    pub(crate) id: InviteId,
    pub(crate) organization_name: String,
    pub(crate) email: String,
    pub(crate) role: Role,
    pub(crate) created_by: String,
    pub(crate) expires_ms: i64,
}

/// What became of asking for somebody to come in.
#[derive(Debug)]
pub(crate) enum Invited {
    /// They are in the organization, and have the role now.
    Joined,
    /// They have to accept. The link is shown once.
    Link(String),
}

/// Open invites: those of `$1`, at `$2`.
const OPEN: &str = "i.accepted_ms IS NULL AND i.revoked_ms IS NULL AND i.expires_ms > $2";

impl People {
    /// Gives an address a role there: at once if its owner is in the organization, or by an invite.
    pub(crate) async fn invite(
        &self,
        by: &By,
        organization: OrganizationId,
        email: &str,
        scope: Scope,
        role: Role,
    ) -> Result<Invited, ApiError> {
        let mut change = self.change(by, organization).await?;
        let place = change.place_for(Ability::Administer, scope).await?;
        let email = Email::parse(email)?;
        change.check_give(role, &place)?;
        change.check_members().await?;
        let now_ms = change.now_ms;
        if let Some(user) = change.member_with(&email).await? {
            let sql =
                "SELECT 1 FROM memberships WHERE user_id = $1 AND scope = $2 AND scope_id = $3";
            let row = values![user, scope.kind(), scope.number()];
            if change.row(sql, &row).await?.is_some() {
                let message = format!("`{email}` has a role there already; change it below");
                return Err(ApiError::Conflict(message));
            }
            join(&mut *change.transaction, user, organization, scope, role, now_ms).await?;
            let act = Act::new("role.changed", email.as_str()).of(&user.to_string());
            change.commit(in_place(act.with("role", role.as_str()), &place)).await?;
            return Ok(Invited::Joined);
        }
        if role == Role::Beacon {
            let message = "a Beacon is not invited: invite as Viewer, and change the role, or use a deploy key";
            return Err(ApiError::Invalid(message.to_owned()));
        }
        let open = format!("SELECT count(*) FROM invites i WHERE i.organization = $1 AND {OPEN}");
        change
            .check_room((&open, &values![organization, now_ms]), OPEN_MAX, "open invites")
            .await?;
        // A new one takes the place of one that is open.
        let sql = "UPDATE invites SET revoked_ms = $1 WHERE organization = $2 AND email = $3 AND scope = $4
             AND scope_id = $5 AND accepted_ms IS NULL AND revoked_ms IS NULL";
        let row = values![now_ms, organization, &email, scope.kind(), scope.number()];
        let is_replaced = change.execute(sql, &row).await? > 0;
        let (id, ticket) = (InviteId::new(), Ticket::new());
        let sql =
            "INSERT INTO invites (id, organization, scope, scope_id, email, role, hash, created_by,
                 created_ms, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        let row = values![
            id,
            organization,
            scope.kind(),
            scope.number(),
            &email,
            role.as_str(),
            ticket.hash(),
            change.by(),
            now_ms,
            now_ms + VALID_MS,
        ];
        change.execute(sql, &row).await?;
        let name = change.place(Scope::Organization(organization)).await?.name;
        let act = Act::new("member.invited", email.as_str())
            .of(&id.to_string())
            .with("role", role.as_str());
        let act = if is_replaced { act.with("replaced", true) } else { act };
        change.commit(in_place(act, &place)).await?;
        let link = self.url(&format!("invites/{}", ticket.reveal()));
        self.mailer.invite(&email, &name, by.account.shown(), &link);
        Ok(Invited::Link(link))
    }

    /// Takes an invite back.
    pub(crate) async fn revoke_invite(
        &self,
        by: &By,
        organization: OrganizationId,
        id: InviteId,
    ) -> Result<(), ApiError> {
        let mut change = self.change(by, organization).await?;
        let sql = "SELECT email, scope, scope_id FROM invites WHERE id = $1 AND organization = $2";
        let row = change.row(sql, &values![id, organization]).await?;
        let row = row.ok_or(ApiError::NotFound("invite"))?;
        let scope = Scope::stored(&row.get::<String>(1)?, row.get(2)?)
            .ok_or(ApiError::NotFound("invite"))?;
        let place = change.place_for(Ability::Administer, scope).await?;
        let sql = "UPDATE invites SET revoked_ms = $1 WHERE id = $2 AND accepted_ms IS NULL AND revoked_ms IS NULL";
        let now_ms = change.now_ms;
        if change.execute(sql, &values![now_ms, id]).await? == 0 {
            return Ok(());
        }
        let act = Act::new("member.revoked", &row.get::<String>(0)?).of(&id.to_string());
        change.commit(in_place(act, &place)).await
    }

    /// Returns the open invites to all places that the asker runs.
    pub(crate) async fn invites(&self, tree: &Tree) -> Result<Vec<Invite>, ApiError> {
        let sql = format!(
            "SELECT i.id, i.email, i.role, i.scope, i.scope_id, u.email, i.expires_ms
             FROM invites i JOIN users u ON u.id = i.created_by
             WHERE i.organization = $1 AND {OPEN} ORDER BY i.email, i.id"
        );
        let parameters = values![tree.organization.scope.number(), self.now_ms()];
        let mut invites = Vec::new();
        for row in self.database.rows(&sql, &parameters).await? {
            let (role, kind): (String, String) = (row.get(2)?, row.get(3)?);
            let place = Scope::stored(&kind, row.get(4)?).and_then(|scope| tree.place(scope));
            let Some((place, role)) = place.zip(Role::parse(&role)) else { continue };
            if tree.authority.may(Ability::Administer, place) {
                let (id, email) = (row.get(0)?, row.get(1)?);
                let (created_by, expires_ms) = (row.get(5)?, row.get(6)?);
                invites.push(Invite {
                    id,
                    email,
                    role,
                    place: place.clone(),
                    created_by,
                    expires_ms,
                });
            }
        }
        Ok(invites)
    }

    /// Returns the open invites of an address.
    pub(crate) async fn invitations(&self, email: &str) -> Result<Vec<Invitation>, ApiError> {
        let sql = format!("{INVITATIONS} WHERE i.email = $1 AND {OPEN} ORDER BY i.id LIMIT 100");
        let rows = self.database.rows(&sql, &values![email, self.now_ms()]).await?;
        rows.iter().map(invitation).collect()
    }

    /// Returns the open invite of a link.
    pub(crate) async fn invitation(&self, ticket: &Ticket) -> Result<Invitation, ApiError> {
        let sql = format!("{INVITATIONS} WHERE i.hash = $1 AND {OPEN}");
        let row = self.database.row(&sql, &values![ticket.hash(), self.now_ms()]).await?;
        invitation(&row.ok_or(ApiError::NotFound("invite, or not any more; ask for a new one"))?)
    }

    /// Accepts an invite to the account's own address, as long as whoever made it may still give that role
    /// there: nobody keeps a way in by having invited themselves.
    pub(crate) async fn accept_invite(&self, by: &By, id: InviteId) -> Result<(), ApiError> {
        let now_ms = self.now_ms();
        let missing = || ApiError::NotFound("invite, or not any more; ask for a new one");
        let sql = "SELECT organization FROM invites WHERE id = $1 AND email = $2";
        let row = self.database.row(sql, &values![id, &by.account.email]).await?;
        let organization: OrganizationId = row.ok_or_else(missing)?.get(0)?;
        let mut transaction = self.database.begin().await?;
        lock(&mut *transaction, self.database.dialect(), organization).await?;
        let sql = "UPDATE invites SET accepted_ms = $1 WHERE id = $2 AND email = $3
             AND accepted_ms IS NULL AND revoked_ms IS NULL AND expires_ms > $1
             RETURNING scope, scope_id, role, created_by";
        let row = transaction.row(sql, &values![now_ms, id, &by.account.email]).await?;
        let row = row.ok_or_else(missing)?;
        let stored = Scope::stored(&row.get::<String>(0)?, row.get(1)?);
        let stored = stored.zip(Role::parse(&row.get::<String>(2)?));
        let (scope, role) = stored.ok_or(ApiError::NotFound("invite"))?;
        let inviter: UserId = row.get(3)?;
        let rows = transaction.rows(Authority::SQL, &values![inviter, organization]).await?;
        let place = place(&mut *transaction, organization, scope).await?;
        if !Authority::read(&rows)?.may_give(role, &place) {
            let message = "whoever invited you may not any more; ask for a new invite";
            return Err(ApiError::Conflict(message.to_owned()));
        }
        join(&mut *transaction, by.account.id, organization, scope, role, now_ms).await?;
        let act = Act::new("member.accepted", &by.account.email)
            .of(&by.account.id.to_string())
            .with("role", role.as_str())
            .with("scope", scope.to_string())
            .with("invited_by", inviter.to_string())
            .by(&by.account)
            .from(by.address);
        admin_log::write(&mut *transaction, organization, now_ms, &act).await?;
        Ok(transaction.commit().await?)
    }
}

const INVITATIONS: &str = "SELECT i.id, o.name, i.email, i.role, u.email, i.expires_ms
     FROM invites i JOIN organizations o ON o.id = i.organization JOIN users u ON u.id = i.created_by";

fn invitation(row: &Row) -> Result<Invitation, ApiError> {
    let unknown = || ApiError::NotFound("invite");
    Ok(Invitation {
        id: row.get(0)?,
        organization_name: row.get(1)?,
        email: row.get(2)?,
        role: Role::parse(&row.get::<String>(3)?).ok_or_else(unknown)?,
        created_by: row.get(4)?,
        expires_ms: row.get(5)?,
    })
}

impl Account {
    /// What others call them.
    pub(crate) fn shown(&self) -> &str {
        if self.name.is_empty() { &self.email } else { &self.name }
    }
}
