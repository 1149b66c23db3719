//! When the Hub was there itself.
//!
//! While it is away nobody can be heard, and that says nothing about gateways: after a start, those that were
//! there when it stopped count as they did then, until they had time to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock::now_ms;
use crate::db::{Database, DbError, values};

/// Noted this often.
const PERIOD: Duration = Duration::from_secs(10);

/// Gateways with the default period, and a few that are slower, come again in this time.
const RETURN_MS: i64 = 5 * 60_000;

/// An absence shorter than this is none.
const ABSENCE_MS: i64 = 30_000;

const NAME: &str = "alive_ms";

/// When the Hub was there.
#[derive(Debug)]
pub(crate) struct Uptime {
    started_ms: i64,
    /// When it was last there before it started, if it was away.
    before_ms: AtomicI64,
}

impl Uptime {
    /// Looks when a Hub on this database was last there.
    pub(crate) async fn begin(database: &dyn Database) -> Result<Self, DbError> {
        let now = now_ms();
        let row =
            database.row("SELECT value FROM settings WHERE name = $1", &values![NAME]).await?;
        let last = row.and_then(|row| row.get::<String>(0).ok()?.parse().ok()).unwrap_or(now);
        let before = if now - last > ABSENCE_MS { last } else { now };
        Ok(Self { started_ms: now, before_ms: AtomicI64::new(before) })
    }

    /// Returns the time at which to judge who is there.
    pub(crate) fn judge_at(&self, now_ms: i64) -> i64 {
        let before = self.before_ms.load(Ordering::Relaxed);
        if now_ms - self.started_ms < RETURN_MS { before.min(now_ms) } else { now_ms }
    }

    /// Notes that the Hub is there, again and again.
    pub(crate) async fn keep(database: Arc<dyn Database>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let noted = database
                .execute(
                    "INSERT INTO settings (name, value) VALUES ($1, $2)
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    &values![NAME, now_ms().to_string()],
                )
                .await;
            if let Err(error) = noted {
                tracing::warn!(%error, "cannot note that the Hub is there");
            }
        }
    }
}
