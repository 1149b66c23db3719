//! Sessions of browsers: a random cookie, of which the hash is stored.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};

use super::People;
use super::ticket::{Ticket, hex};
use crate::access::Account;
use crate::db::{DbError, Transaction, values};
use crate::error::{ApiError, chain};
use crate::id::UserId;

/// After so long without a request a session is over.
const VALID_MS: i64 = 14 * 86_400_000;

/// After so long without a sign-in no key is made.
const FRESH_MS: i64 = 3_600_000;

/// That a session was used is written this often at most.
const USE_PERIOD_MS: i64 = 5 * 60_000;

/// Of one person; the oldest ends when there is another one.
const SESSIONS_MAX: i64 = 50;

/// What a browser says of itself, cut.
const AGENT_CHARS_MAX: usize = 200;

/// A browser, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) address: IpAddr,
    pub(crate) agent: String,
}

/// Somebody with a session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) account: Account,
    /// Stands in every form that changes something.
    pub(crate) csrf: String,
    /// When they proved who they are.
    signed_in_ms: i64,
    pub(super) hash: [u8; 32],
}

/// A session in the list of one's own.
#[derive(Debug, Clone)]
pub(crate) struct SessionLine {
    /// Names it, and does not open it.
    pub(crate) id: String,
    pub(crate) agent: String,
    pub(crate) address: String,
    pub(crate) created_ms: i64,
    pub(crate) seen_ms: i64,
    /// The one that asks.
    pub(crate) is_this: bool,
    hash: Vec<u8>,
}

impl Device {
    pub(crate) fn new(headers: &HeaderMap, address: IpAddr) -> Self {
        let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
        let agent = String::from_utf8_lossy(agent).chars().take(AGENT_CHARS_MAX).collect();
        Self { address, agent }
    }
}

impl People {
    pub(super) async fn create_session(
        &self,
        transaction: &mut dyn Transaction,
        user: UserId,
        device: &Device,
    ) -> Result<Ticket, DbError> {
        let (ticket, now_ms) = (Ticket::new(), self.now_ms());
        let sql = "DELETE FROM sessions WHERE user_id = $1 AND hash NOT IN
             (SELECT hash FROM sessions WHERE user_id = $1 ORDER BY seen_ms DESC, hash LIMIT $2)";
        transaction.execute(sql, &values![user, SESSIONS_MAX - 1]).await?;
        let sql =
            "INSERT INTO sessions (hash, user_id, created_ms, seen_ms, expires_ms, address, agent)
             VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let address = device.address.to_string();
        let row =
            values![ticket.hash(), user, now_ms, now_ms, now_ms + VALID_MS, address, &device.agent];
        transaction.execute(sql, &row).await?;
        Ok(ticket)
    }

    /// Returns whose session this is, and that it was used.
    pub(crate) async fn session(&self, ticket: &Ticket) -> Result<Option<Session>, DbError> {
        let (hash, now_ms) = (ticket.hash(), self.now_ms());
        let sql = "SELECT u.id, u.email, u.name, s.seen_ms, s.created_ms FROM sessions s
             JOIN users u ON u.id = s.user_id AND u.disabled_ms IS NULL
             WHERE s.hash = $1 AND s.expires_ms > $2";
        let Some(row) = self.database.row(sql, &values![hash, now_ms]).await? else {
            return Ok(None);
        };
        let account = Account { id: row.get(0)?, email: row.get(1)?, name: row.get(2)? };
        let stale_ms = now_ms - USE_PERIOD_MS;
        if row.get::<i64>(3)? <= stale_ms
            && let Err(error) = self.note_use(&hash, account.id, now_ms).await
        {
            // A database that takes nothing more still shows what it has.
            tracing::warn!(error = chain(&error), "cannot note that a session was used");
        }
        let signed_in_ms = row.get(4)?;
        Ok(Some(Session { account, csrf: ticket.csrf(), signed_in_ms, hash }))
    }

    /// Whether somebody proved just now who they are: a browser that was left alone, or a cookie that was
    /// copied, makes nothing that outlives the session.
    pub(crate) fn is_fresh(&self, session: &Session) -> bool {
        self.now_ms() - session.signed_in_ms < FRESH_MS
    }

    async fn note_use(&self, hash: &[u8; 32], user: UserId, now_ms: i64) -> Result<(), DbError> {
        let mut transaction = self.database.begin().await?;
        let sql =
            "UPDATE sessions SET seen_ms = $1, expires_ms = $2 WHERE hash = $3 AND seen_ms <= $4";
        let row = values![now_ms, now_ms + VALID_MS, *hash, now_ms - USE_PERIOD_MS];
        transaction.execute(sql, &row).await?;
        let sql = "UPDATE users SET seen_ms = $1 WHERE id = $2";
        transaction.execute(sql, &values![now_ms, user]).await?;
        transaction.commit().await
    }

    /// Returns somebody's sessions, last used first.
    pub(crate) async fn sessions(&self, of: &Session) -> Result<Vec<SessionLine>, DbError> {
        let sql = "SELECT hash, agent, address, created_ms, seen_ms FROM sessions
             WHERE user_id = $1 AND expires_ms > $2 ORDER BY seen_ms DESC, hash";
        let mut sessions = Vec::new();
        for row in self.database.rows(sql, &values![of.account.id, self.now_ms()]).await? {
            let hash: Vec<u8> = row.get(0)?;
            sessions.push(SessionLine {
                id: hex(&hash),
                agent: row.get(1)?,
                address: row.get(2)?,
                created_ms: row.get(3)?,
                seen_ms: row.get(4)?,
                is_this: hash == of.hash,
                hash,
            });
        }
        Ok(sessions)
    }

    /// Ends the session that asks.
    pub(crate) async fn sign_out(&self, session: &Session) -> Result<(), DbError> {
        let sql = "DELETE FROM sessions WHERE hash = $1";
        self.database.execute(sql, &values![session.hash]).await.map(drop)
    }

    /// Ends one of somebody's sessions, by the id that the list has.
    pub(crate) async fn end_session(&self, of: &Session, id: &str) -> Result<(), ApiError> {
        let missing = || ApiError::NotFound("session");
        let line =
            self.sessions(of).await?.into_iter().find(|line| line.id == id).ok_or_else(missing)?;
        let sql = "DELETE FROM sessions WHERE hash = $1 AND user_id = $2";
        self.database.execute(sql, &values![line.hash, of.account.id]).await?;
        Ok(())
    }

    /// Ends all of somebody's sessions but the one that asks.
    pub(crate) async fn end_other_sessions(&self, of: &Session) -> Result<(), DbError> {
        let sql = "DELETE FROM sessions WHERE user_id = $1 AND hash <> $2";
        self.database.execute(sql, &values![of.account.id, of.hash]).await.map(drop)
    }

    /// Gives somebody another name.
    pub(crate) async fn rename_account(&self, of: &Session, name: &str) -> Result<(), ApiError> {
        let name = super::address::person(name)?;
        let sql = "UPDATE users SET name = $1 WHERE id = $2";
        self.database.execute(sql, &values![name, of.account.id]).await?;
        Ok(())
    }
}
