//! Somebody proved who they are: whether they may come in, and their account.

use std::net::IpAddr;

use super::People;
use super::address::Email;
use super::admin_log::{self, Act};
use super::sessions::Device;
use super::ticket::Ticket;
use crate::access::Account;
use crate::db::{DbError, Transaction, values};
use crate::error::ApiError;
use crate::id::{OrganizationId, UserId};

/// How somebody proved it, for the Admin Log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    SetupLink,
    Email,
    Oidc,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::SetupLink => "setup_link",
            Self::Email => "email",
            Self::Oidc => "oidc",
        }
    }
}

impl People {
    /// Signs in whoever proved that this address is theirs; returns their new session.
    ///
    /// # Errors
    ///
    /// [`ApiError::Forbidden`]: nobody is here with this address, nor invited.
    pub(crate) async fn sign_in(
        &self,
        email: &Email,
        method: Method,
        device: &Device,
    ) -> Result<Ticket, ApiError> {
        let mut transaction = self.database.begin().await?;
        let Some(account) = self.admit(&mut *transaction, email).await? else {
            return Err(ApiError::Forbidden("people who are members or invited"));
        };
        let ticket = self.begin_session(&mut *transaction, &account, method, device).await?;
        transaction.commit().await?;
        Ok(ticket)
    }

    /// Begins a session, and writes so to the Admin Log.
    pub(super) async fn begin_session(
        &self,
        transaction: &mut dyn Transaction,
        account: &Account,
        method: Method,
        device: &Device,
    ) -> Result<Ticket, ApiError> {
        let now_ms = self.now_ms();
        let sql = "UPDATE users SET seen_ms = $1 WHERE id = $2";
        transaction.execute(sql, &values![now_ms, account.id]).await?;
        let ticket = self.create_session(transaction, account.id, device).await?;
        let act = Act::new("auth.success", &account.email).of(&account.id.to_string());
        let act = act.with("method", method.as_str()).by(account).from(device.address);
        self.note_everywhere(transaction, &Email::parse(&account.email)?, act).await?;
        Ok(ticket)
    }

    /// Whether somebody with this address may come in.
    pub(super) async fn may_come(
        &self,
        transaction: &mut dyn Transaction,
        email: &Email,
    ) -> Result<bool, DbError> {
        let disabled = "SELECT 1 FROM users WHERE email = $1 AND disabled_ms IS NOT NULL";
        if transaction.row(disabled, &values![email]).await?.is_some() {
            return Ok(false);
        }
        Ok(!self.organizations(transaction, email).await?.is_empty())
    }

    /// Returns the account with this address if it may come in; makes it if it was only invited.
    pub(super) async fn admit(
        &self,
        transaction: &mut dyn Transaction,
        email: &Email,
    ) -> Result<Option<Account>, DbError> {
        if !self.may_come(transaction, email).await? {
            return Ok(None);
        }
        self.account(transaction, email, "").await.map(Some)
    }

    /// Returns the account with this address; makes it if there is none.
    pub(super) async fn account(
        &self,
        transaction: &mut dyn Transaction,
        email: &Email,
        name: &str,
    ) -> Result<Account, DbError> {
        let sql = "INSERT INTO users (id, email, name, created_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (email) DO NOTHING";
        transaction.execute(sql, &values![UserId::new(), email, name, self.now_ms()]).await?;
        let sql = "SELECT id, email, name FROM users WHERE email = $1";
        let row =
            transaction.row(sql, &values![email]).await?.ok_or(DbError::Column { column: 0 })?;
        Ok(Account { id: row.get(0)?, email: row.get(1)?, name: row.get(2)? })
    }

    /// Returns where somebody with this address has a role, or is invited.
    async fn organizations(
        &self,
        transaction: &mut dyn Transaction,
        email: &Email,
    ) -> Result<Vec<OrganizationId>, DbError> {
        let sql = "SELECT m.organization FROM memberships m JOIN users u ON u.id = m.user_id WHERE u.email = $1
             UNION
             SELECT i.organization FROM invites i WHERE i.email = $1
                 AND i.accepted_ms IS NULL AND i.revoked_ms IS NULL AND i.expires_ms > $2";
        let rows = transaction.rows(sql, &values![email, self.now_ms()]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Writes to the Admin Logs of all organizations that somebody with this address is in, or invited to.
    pub(super) async fn note_everywhere(
        &self,
        transaction: &mut dyn Transaction,
        email: &Email,
        act: Act,
    ) -> Result<(), DbError> {
        let now_ms = self.now_ms();
        let mut organizations = self.organizations(transaction, email).await?;
        // Always in the same order: two that wait for each other would wait for ever.
        organizations.sort_by_key(|organization| organization.number());
        for organization in organizations {
            admin_log::write(transaction, organization, now_ms, &act).await?;
        }
        Ok(())
    }

    /// Writes that somebody was refused who came from the identity provider. With no address where nothing
    /// that is said of them is known to be true.
    pub(super) async fn note_stranger(&self, email: &str, reason: &str, address: IpAddr) {
        let sql = "SELECT id FROM organizations ORDER BY created_ms, id LIMIT 1";
        let first = async { self.database.row(sql, &[]).await?.map(|row| row.get(0)).transpose() };
        match first.await {
            Ok(Some(organization)) => {
                let act =
                    Act::new("auth.failure", email).with("method", "oidc").with("reason", reason);
                self.note(organization, None, act.warning(), address).await;
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the Admin Log misses a refused sign-in"),
        }
    }
}
