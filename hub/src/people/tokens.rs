//! Tokens of the command line: one for minutes, and one that gets the next pair, once.
//!
//! All tokens of one sign-in are a family. A refresh token that comes a second time was copied: the family
//! dies. Unless nobody has shown what it got: then the answer was lost, and it gets another pair in the place
//! of that one. Whoever shows a refresh token that was lost, ends the family too.

use std::net::IpAddr;

use http::HeaderMap;

use super::People;
use super::address::Email;
use super::admin_log::Act;
use super::grants::OAuthError;
use crate::access::Account;
use crate::db::{DbError, Row, Transaction, values};
use crate::error::ApiError;
use crate::id::UserId;
use crate::secret::{Purpose, Secret, bearer};

/// How long an access token holds.
const ACCESS_MS: i64 = 15 * 60_000;

/// How long somebody may leave the command line alone.
const REFRESH_MS: i64 = 60 * 86_400_000;

/// Notes that somebody shows what a refresh token got.
const NOTE_SHOWN: &str = "UPDATE tokens SET shown_ms = $1 WHERE shown_ms IS NULL
     AND lookup = (SELECT got_by FROM tokens WHERE lookup = $2)";

/// A pair of tokens, in clear.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) access: Secret,
    pub(crate) refresh: Secret,
    pub(crate) expires_in_s: i64,
}

/// A sign-in of the command line.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    /// Names it, and opens nothing.
    pub(crate) id: i64,
    pub(crate) refreshed_ms: i64,
}

fn purpose(of: Purpose) -> &'static str {
    match of {
        Purpose::AccessToken => "access",
        Purpose::RefreshToken => "refresh",
        Purpose::DeployKey | Purpose::Gateway => "none",
    }
}

impl People {
    /// Makes a pair of tokens, for somebody or for the refresh token found by `got_by`.
    pub(super) async fn issue(
        &self,
        transaction: &mut dyn Transaction,
        user: UserId,
        family: i64,
        got_by: Option<i64>,
    ) -> Result<Issued, DbError> {
        let now_ms = self.now_ms();
        let access = Secret::new(Purpose::AccessToken);
        let refresh = Secret::new(Purpose::RefreshToken);
        for (of, secret, valid_ms) in [
            (Purpose::AccessToken, &access, ACCESS_MS),
            (Purpose::RefreshToken, &refresh, REFRESH_MS),
        ] {
            let sql = "INSERT INTO tokens
                 (lookup, hash, purpose, family, user_id, created_ms, expires_ms, got_by)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            let (lookup, hash, until_ms) = (secret.lookup(), secret.hash(), now_ms + valid_ms);
            let row = values![lookup, hash, purpose(of), family, user, now_ms, until_ms, got_by];
            transaction.execute(sql, &row).await?;
        }
        Ok(Issued { access, refresh, expires_in_s: ACCESS_MS / 1000 })
    }

    /// Exchanges a refresh token for a new pair.
    pub(crate) async fn refresh(&self, token: &str, address: IpAddr) -> Result<Issued, OAuthError> {
        let unknown =
            || OAuthError::InvalidGrant("the refresh token is not valid, or not any more");
        let secret = Secret::parse(Purpose::RefreshToken, token).ok_or_else(unknown)?;
        let (lookup, hash, now_ms) = (secret.lookup(), secret.hash(), self.now_ms());
        let mut transaction = self.database.begin().await?;
        let sql = "UPDATE tokens SET used_ms = $1 WHERE lookup = $2 AND hash = $3 AND purpose = 'refresh'
             AND used_ms IS NULL AND revoked_ms IS NULL AND expires_ms > $1 RETURNING user_id, family";
        let mut row = transaction.row(sql, &values![now_ms, lookup, hash]).await?;
        if row.is_none() {
            row = self.used_before(&mut *transaction, &secret, address).await?;
        }
        let Some(row) = row else {
            // A family that was ended stays so.
            transaction.commit().await?;
            return Err(unknown());
        };
        let user: UserId = row.get(0)?;
        let sql = "SELECT 1 FROM users WHERE id = $1 AND disabled_ms IS NULL";
        if transaction.row(sql, &values![user]).await?.is_none() {
            return Err(unknown());
        }
        transaction.execute(NOTE_SHOWN, &values![now_ms, lookup]).await?;
        let issued = self.issue(&mut *transaction, user, row.get(1)?, Some(lookup)).await?;
        transaction.commit().await?;
        Ok(issued)
    }

    /// Returns whose a refresh token is that was used before, and its family, if nobody has shown what it got:
    /// that is worth nothing from now on. Otherwise ends the family.
    async fn used_before(
        &self,
        transaction: &mut dyn Transaction,
        secret: &Secret,
        address: IpAddr,
    ) -> Result<Option<Row>, DbError> {
        let (lookup, hash, now_ms) = (secret.lookup(), secret.hash(), self.now_ms());
        let sql =
            "UPDATE tokens SET used_ms = $1 WHERE lookup = $2 AND hash = $3 AND purpose = 'refresh'
             AND used_ms IS NOT NULL AND shown_ms IS NULL AND revoked_ms IS NULL AND expires_ms > $1
             RETURNING user_id, family";
        if let Some(row) = transaction.row(sql, &values![now_ms, lookup, hash]).await? {
            let sql = "UPDATE tokens SET revoked_ms = $1 WHERE family = $2 AND got_by = $3 AND revoked_ms IS NULL";
            transaction.execute(sql, &values![now_ms, row.get::<i64>(1)?, lookup]).await?;
            return Ok(Some(row));
        }
        // It was used and what it got was shown; or another pair took its place, so that this one was lost.
        let sql = "SELECT t.family FROM tokens t LEFT JOIN tokens g ON g.lookup = t.got_by
             WHERE t.lookup = $1 AND t.hash = $2 AND CASE WHEN t.revoked_ms IS NULL
                 THEN t.used_ms IS NOT NULL ELSE g.lookup IS NOT NULL AND g.revoked_ms IS NULL END";
        if let Some(row) = transaction.row(sql, &values![lookup, hash]).await? {
            self.revoke_family(transaction, row.get(0)?, Some(address)).await?;
        }
        Ok(None)
    }

    /// Ends the sign-in that a token belongs to; nothing if there is none.
    pub(crate) async fn revoke_token(&self, token: &str) -> Result<(), DbError> {
        let purposes = [Purpose::RefreshToken, Purpose::AccessToken];
        let Some(secret) = purposes.into_iter().find_map(|of| Secret::parse(of, token)) else {
            return Ok(());
        };
        let mut transaction = self.database.begin().await?;
        let sql = "SELECT family FROM tokens WHERE lookup = $1 AND hash = $2";
        let row = transaction.row(sql, &values![secret.lookup(), secret.hash()]).await?;
        let Some(row) = row else { return Ok(()) };
        self.revoke_family(&mut *transaction, row.get(0)?, None).await?;
        transaction.commit().await
    }

    /// Ends a sign-in of the command line. With an address: because from there came what was used before.
    pub(super) async fn revoke_family(
        &self,
        transaction: &mut dyn Transaction,
        family: i64,
        reused_from: Option<IpAddr>,
    ) -> Result<(), DbError> {
        let ended = values![self.now_ms(), family];
        let sql = "UPDATE tokens SET revoked_ms = $1 WHERE family = $2 AND revoked_ms IS NULL";
        let mut revoked = transaction.execute(sql, &ended).await?;
        // Again, for a pair that was being made: PostgreSQL waited for it, and did not see it.
        revoked += transaction.execute(sql, &ended).await?;
        let Some(address) = reused_from.filter(|_| revoked > 0) else { return Ok(()) };
        let sql = "SELECT u.id, u.email FROM tokens t JOIN users u ON u.id = t.user_id WHERE t.family = $1 LIMIT 1";
        let Some(row) = transaction.row(sql, &values![family]).await? else { return Ok(()) };
        let (id, email): (UserId, String) = (row.get(0)?, row.get(1)?);
        let act =
            Act::new("auth.failure", &email).of(&id.to_string()).with("method", "command_line");
        let act = act
            .with("reason", "a token was used twice; the sign-in was ended")
            .warning()
            .from(address);
        if let Ok(email) = Email::parse(&email) {
            self.note_everywhere(transaction, &email, act).await?;
        }
        Ok(())
    }

    /// Returns who shows an access token.
    ///
    /// # Errors
    ///
    /// - [`ApiError::Unauthorized`]: no token, an unknown one, or one that has expired.
    /// - [`ApiError::Revoked`]: its sign-in was ended.
    pub(crate) async fn bearer(&self, headers: &HeaderMap) -> Result<Account, ApiError> {
        let secret = bearer(headers).and_then(|shown| Secret::parse(Purpose::AccessToken, shown));
        let secret = secret.ok_or(ApiError::Unauthorized)?;
        let sql = "SELECT u.id, u.email, u.name, u.disabled_ms, t.hash, t.expires_ms, t.revoked_ms,
                 g.lookup IS NOT NULL AND g.shown_ms IS NULL
             FROM tokens t JOIN users u ON u.id = t.user_id LEFT JOIN tokens g ON g.lookup = t.got_by
             WHERE t.lookup = $1 AND t.purpose = 'access'";
        let row = self.database.row(sql, &values![secret.lookup()]).await?;
        let row = row.ok_or(ApiError::Unauthorized)?;
        if !secret.matches(&row.get::<Vec<u8>>(4)?) {
            return Err(ApiError::Unauthorized);
        }
        if row.get::<Option<i64>>(6)?.is_some() || row.get::<Option<i64>>(3)?.is_some() {
            return Err(ApiError::Revoked);
        }
        if row.get::<i64>(5)? <= self.now_ms() {
            return Err(ApiError::Unauthorized);
        }
        if row.get::<bool>(7)? {
            self.database.execute(NOTE_SHOWN, &values![self.now_ms(), secret.lookup()]).await?;
        }
        Ok(Account { id: row.get(0)?, email: row.get(1)?, name: row.get(2)? })
    }

    /// Returns somebody's sign-ins of the command line, last used first.
    pub(crate) async fn families(&self, user: UserId) -> Result<Vec<Family>, DbError> {
        let sql = "SELECT family, created_ms FROM tokens WHERE user_id = $1 AND purpose = 'refresh'
             AND used_ms IS NULL AND revoked_ms IS NULL AND expires_ms > $2 ORDER BY created_ms DESC, family LIMIT 100";
        let rows = self.database.rows(sql, &values![user, self.now_ms()]).await?;
        rows.iter().map(|row| Ok(Family { id: row.get(0)?, refreshed_ms: row.get(1)? })).collect()
    }

    /// Ends one of somebody's sign-ins of the command line.
    pub(crate) async fn end_family(&self, user: UserId, family: i64) -> Result<(), DbError> {
        let mut transaction = self.database.begin().await?;
        let sql = "SELECT 1 FROM tokens WHERE family = $1 AND user_id = $2 LIMIT 1";
        if transaction.row(sql, &values![family, user]).await?.is_some() {
            self.revoke_family(&mut *transaction, family, None).await?;
        }
        transaction.commit().await
    }
}
