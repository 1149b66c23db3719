//! Deletes what is over: sessions, codes, tokens, counters.

use std::sync::Arc;
use std::time::Duration;

use super::{People, attempts};
use crate::db::{DbError, values};

const PERIOD: Duration = Duration::from_secs(600);

/// Used grants are kept this long, to know one that comes again.
const GRANTS_KEPT_MS: i64 = 86_400_000;

/// Invites that are over are kept this long.
const INVITES_KEPT_MS: i64 = 90 * 86_400_000;

/// Deletes what is over, every now and then, for as long as it is not aborted.
pub(crate) async fn sweep(people: Arc<People>) {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        if let Err(error) = people.sweep_once().await {
            tracing::warn!(%error, "what is over could not be deleted");
        }
    }
}

impl People {
    /// Deletes what is over now.
    pub(super) async fn sweep_once(&self) -> Result<(), DbError> {
        let now_ms = self.now_ms();
        let database = &*self.database;
        attempts::sweep(database, now_ms).await?;
        for (sql, until_ms) in [
            ("DELETE FROM sessions WHERE expires_ms <= $1", now_ms),
            ("DELETE FROM codes WHERE expires_ms <= $1", now_ms),
            ("DELETE FROM flows WHERE expires_ms <= $1", now_ms),
            ("DELETE FROM grants WHERE expires_ms <= $1", now_ms - GRANTS_KEPT_MS),
            // A used refresh token is kept until it would have expired: it may come again until then.
            ("DELETE FROM tokens WHERE expires_ms <= $1", now_ms),
            ("DELETE FROM invites WHERE expires_ms <= $1", now_ms - INVITES_KEPT_MS),
        ] {
            database.execute(sql, &values![until_ms]).await?;
        }
        Ok(())
    }
}
