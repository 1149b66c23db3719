//! Attempts that are counted: in the database what all replicas count together, in memory what keeps one of
//! them from being busy with one asker.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sha2::{Digest, Sha256};

use super::ticket::hex;
use crate::db::{Database, DbError, Transaction, values};
use crate::error::ApiError;

/// Requests of one asker to what needs no session: a person signs in with five.
const PER_MINUTE: u32 = 60;
const AT_ONCE: u32 = 30;

/// Askers remembered before those are forgotten that may ask again anyway.
const ASKERS_MAX: usize = 10_000;

/// Something that is counted: what, and of whom.
pub(super) struct Counter {
    name: String,
    window_ms: i64,
    max: i64,
}

/// What a counter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// With this one.
    pub(super) count: i64,
    /// When it begins anew.
    pub(super) until_ms: i64,
}

impl Counter {
    pub(super) fn new(what: &'static str, of: &str, window_ms: i64, max: i64) -> Self {
        // A hash: of bounded length, and no list of addresses.
        let of = hex(&Sha256::digest(of.as_bytes())[..16]);
        Self { name: format!("{what}:{of}"), window_ms, max }
    }

    /// Counts one.
    pub(super) async fn count(
        &self,
        transaction: &mut dyn Transaction,
        now_ms: i64,
    ) -> Result<Counted, DbError> {
        let sql = "INSERT INTO attempts (name, count, until_ms) VALUES ($1, 1, $2)
             ON CONFLICT (name) DO UPDATE SET
                 count = CASE WHEN attempts.until_ms <= $3 THEN 1 ELSE attempts.count + 1 END,
                 until_ms = CASE WHEN attempts.until_ms <= $3 THEN excluded.until_ms ELSE attempts.until_ms END
             RETURNING count, until_ms";
        let row =
            transaction.row(sql, &values![&self.name, now_ms + self.window_ms, now_ms]).await?;
        let row = row.ok_or(DbError::Column { column: 0 })?;
        Ok(Counted { count: row.get(0)?, until_ms: row.get(1)? })
    }

    /// Counts one, and refuses if there were too many.
    pub(super) async fn check(
        &self,
        transaction: &mut dyn Transaction,
        now_ms: i64,
    ) -> Result<(), ApiError> {
        let counted = self.count(transaction, now_ms).await?;
        if counted.count <= self.max { Ok(()) } else { Err(counted.refusal(now_ms)) }
    }

    /// Returns until when there were too many.
    pub(super) async fn full_until(
        &self,
        transaction: &mut dyn Transaction,
        now_ms: i64,
    ) -> Result<Option<Counted>, DbError> {
        let sql = "SELECT count, until_ms FROM attempts WHERE name = $1 AND until_ms > $2 AND count >= $3";
        let row = transaction.row(sql, &values![&self.name, now_ms, self.max]).await?;
        row.map(|row| Ok(Counted { count: row.get(0)?, until_ms: row.get(1)? })).transpose()
    }

    /// Forgets what was counted.
    pub(super) async fn clear(&self, transaction: &mut dyn Transaction) -> Result<(), DbError> {
        let sql = "DELETE FROM attempts WHERE name = $1";
        transaction.execute(sql, &values![&self.name]).await.map(drop)
    }

    /// Whether the last one counted was the one too many.
    pub(super) fn just_full(&self, counted: Counted) -> bool {
        counted.count == self.max
    }
}

impl Counted {
    pub(super) fn refusal(self, now_ms: i64) -> ApiError {
        let wait_ms = self.until_ms.saturating_sub(now_ms).max(0);
        ApiError::RateLimited { retry_s: u64::try_from(wait_ms / 1000).unwrap_or_default() + 1 }
    }
}

/// Deletes what no longer counts.
pub(super) async fn sweep(database: &dyn Database, now_ms: i64) -> Result<(), DbError> {
    let sql = "DELETE FROM attempts WHERE until_ms <= $1";
    database.execute(sql, &values![now_ms]).await.map(drop)
}

/// Keeps one asker from keeping this replica busy.
pub(super) struct Askers(DefaultKeyedRateLimiter<IpAddr>);

impl Askers {
    pub(super) fn new() -> Self {
        let per_minute = NonZeroU32::new(PER_MINUTE).expect("not zero");
        let at_once = NonZeroU32::new(AT_ONCE).expect("not zero");
        Self(RateLimiter::keyed(Quota::per_minute(per_minute).allow_burst(at_once)))
    }

    /// Counts a request, and refuses if there were too many.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), ApiError> {
        if self.0.len() > ASKERS_MAX {
            self.0.retain_recent();
        }
        self.0.check_key(&network(address)).map_err(|early| {
            let wait = early.wait_time_from(DefaultClock::default().now());
            ApiError::RateLimited { retry_s: wait.as_secs() + 1 }
        })
    }
}

/// Returns what one asker has: an address, or in IPv6 the network of a household.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::testing::TestDatabase;

    #[tokio::test]
    async fn what_is_counted_begins_anew_after_its_time() {
        for test in TestDatabase::each().await {
            let counter = Counter::new("test", "ada@example.org", 1000, 2);
            let mut transaction = test.database.begin().await.unwrap();

            let mut counts = Vec::new();
            for now_ms in [0, 500, 999, 1000] {
                counts.push(counter.count(&mut *transaction, now_ms).await.unwrap());
            }

            let expected = [(1, 1000), (2, 1000), (3, 1000), (1, 2000)];
            let expected = expected.map(|(count, until_ms)| Counted { count, until_ms });
            assert_eq!(counts, expected);
            assert!(counter.check(&mut *transaction, 1001).await.is_ok());
            let refused = counter.check(&mut *transaction, 1002).await;
            assert!(matches!(refused, Err(ApiError::RateLimited { retry_s: 1 })), "{refused:?}");
        }
    }

    #[test]
    fn an_asker_is_slowed_down_and_others_are_not() {
        let askers = Askers::new();
        let household = |last: u16| IpAddr::from([0x2001, 0xdb8, 1, 2, 0, 0, 0, last]);

        let taken = (0..100).filter(|last| askers.check(household(*last)).is_ok()).count();

        assert_eq!(taken, AT_ONCE as usize);
        assert!(askers.check([0x2001, 0xdb8, 1, 3, 0, 0, 0, 1].into()).is_ok());
        assert!(askers.check([192, 0, 2, 1].into()).is_ok());
    }
}
