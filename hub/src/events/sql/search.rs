//! Pages of records: the newest that match, before a place in time.
//!
//! What people filter by stands in `series`, of which a workspace has some thousands; records have only the
//! number of theirs. So a search first looks which series match, how many records they have and when they had
//! the last one, and then goes one of two ways:
//!
//! - If much matches, it walks back in time until the page is full.
//! - If little matches, it reads the newest records of the series that were active last. A page of *n* never
//!   needs more than *n* series: those whose newest record is the youngest.
//!
//! Either way a search ends after a bounded number of rows, whatever is asked for, found or not.
//!
//! PostgreSQL has a table for each day, and plans and locks all that a statement may touch: there a search looks
//! at the last days first, and then at two months at a time.

use super::partitions::{DAY_NS, PAST_DAYS_MAX, now_ns};
use crate::db::{Database, DbError, Dialect, Row, Value, values};
use crate::events::{Cursor, Found, lines};
use crate::id::{GatewayId, UserId, WorkspaceId};
use crate::wire::RecordKind;

/// Rows of a page; one more is looked for, to know whether there is a next one.
const LIMIT_MAX: u32 = 1000;

/// Rows that are walked at most. SQLite and PostgreSQL take some 20 ms for them.
const WALK_MAX: i64 = 20_000;

/// With fewer series than this, reading from each costs less than walking.
const SERIES_FEW: i64 = 64;

/// Rows of one session, or with one name, that are looked at.
const SAME_MAX: i64 = 50_000;

/// Days that a search in PostgreSQL looks at first, and then at a time.
const FIRST_DAYS: i64 = 7;
const NEXT_DAYS: i64 = 60;

/// Which records.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) workspace: WorkspaceId,
    pub(super) kind: RecordKind,
    pub(super) operation: Option<String>,
    pub(super) severity: Option<String>,
    pub(super) outcome: Option<String>,
    pub(super) upstream: Option<String>,
    pub(super) name: Option<String>,
    pub(super) client: Option<String>,
    pub(super) user: Option<UserId>,
    pub(super) gateway: Option<GatewayId>,
    pub(super) session: Option<String>,
    /// Id of a record or of a trace.
    pub(super) id: Option<[u8; 16]>,
    pub(super) since_ns: Option<i64>,
    pub(super) until_ns: Option<i64>,
    pub(super) after: Option<Cursor>,
    pub(super) limit: u32,
}

/// Where records of a kind are, and what of them a line needs.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) table: &'static str,
    /// Of the record `t`, its series `s`, its gateway `g` and the owner `u`; `at_ns` and `id` first.
    pub(super) columns: &'static str,
}

/// Rows, newest first, and where the next page begins.
#[derive(Debug)]
pub(super) struct FoundRows {
    pub(super) rows: Vec<Row>,
    pub(super) next: Option<Cursor>,
}

/// What stands behind the columns of a line.
pub(super) const LABELLED: &str = "JOIN series s ON s.workspace = t.workspace AND s.id = t.series
    LEFT JOIN gateways g ON g.id = s.gateway LEFT JOIN users u ON u.id = g.owner";

/// The series that match: all further statements begin with this and its parameters.
///
/// A series without names matches any; its records have them.
const WANTED: &str = "WITH wanted AS (SELECT * FROM series
    WHERE workspace = $1 AND kind = $2
    AND (CAST($3 AS TEXT) IS NULL OR operation = $3)
    AND (CAST($4 AS TEXT) IS NULL OR severity = $4)
    AND (CAST($5 AS TEXT) IS NULL OR outcome = $5)
    AND (CAST($6 AS TEXT) IS NULL OR upstream = $6)
    AND (CAST($7 AS TEXT) IS NULL OR name = $7 OR named = 0)
    AND (CAST($8 AS TEXT) IS NULL OR client = $8)
    AND (CAST($9 AS BIGINT) IS NULL OR gateway = $9)
    AND (CAST($10 AS BIGINT) IS NULL OR gateway IN
        (SELECT id FROM gateways WHERE workspace = $1 AND owner = $10)))";

/// The records in question; $11 and $12 are the place they must be behind, $13 the oldest time. By `at_ns`
/// alone PostgreSQL knows in which days to look.
const RANGE: &str = "workspace = $1 AND (at_ns, id) < ($11, $12) AND at_ns <= $11 AND at_ns >= $13
    AND (name IS NULL OR CAST($7 AS TEXT) IS NULL OR name = $7)";

const NEWEST_FIRST: &str = "ORDER BY at_ns DESC, id DESC";

/// From where to where.
#[derive(Debug, Clone)]
struct Range {
    /// Records are before this one.
    before_ns: i64,
    before_id: Vec<u8>,
    from_ns: i64,
}

/// What is known of the series that match.
#[derive(Debug)]
struct Matching {
    series: i64,
    records: i64,
    records_of_all: i64,
    /// When they had their first and last record; nothing if none matches.
    span: Option<(i64, i64)>,
}

/// The newest rows so far, and no more than needed.
struct Newest {
    rows: Vec<(i64, Vec<u8>, Row)>,
    most: usize,
}

impl Search {
    /// Returns what is found, newest first.
    pub(super) async fn run(&self, database: &dyn Database, listing: &Listing) -> Found<FoundRows> {
        let limit = self.limit.clamp(1, LIMIT_MAX) as usize;
        let mut newest = Newest { rows: Vec::new(), most: limit + 1 };
        self.collect(database, listing, &mut newest).await?;
        newest.page(limit)
    }

    async fn collect(
        &self,
        database: &dyn Database,
        listing: &Listing,
        newest: &mut Newest,
    ) -> Found<()> {
        let most = newest.most as i64;
        if let Some(id) = self.id {
            return newest.add(self.by_id(database, listing, &self.range(), id, most).await?);
        }
        let matching = self.matching(database).await?;
        let Some(span) = matching.span else { return Ok(()) };
        for range in self.range().within(span).windows(database.dialect()) {
            self.look(database, listing, &matching, &range, newest).await?;
            if newest.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Looks for records in one range, by the way that costs least.
    async fn look(
        &self,
        database: &dyn Database,
        listing: &Listing,
        matching: &Matching,
        range: &Range,
        newest: &mut Newest,
    ) -> Found<()> {
        let most = newest.most as i64;
        if let Some(session) = &self.session {
            let session = lines::label(session);
            return newest.add(self.by_session(database, listing, range, session, most).await?);
        }
        if self.is_of_all() {
            return newest.add(self.walk(database, listing, range, most, most).await?);
        }
        if let Some(steps) = matching.steps(most).filter(|_| self.name.is_none()) {
            let rows = self.walk(database, listing, range, steps, most).await?;
            if rows.len() as i64 == most {
                return newest.add(rows);
            }
        }
        if self.name.is_some() {
            newest.add(self.by_name(database, listing, range, most).await?)?;
        }
        self.by_series(database, listing, range, newest).await
    }

    /// Whether every series matches.
    fn is_of_all(&self) -> bool {
        let texts = [&self.operation, &self.severity, &self.outcome, &self.upstream, &self.name];
        texts.iter().all(|text| text.is_none())
            && self.client.is_none()
            && self.user.is_none()
            && self.gateway.is_none()
    }

    fn range(&self) -> Range {
        let until_ns = self.until_ns.unwrap_or(i64::MAX);
        let from_ns = self.since_ns.unwrap_or(i64::MIN);
        match self.after {
            Some(after) if after.at_ns < until_ns => {
                Range { before_ns: after.at_ns, before_id: after.id.into_bytes().into(), from_ns }
            }
            // No id is less than no bytes.
            Some(_) | None => Range { before_ns: until_ns, before_id: Vec::new(), from_ns },
        }
    }

    /// Returns the parameters of [`WANTED`].
    fn wanted(&self) -> Vec<Value> {
        let label = |text: &Option<String>| text.as_deref().map(lines::label);
        values![
            self.workspace,
            self.kind.as_str(),
            label(&self.operation),
            label(&self.severity),
            label(&self.outcome),
            label(&self.upstream),
            self.name.as_deref().map(lines::name),
            label(&self.client),
            self.gateway,
            self.user,
        ]
        .into()
    }

    async fn matching(&self, database: &dyn Database) -> Found<Matching> {
        let sql = format!(
            "{WANTED} SELECT COUNT(*), CAST(COALESCE(SUM(calls), 0) AS BIGINT),
                (SELECT CAST(COALESCE(SUM(calls), 0) AS BIGINT) FROM series
                 WHERE workspace = $1 AND kind = $2),
                MIN(first_ns), MAX(last_ns)
             FROM wanted"
        );
        let row = database.row(&sql, &self.wanted()).await?;
        let row = row.ok_or(DbError::Column { column: 0 })?;
        let (first_ns, last_ns): (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
        Ok(Matching {
            series: row.get(0)?,
            records: row.get(1)?,
            records_of_all: row.get(2)?,
            span: first_ns.zip(last_ns),
        })
    }

    /// Looks at so many records back in time.
    async fn walk(
        &self,
        database: &dyn Database,
        listing: &Listing,
        range: &Range,
        steps: i64,
        most: i64,
    ) -> Found<Vec<Row>> {
        let table = listing.table;
        let source = format!("SELECT * FROM {table} WHERE {RANGE} {NEWEST_FIRST} LIMIT $14");
        let sql = statement(database.dialect(), listing, &source, 15);
        database.rows(&sql, &self.parameters(range, values![steps, most])).await
    }

    async fn by_id(
        &self,
        database: &dyn Database,
        listing: &Listing,
        range: &Range,
        id: [u8; 16],
        most: i64,
    ) -> Found<Vec<Row>> {
        let table = listing.table;
        // The records in question first, and then those of them that fit.
        let source = format!(
            "SELECT r.* FROM (
                SELECT at_ns AS same_ns, id AS same_id FROM trace_details
                WHERE workspace = $1 AND id = $14
                UNION SELECT at_ns, id FROM traces WHERE workspace = $1 AND trace_id = $14) d
             CROSS JOIN {table} r
             WHERE {RANGE} AND at_ns = same_ns AND id = same_id
             AND (CAST($15 AS TEXT) IS NULL OR session = $15)"
        );
        let sql = statement(database.dialect(), listing, &source, 16);
        let session = self.session.as_deref().map(lines::label);
        database.rows(&sql, &self.parameters(range, values![id, session, most])).await
    }

    async fn by_session(
        &self,
        database: &dyn Database,
        listing: &Listing,
        range: &Range,
        session: String,
        most: i64,
    ) -> Found<Vec<Row>> {
        let table = listing.table;
        let source = format!(
            "SELECT * FROM {table} WHERE {RANGE} AND session_key = $14 AND session = $15
             {NEWEST_FIRST} LIMIT $16"
        );
        let sql = statement(database.dialect(), listing, &source, 17);
        let key = crate::events::labels::session_key(&session);
        let last = values![key, session, SAME_MAX, most];
        database.rows(&sql, &self.parameters(range, last)).await
    }

    /// Looks for the name where records have it, and not their series.
    async fn by_name(
        &self,
        database: &dyn Database,
        listing: &Listing,
        range: &Range,
        most: i64,
    ) -> Found<Vec<Row>> {
        let table = listing.table;
        let source = format!(
            "SELECT * FROM {table} WHERE {RANGE} AND name IS NOT NULL AND name = $7
             {NEWEST_FIRST} LIMIT $14"
        );
        let sql = statement(database.dialect(), listing, &source, 15);
        database.rows(&sql, &self.parameters(range, values![SAME_MAX, most])).await
    }

    /// Reads from the series that were active last, the last one first, until no other one can have
    /// newer records.
    async fn by_series(
        &self,
        database: &dyn Database,
        listing: &Listing,
        range: &Range,
        newest: &mut Newest,
    ) -> Found<()> {
        let dialect = database.dialect();
        let sql = statement(dialect, listing, &of_series(dialect, listing.table), 15);
        let most = newest.most as i64;
        let candidates = self.candidates(database, listing, range, most).await?;
        let (mut count, growth) = match dialect {
            Dialect::Sqlite => (1, 1),
            // To plan costs more than to read.
            Dialect::Postgres => (8, 4),
        };
        let mut rest = &candidates[..];
        while let Some((_, last_ns)) = rest.first() {
            let from_ns = newest.oldest_ns().max(range.from_ns);
            if *last_ns < from_ns {
                break;
            }
            let (next, others) = rest.split_at(count.min(rest.len()));
            let series: Vec<_> = next.iter().map(|(series, _)| series.to_string()).collect();
            let range = Range { from_ns, ..range.clone() };
            let last = values![series.join(" "), most];
            newest.add(database.rows(&sql, &self.parameters(&range, last)).await?)?;
            (rest, count) = (others, (count * growth).min(SERIES_FEW as usize));
        }
        Ok(())
    }

    /// Returns the series whose newest records in the range are the youngest, with their times.
    async fn candidates(
        &self,
        database: &dyn Database,
        listing: &Listing,
        range: &Range,
        most: i64,
    ) -> Found<Vec<(i64, i64)>> {
        // That of a series is known, unless it went on behind the range.
        let sql = format!(
            "{WANTED} SELECT id, newest FROM (
                SELECT s.id, CASE WHEN s.last_ns < $11 THEN s.last_ns ELSE (
                    SELECT t.at_ns FROM {table} t WHERE t.workspace = $1 AND t.series = s.id
                    AND (t.at_ns, t.id) < ($11, $12) AND t.at_ns <= $11 AND t.at_ns >= $13
                    ORDER BY t.at_ns DESC, t.id DESC LIMIT 1) END AS newest
                FROM wanted s WHERE s.last_ns >= $13 AND s.first_ns <= $11
                AND (CAST($7 AS TEXT) IS NULL OR s.named = 1)) found
             WHERE newest IS NOT NULL ORDER BY newest DESC LIMIT $14",
            table = listing.table
        );
        // Those that end in the same nanosecond have no order among them: some more, to have them all.
        let rows = database.rows(&sql, &self.parameters(range, values![most + 512])).await?;
        rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
    }

    fn parameters<const N: usize>(&self, range: &Range, last: [Value; N]) -> Vec<Value> {
        let mut parameters = self.wanted();
        parameters.extend(values![range.before_ns, range.before_id.clone(), range.from_ns]);
        parameters.extend(last);
        parameters
    }
}

impl Range {
    /// What of it is in a span of time, both ends included.
    fn within(mut self, (first_ns, last_ns): (i64, i64)) -> Self {
        if last_ns < self.before_ns {
            (self.before_ns, self.before_id) = (last_ns.saturating_add(1), Vec::new());
        }
        self.from_ns = self.from_ns.max(first_ns);
        self
    }

    /// Returns the parts to look at one after another, newest first.
    fn windows(self, dialect: Dialect) -> Vec<Self> {
        if dialect == Dialect::Sqlite {
            return vec![self];
        }
        let now_ns = now_ns();
        // What is older has no tables of its own, but for those that grew old.
        let last_ns = now_ns - PAST_DAYS_MAX * DAY_NS;
        let (mut windows, mut rest, mut days) = (Vec::new(), self, FIRST_DAYS);
        loop {
            let newest_ns = rest.before_ns.min(now_ns);
            let from_ns = day_start(newest_ns.saturating_sub(days * DAY_NS));
            if from_ns <= rest.from_ns || newest_ns < last_ns {
                windows.push(rest);
                return windows;
            }
            let older = Self { before_ns: from_ns, before_id: Vec::new(), from_ns: rest.from_ns };
            windows.push(Self { from_ns, ..rest });
            (rest, days) = (older, NEXT_DAYS);
        }
    }
}

impl Matching {
    /// Returns how many records must be looked at to find so many, if that is worth it.
    fn steps(&self, most: i64) -> Option<i64> {
        if self.series < SERIES_FEW || self.records == 0 {
            return None;
        }
        let share = self.records as f64 / self.records_of_all.max(1) as f64;
        let expected = (most as f64 / share) as i64;
        (expected <= WALK_MAX / 2).then(|| (expected * 4).clamp(500, WALK_MAX))
    }
}

impl Newest {
    fn add(&mut self, rows: Vec<Row>) -> Found<()> {
        for row in rows {
            self.rows.push((row.get(0)?, row.get(1)?, row));
        }
        self.rows.sort_by(|(a_ns, a_id, _), (b_ns, b_id, _)| (b_ns, b_id).cmp(&(a_ns, a_id)));
        self.rows.truncate(self.most);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows.len() == self.most
    }

    /// What is older than this is not needed any more.
    fn oldest_ns(&self) -> i64 {
        self.rows.last().filter(|_| self.is_full()).map_or(i64::MIN, |(at_ns, _, _)| *at_ns)
    }

    fn page(mut self, limit: usize) -> Found<FoundRows> {
        let more = self.rows.len() > limit;
        self.rows.truncate(limit);
        let next = match self.rows.last().filter(|_| more) {
            Some((at_ns, id, _)) => {
                let id = id.clone().try_into().map_err(|_| DbError::Column { column: 1 })?;
                Some(Cursor { at_ns: *at_ns, id: uuid::Uuid::from_bytes(id) })
            }
            None => None,
        };
        Ok(FoundRows { rows: self.rows.into_iter().map(|(_, _, row)| row).collect(), next })
    }
}

/// Returns the statement that reads lines of those records of `source` whose series match; the parameter
/// `limit` is how many.
fn statement(dialect: Dialect, listing: &Listing, source: &str, limit: usize) -> String {
    let Listing { table, columns } = listing;
    let record = match dialect {
        // `CROSS JOIN` tells it the order.
        Dialect::Sqlite => (*table).to_owned(),
        // Of days that are not analysed yet it would walk the range for each record, in the order that is
        // asked for. `OFFSET 0` keeps it from making one join of all.
        Dialect::Postgres => format!(
            "LATERAL (SELECT * FROM {table} r WHERE r.workspace = $1 AND r.at_ns = k.at_ns AND r.id = k.id
                AND r.at_ns <= $11 AND r.at_ns >= $13 OFFSET 0)"
        ),
    };
    format!(
        "{WANTED}, found AS (
            SELECT k.at_ns, k.id FROM ({source}) k CROSS JOIN wanted s WHERE s.id = k.series
            ORDER BY k.at_ns DESC, k.id DESC LIMIT ${limit})
         SELECT {columns} FROM found k CROSS JOIN {record} t {LABELLED}
         WHERE t.workspace = $1 AND t.at_ns = k.at_ns AND t.id = k.id
         AND t.at_ns <= $11 AND t.at_ns >= $13
         ORDER BY t.at_ns DESC, t.id DESC"
    )
}

/// Returns the statement that finds the newest $15 records of each series of $14: one for SQLite, which has no
/// `LATERAL`, and several, with blanks between them, for PostgreSQL.
fn of_series(dialect: Dialect, table: &str) -> String {
    let one = |series: &str| {
        format!(
            "SELECT * FROM {table} WHERE {RANGE} AND series = {series} {NEWEST_FIRST} LIMIT $15"
        )
    };
    match dialect {
        Dialect::Sqlite => one("CAST($14 AS BIGINT)"),
        Dialect::Postgres => format!(
            "SELECT r.* FROM unnest(CAST(string_to_array($14, ' ') AS BIGINT[])) w(wanted_series)
             CROSS JOIN LATERAL ({}) r",
            one("wanted_series")
        ),
    }
}

/// Returns the start of the day that a time is in.
pub(super) fn day_start(at_ns: i64) -> i64 {
    at_ns.div_euclid(DAY_NS).saturating_mul(DAY_NS)
}

/// Returns the span of time that a record with this id is in, if the id says when it was made.
pub(super) fn made_about(id: uuid::Uuid) -> Option<(i64, i64)> {
    let (seconds, _) = id.get_timestamp().filter(|_| id.get_version_num() == 7)?.to_unix();
    let at_ns = i64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?;
    Some((at_ns.checked_sub(DAY_NS)?, at_ns.checked_add(DAY_NS)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(before_ns: i64, from_ns: i64) -> Range {
        Range { before_ns, before_id: Vec::new(), from_ns }
    }

    #[test]
    fn windows_cover_a_range_without_a_gap_and_are_few() {
        let now_ns = now_ns();
        let cases = [
            (i64::MAX, i64::MIN),
            (now_ns, now_ns - 400 * DAY_NS),
            (now_ns, now_ns - DAY_NS),
            (now_ns - 100 * DAY_NS, now_ns - 300 * DAY_NS),
            (now_ns - 5000 * DAY_NS, i64::MIN),
            (5, 4),
        ];

        for (before_ns, from_ns) in cases {
            let windows = range(before_ns, from_ns).windows(Dialect::Postgres);

            assert!(windows.len() <= 9, "{}", windows.len());
            assert_eq!(windows[0].before_ns, before_ns);
            assert_eq!(windows.last().unwrap().from_ns, from_ns);
            for pair in windows.windows(2) {
                assert_eq!(pair[0].from_ns, pair[1].before_ns);
                assert!(pair[0].from_ns < pair[0].before_ns);
            }
        }
    }

    #[test]
    fn a_range_is_not_wider_than_what_is_there() {
        let found = range(i64::MAX, i64::MIN).within((3, 7));
        assert_eq!((found.before_ns, found.from_ns), (8, 3));
        let found = range(5, 4).within((3, 7));
        assert_eq!((found.before_ns, found.from_ns), (5, 4));
    }

    #[test]
    fn an_id_may_say_when_it_was_made() {
        let now = uuid::Uuid::now_v7();
        let (from_ns, to_ns) = made_about(now).unwrap();
        assert!((from_ns..to_ns).contains(&now_ns()));
        assert_eq!(made_about(uuid::Uuid::from_u128(7)), None);
    }
}
