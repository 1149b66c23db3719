//! Codes by e-mail: eight digits, for the browser that asked, for ten minutes.
//!
//! What is answered is the same whether the address is known or not.

use std::net::IpAddr;

use super::People;
use super::address::Email;
use super::admin_log::Act;
use super::attempts::{Counter, network};
use super::ticket::Ticket;
use crate::db::values;
use crate::error::ApiError;

const VALID_MS: i64 = 10 * 60_000;

/// Wrong codes before it is dead: one in twenty million is guessed.
const ATTEMPTS_MAX: i64 = 5;

const HOUR_MS: i64 = 3_600_000;

/// Mails to one address in an hour, and for one asker: an office has one address on the Internet.
const MAILS_MAX: i64 = 5;
const ASKED_MAX: i64 = 30;

/// Wrong codes for one address in an hour before none is taken any more.
const FAILURES_MAX: i64 = 10;

/// Values of a code.
const CODES: u32 = 100_000_000;

impl People {
    /// Sends a code, if somebody with this address may sign in; returns what binds it to the browser.
    pub(crate) async fn ask_code(&self, email: &str, address: IpAddr) -> Result<Ticket, ApiError> {
        let email = Email::parse(email)?;
        let (ticket, now_ms) = (Ticket::new(), self.now_ms());
        let code = format!("{:08}", rand::random_range(0..CODES));
        let mut transaction = self.database.begin().await?;
        let asker = network(address).to_string();
        Counter::new("asked", &asker, HOUR_MS, ASKED_MAX).check(&mut *transaction, now_ms).await?;
        Counter::new("mail", email.as_str(), HOUR_MS, MAILS_MAX)
            .check(&mut *transaction, now_ms)
            .await?;
        if let Some(full) = failures(&email).full_until(&mut *transaction, now_ms).await? {
            return Err(full.refusal(now_ms));
        }
        let sql = "INSERT INTO codes (hash, email, code_hash, attempts, created_ms, expires_ms)
             VALUES ($1, $2, $3, 0, $4, $5)";
        let row = values![ticket.hash(), &email, ticket.sign(&code), now_ms, now_ms + VALID_MS];
        transaction.execute(sql, &row).await?;
        let may_come = self.may_come(&mut *transaction, &email).await?;
        transaction.commit().await?;
        if may_come {
            self.mailer.code(&email, &code);
        }
        Ok(ticket)
    }

    /// Returns whose address it is, if this is the code that was sent for this browser. It works once.
    pub(crate) async fn take_code(
        &self,
        ticket: &Ticket,
        code: &str,
        address: IpAddr,
    ) -> Result<Email, ApiError> {
        let code: String =
            code.chars().filter(|char| !char.is_whitespace() && *char != '-').collect();
        let now_ms = self.now_ms();
        let mut transaction = self.database.begin().await?;
        let sql = "UPDATE codes SET attempts = attempts + 1 WHERE hash = $1 AND attempts < $2 AND expires_ms > $3
             RETURNING email, code_hash, attempts";
        let row = transaction.row(sql, &values![ticket.hash(), ATTEMPTS_MAX, now_ms]).await?;
        let dead =
            || ApiError::Invalid("this code is no longer valid; ask for a new one".to_owned());
        let row = row.ok_or_else(dead)?;
        let email = Email::parse(&row.get::<String>(0)?)?;
        let failures = failures(&email);
        if let Some(full) = failures.full_until(&mut *transaction, now_ms).await? {
            return Err(full.refusal(now_ms));
        }
        if ticket.signed(&code, &row.get::<Vec<u8>>(1)?) {
            transaction
                .execute("DELETE FROM codes WHERE hash = $1", &values![ticket.hash()])
                .await?;
            failures.clear(&mut *transaction).await?;
            transaction.commit().await?;
            return Ok(email);
        }
        let counted = failures.count(&mut *transaction, now_ms).await?;
        let act = Act::new("auth.failure", email.as_str())
            .with("method", "email")
            .with("reason", "wrong code");
        self.note_everywhere(&mut *transaction, &email, act.warning().from(address)).await?;
        if failures.just_full(counted) {
            let act = Act::new("auth.lockout", email.as_str()).with("method", "email");
            let act = act.with("until_ms", counted.until_ms).warning().from(address);
            self.note_everywhere(&mut *transaction, &email, act).await?;
        }
        transaction.commit().await?;
        let left = ATTEMPTS_MAX - row.get::<i64>(2)?;
        if left <= 0 {
            Err(dead())
        } else {
            Err(ApiError::Invalid(format!("this is not the code; {left} attempts are left")))
        }
    }
}

fn failures(email: &Email) -> Counter {
    Counter::new("wrong", email.as_str(), HOUR_MS, FAILURES_MAX)
}
