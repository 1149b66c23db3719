//! Who has which role where.
//!
//! A role of Owner is given and taken by Owners only, and an organization always has one.

use super::People;
use super::address::Email;
use super::admin_log::Act;
use super::authority::{By, Change, Place, Scope};
use super::organization::Tree;
use crate::access::{Ability, Role};
use crate::db::{Transaction, values};
use crate::error::ApiError;
use crate::id::{OrganizationId, UserId};

/// Of one organization; a page lists them all.
const MEMBERSHIPS_MAX: i64 = 5000;

/// A role that somebody has somewhere.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) user: UserId,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) role: Role,
    pub(crate) since_ms: i64,
    pub(crate) seen_ms: Option<i64>,
    /// Whether the asker may change it.
    pub(crate) changeable: bool,
}

impl People {
    /// Returns the roles in all places that the asker runs.
    pub(crate) async fn memberships(&self, tree: &Tree) -> Result<Vec<Membership>, ApiError> {
        let sql =
            "SELECT u.id, u.email, u.name, u.seen_ms, m.scope, m.scope_id, m.role, m.created_ms
             FROM memberships m JOIN users u ON u.id = m.user_id
             WHERE m.organization = $1 ORDER BY u.email, u.id, m.scope, m.scope_id";
        let rows = self.database.rows(sql, &values![tree.organization.scope.number()]).await?;
        let mut memberships = Vec::with_capacity(rows.len());
        for row in rows {
            let (kind, number, role): (String, i64, String) =
                (row.get(4)?, row.get(5)?, row.get(6)?);
            let place = Scope::stored(&kind, number).and_then(|scope| tree.place(scope));
            let Some((place, role)) = place.zip(Role::parse(&role)) else { continue };
            if !tree.authority.may(Ability::Administer, place) {
                continue;
            }
            memberships.push(Membership {
                user: row.get(0)?,
                email: row.get(1)?,
                name: row.get(2)?,
                seen_ms: row.get(3)?,
                place: place.clone(),
                role,
                since_ms: row.get(7)?,
                changeable: tree.authority.may_give(role, place),
            });
        }
        Ok(memberships)
    }

    /// Changes the role that somebody has there.
    pub(crate) async fn change_role(
        &self,
        by: &By,
        organization: OrganizationId,
        user: UserId,
        scope: Scope,
        role: Role,
    ) -> Result<(), ApiError> {
        let mut change = self.change(by, organization).await?;
        let place = change.place_for(Ability::Administer, scope).await?;
        let member = change.member(user, scope).await?;
        change.check_give(member.role, &place)?;
        change.check_give(role, &place)?;
        if member.role == role {
            return Ok(());
        }
        let sql = "UPDATE memberships SET role = $1
             WHERE user_id = $2 AND scope = $3 AND scope_id = $4 AND organization = $5";
        let row = values![role.as_str(), user, scope.kind(), scope.number(), organization];
        change.execute(sql, &row).await?;
        change.check_owner().await?;
        let act = Act::new("role.changed", &member.email).of(&user.to_string());
        let act = act.with("role", role.as_str()).with("before", member.role.as_str());
        change.commit(in_place(act, &place)).await
    }

    /// Takes away the role that somebody has there.
    pub(crate) async fn remove_member(
        &self,
        by: &By,
        organization: OrganizationId,
        user: UserId,
        scope: Scope,
    ) -> Result<(), ApiError> {
        let mut change = self.change(by, organization).await?;
        let place = change.place_for(Ability::Administer, scope).await?;
        let member = change.member(user, scope).await?;
        change.check_give(member.role, &place)?;
        let sql = "DELETE FROM memberships
             WHERE user_id = $1 AND scope = $2 AND scope_id = $3 AND organization = $4";
        change.execute(sql, &values![user, scope.kind(), scope.number(), organization]).await?;
        change.check_owner().await?;
        let act = Act::new("member.removed", &member.email).of(&user.to_string()).warning();
        change.commit(in_place(act.with("role", member.role.as_str()), &place)).await
    }
}

/// Adds to an entry where it was.
pub(super) fn in_place(act: Act, place: &Place) -> Act {
    act.with("scope", place.scope.to_string()).with("scope_name", place.name.clone())
}

struct Member {
    email: String,
    role: Role,
}

impl Change {
    async fn member(&mut self, user: UserId, scope: Scope) -> Result<Member, ApiError> {
        let sql = "SELECT u.email, m.role FROM memberships m JOIN users u ON u.id = m.user_id
             WHERE m.user_id = $1 AND m.scope = $2 AND m.scope_id = $3 AND m.organization = $4";
        let row = values![user, scope.kind(), scope.number(), self.organization];
        let row = self.row(sql, &row).await?.ok_or(ApiError::NotFound("member"))?;
        let role = Role::parse(&row.get::<String>(1)?).ok_or(ApiError::NotFound("role"))?;
        Ok(Member { email: row.get(0)?, role })
    }

    /// Makes sure that somebody is left who owns the organization.
    async fn check_owner(&mut self) -> Result<(), ApiError> {
        let sql = "SELECT count(*) FROM memberships m
             JOIN users u ON u.id = m.user_id AND u.disabled_ms IS NULL
             WHERE m.organization = $1 AND m.scope = 'organization' AND m.role = 'owner'";
        let row = self.row(sql, &values![self.organization]).await?;
        if row.map_or(Ok(0), |row| row.get::<i64>(0))? > 0 {
            return Ok(());
        }
        let message = "an organization has at least one owner; make somebody else an owner first";
        Err(ApiError::Conflict(message.to_owned()))
    }

    /// Returns the account with this address, if it has a role in this organization.
    pub(super) async fn member_with(&mut self, email: &Email) -> Result<Option<UserId>, ApiError> {
        let sql = "SELECT u.id FROM users u WHERE u.email = $1 AND EXISTS
             (SELECT 1 FROM memberships m WHERE m.user_id = u.id AND m.organization = $2)";
        let row = self.row(sql, &values![email, self.organization]).await?;
        Ok(row.map(|row| row.get(0)).transpose()?)
    }

    pub(super) async fn check_members(&mut self) -> Result<(), ApiError> {
        let sql = "SELECT count(*) FROM memberships WHERE organization = $1";
        let organization = self.organization;
        self.check_room((sql, &values![organization]), MEMBERSHIPS_MAX, "roles").await
    }
}

/// Gives somebody a role where there is none yet; a role that is there stays if it is higher.
pub(super) async fn join(
    transaction: &mut dyn Transaction,
    user: UserId,
    organization: OrganizationId,
    scope: Scope,
    role: Role,
    now_ms: i64,
) -> Result<(), ApiError> {
    let sql = "SELECT role FROM memberships WHERE user_id = $1 AND scope = $2 AND scope_id = $3";
    let row = transaction.row(sql, &values![user, scope.kind(), scope.number()]).await?;
    let there = row.map(|row| row.get::<String>(0)).transpose()?;
    if there.as_deref().and_then(Role::parse).is_some_and(|there| there >= role) {
        return Ok(());
    }
    let sql = "INSERT INTO memberships (user_id, organization, scope, scope_id, role, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (user_id, scope, scope_id) DO UPDATE SET role = excluded.role";
    let row = values![user, organization, scope.kind(), scope.number(), role.as_str(), now_ms];
    transaction.execute(sql, &row).await?;
    Ok(())
}
