//! PostgreSQL keeps the records of each day in a table of their own, so that retention drops tables and deletes
//! no rows. In SQLite there is nothing to do.
//!
//! A day without its own table costs nothing but that: its rows are in the partition for odd clocks, and move
//! when the day gets one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::civil::Date;

use crate::db::{Database, DbError, Dialect, values};
use crate::wire::RecordKind;

pub(super) const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;

/// Days that are made before they begin, today among them.
const AHEAD_DAYS: i64 = 3;

/// Days that are made when records of them come. What is older is odd.
pub(super) const PAST_DAYS_MAX: i64 = 400;

/// Days made for one batch. A gateway that was away for a month sends a few days with each.
const MADE_PER_BATCH_MAX: usize = 4;

/// Rows that move when a day gets its own table. With more of them the day goes without: they are locked
/// while they move.
const MOVED_MAX: i64 = 50_000;

/// Nobody waits longer for the lock that a new table needs, and neither do those behind it.
const LOCK_WAIT_MS: u64 = 2_000;

/// When something was in the way, it is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Replicas make tables one after another.
const LOCK: i64 = 0x756c_7472_6164_6179;

/// The days that have tables.
#[derive(Debug)]
pub(super) struct Partitions {
    dialect: Dialect,
    days: Mutex<HashMap<(RecordKind, i64), Day>>,
    /// The first day that is kept: what is older is about to be deleted, and gets no table again.
    kept_from: Mutex<HashMap<RecordKind, i64>>,
}

#[derive(Debug, Clone, Copy)]
enum Day {
    /// All tables of the kind.
    Made,
    /// Not before then.
    Failed(Instant),
}

/// The tables of a kind of records.
pub(super) fn tables(kind: RecordKind) -> &'static [&'static str] {
    match kind {
        RecordKind::Traces => &["traces", "trace_details"],
        RecordKind::Audit => &["audit_events"],
    }
}

impl Partitions {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, days: Mutex::default(), kept_from: Mutex::default() }
    }

    /// Makes the tables of days that records of a batch need, as far as that makes sense.
    pub(super) async fn prepare(
        &self,
        database: &dyn Database,
        kind: RecordKind,
        times: impl Iterator<Item = i64>,
    ) {
        if self.dialect == Dialect::Sqlite {
            return;
        }
        let today = now_ns().div_euclid(DAY_NS);
        let mut wanted: HashMap<i64, usize> = HashMap::new();
        let mut last = None;
        for day in times.map(|at_ns| at_ns.div_euclid(DAY_NS)) {
            // Most records are of the day of the one before.
            if last != Some(day) && !self.is_settled(kind, day) {
                *wanted.entry(day).or_default() += 1;
            }
            last = Some(day);
        }
        let kept_from = self.lock_kept().get(&kind).copied().unwrap_or(i64::MIN);
        let first = kept_from.max(today - PAST_DAYS_MAX);
        wanted.retain(|day, _| (first..today + AHEAD_DAYS).contains(day));
        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
        for (day, _) in wanted.into_iter().take(MADE_PER_BATCH_MAX) {
            self.make_all(database, kind, day).await;
        }
    }

    /// Makes the tables of today and of the next days.
    pub(super) async fn prepare_ahead(&self, database: &dyn Database) {
        if self.dialect == Dialect::Sqlite {
            return;
        }
        let today = now_ns().div_euclid(DAY_NS);
        for kind in [RecordKind::Traces, RecordKind::Audit] {
            for day in today..today + AHEAD_DAYS {
                if !self.is_settled(kind, day) {
                    self.make_all(database, kind, day).await;
                }
            }
        }
    }

    /// Notes from which day on records of a kind are kept.
    pub(super) fn keep_from(&self, kind: RecordKind, day: i64) {
        self.lock_kept().insert(kind, day);
    }

    /// Forgets a day whose tables were dropped.
    pub(super) fn forget(&self, kind: RecordKind, day: i64) {
        self.lock_days().remove(&(kind, day));
    }

    fn is_settled(&self, kind: RecordKind, day: i64) -> bool {
        match self.lock_days().get(&(kind, day)) {
            Some(Day::Made) => true,
            Some(Day::Failed(until)) => Instant::now() < *until,
            None => false,
        }
    }

    async fn make_all(&self, database: &dyn Database, kind: RecordKind, day: i64) {
        let mut outcome = Day::Made;
        for table in tables(kind) {
            if let Err(error) = make(database, table, day).await {
                // Its rows have a place all the same.
                let error = &error as &dyn std::error::Error;
                tracing::warn!(db.table = table, error, "a day has no table of its own yet");
                outcome = Day::Failed(Instant::now() + RETRY_AFTER);
            }
        }
        self.lock_days().insert((kind, day), outcome);
    }

    fn lock_days(&self) -> MutexGuard<'_, HashMap<(RecordKind, i64), Day>> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_kept(&self) -> MutexGuard<'_, HashMap<RecordKind, i64>> {
        self.kept_from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the days that have a table, oldest first.
pub(super) async fn days(database: &dyn Database, table: &str) -> Result<Vec<i64>, DbError> {
    let sql = "SELECT CAST(c.relname AS TEXT) FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
        WHERE p.relname = $1 AND p.relnamespace = CAST(current_schema() AS regnamespace)";
    let rows = database.rows(sql, &values![table]).await?;
    let names = rows.iter().map(|row| row.get::<String>(0)).collect::<Result<Vec<_>, _>>()?;
    let mut days: Vec<i64> = names.iter().filter_map(|name| day(name, table)).collect();
    days.sort_unstable();
    Ok(days)
}

/// Returns the name of a day's table, such as `traces_20260725`.
pub(super) fn name(table: &str, day: i64) -> String {
    let epoch = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = epoch.checked_add(jiff::Span::new().days(day)).unwrap_or(epoch);
    format!("{table}_{}", date.strftime("%Y%m%d"))
}

fn day(name: &str, table: &str) -> Option<i64> {
    let digits = name.strip_prefix(table)?.strip_prefix('_')?;
    let date = Date::strptime("%Y%m%d", digits).ok()?;
    let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(midnight.timestamp().as_second().div_euclid(24 * 3600))
}

async fn make(database: &dyn Database, table: &str, day: i64) -> Result<(), DbError> {
    let name = name(table, day);
    let (from, to) = (day * DAY_NS, (day + 1) * DAY_NS);
    let mut transaction = database.begin().await?;
    let lock = format!(
        "SET LOCAL lock_timeout = {LOCK_WAIT_MS}; SELECT pg_advisory_xact_lock({LOCK});
         SET LOCAL client_min_messages = error"
    );
    transaction.batch(&lock).await?;
    let sql = "SELECT CAST(count(*) AS BIGINT) FROM pg_class WHERE relname = $1
        AND relnamespace = CAST(current_schema() AS regnamespace)";
    let there = transaction.row(sql, &values![&name]).await?;
    if there.is_some_and(|row| row.get::<i64>(0).is_ok_and(|count| count > 0)) {
        return transaction.commit().await;
    }
    let create = format!(
        "CREATE TABLE {name} (LIKE {table} INCLUDING ALL);
         LOCK TABLE {table}_odd IN ACCESS EXCLUSIVE MODE"
    );
    transaction.batch(&create).await?;
    let count = format!(
        "SELECT count(*) FROM (SELECT 1 FROM {table}_odd
         WHERE at_ns >= $1 AND at_ns < $2 LIMIT $3) found"
    );
    let found = transaction.row(&count, &values![from, to, MOVED_MAX + 1]).await?;
    if found.map_or(Ok(0_i64), |row| row.get(0))? > MOVED_MAX {
        let source = "too many rows of this day are there already".into();
        return Err(DbError::Refused { source });
    }
    let attach = format!(
        "WITH moved AS (DELETE FROM {table}_odd WHERE at_ns >= {from} AND at_ns < {to} RETURNING *)
             INSERT INTO {name} SELECT * FROM moved;
         ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
    );
    transaction.batch(&attach).await?;
    transaction.commit().await
}

/// Returns now, in nanoseconds since 1970 UTC.
pub(super) fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.ok().and_then(|now| i64::try_from(now.as_nanos()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_from_the_name_of_its_table() {
        for number in [0, 1, -1, 20_659, 100_000] {
            assert_eq!(day(&name("traces", number), "traces"), Some(number));
        }
        assert_eq!(name("traces", 20_659), "traces_20260725");
        assert_eq!(day("traces_odd", "traces"), None);
        assert_eq!(day("trace_details_20260725", "traces"), None);
    }
}
