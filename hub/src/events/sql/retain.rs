//! Deleting what is too old: whole days in PostgreSQL, a few rows at a time everywhere else.

use super::partitions::{self, DAY_NS, Partitions};
use super::search::day_start;
use crate::db::{Database, DbError, Dialect, Value, values};
use crate::events::Found;
use crate::id::WorkspaceId;
use crate::wire::RecordKind;

/// Rows deleted at a time: some 20 ms in which SQLite stores nothing.
const ROWS_MAX: i64 = 500;

/// Dropping a table waits so long for readers, and those who come meanwhile wait too.
const LOCK_WAIT_MS: u64 = 500;

/// Records that are further ahead than this have a wrong clock: they go by when the Hub took them.
const AHEAD_NS: i64 = 2 * DAY_NS;

/// Everything that is recorded, and its key.
const RECORDED: [(&str, &str); 8] = [
    ("traces", "workspace, at_ns, id"),
    ("trace_details", "workspace, id, at_ns"),
    ("audit_events", "workspace, at_ns, id"),
    ("tool_usage", "workspace, upstream, hour, name"),
    ("gateway_usage", "workspace, upstream, hour, gateway"),
    ("series", "workspace, id"),
    ("rejected", "gateway, database_id, kind, seq"),
    ("streams", "gateway, database_id, kind"),
];

/// Deletes some of what is older than these times; returns how many rows, none when nothing is left.
pub(super) async fn too_old(
    database: &dyn Database,
    partitions: &Partitions,
    traces_from_ns: i64,
    audit_from_ns: i64,
) -> Found<u64> {
    for (kind, from_ns) in
        [(RecordKind::Traces, traces_from_ns), (RecordKind::Audit, audit_from_ns)]
    {
        let (from_ns, suffix) = match database.dialect() {
            // Days go as a whole, and what sums them up goes with them.
            Dialect::Postgres => (day_start(from_ns), "_odd"),
            Dialect::Sqlite => (from_ns, ""),
        };
        let mut deleted = 0;
        if database.dialect() == Dialect::Postgres {
            partitions.keep_from(kind, from_ns.div_euclid(DAY_NS));
            deleted = drop_day(database, partitions, kind, from_ns).await?;
        }
        if deleted == 0 {
            deleted = delete_records(database, kind, suffix, from_ns).await?;
        }
        if deleted == 0 && kind == RecordKind::Traces && suffix == "_odd" {
            deleted = delete_lone_details(database, from_ns).await?;
        }
        // Last: as long as there are records, their workspaces are found by what sums them up.
        if deleted == 0 {
            deleted = delete_sums(database, kind, from_ns).await?;
        }
        if deleted > 0 {
            return Ok(deleted);
        }
    }
    let sql = "DELETE FROM rejected WHERE (gateway, database_id, kind, seq) IN (
        SELECT gateway, database_id, kind, seq FROM rejected WHERE received_ms < $1 LIMIT $2)";
    let from_ms = traces_from_ns.min(audit_from_ns) / 1_000_000;
    database.execute(sql, &values![from_ms, ROWS_MAX]).await
}

/// Drops the table of the oldest day, if all of it is too old; returns how many rows it had, more or less.
async fn drop_day(
    database: &dyn Database,
    partitions: &Partitions,
    kind: RecordKind,
    from_ns: i64,
) -> Found<u64> {
    let mut dropped = 0;
    // Each in a transaction of its own: with one lock at a time nobody waits in a circle. Lines go
    // last, so that this goes on where it was interrupted.
    for table in partitions::tables(kind).iter().rev() {
        let days = partitions::days(database, table).await?;
        let Some(day) = days.first().copied().filter(|day| (day + 1) * DAY_NS <= from_ns) else {
            continue;
        };
        let name = partitions::name(table, day);
        let sql = "SELECT CAST(reltuples AS BIGINT) FROM pg_class WHERE relname = $1";
        let rows = database.row(sql, &values![&name]).await?;
        let rows: i64 = rows.map_or(Ok(0), |row| row.get(0))?;
        let mut transaction = database.begin().await?;
        let sql = format!("SET LOCAL lock_timeout = {LOCK_WAIT_MS}; DROP TABLE IF EXISTS {name}");
        transaction.batch(&sql).await?;
        transaction.commit().await?;
        partitions.forget(kind, day);
        tracing::info!(db.table = name, "a day that is too old was dropped");
        dropped = rows.max(1) as u64;
    }
    Ok(dropped)
}

/// Deletes some records of one workspace.
async fn delete_records(
    database: &dyn Database,
    kind: RecordKind,
    suffix: &str,
    from_ns: i64,
) -> Found<u64> {
    let now_ns = partitions::now_ns();
    for workspace in workspaces(database).await? {
        // Two conditions, and for each of them the key is an index.
        let old = ("at_ns < $2 AND CAST($3 AS BIGINT) IS NOT NULL", from_ns, 0);
        let ahead = (
            "at_ns >= $2 AND received_ms < $3",
            now_ns.saturating_add(AHEAD_NS),
            from_ns / 1_000_000,
        );
        for (condition, at_ns, received_ms) in [old, ahead] {
            let parameters = values![workspace, at_ns, received_ms, ROWS_MAX];
            let deleted = delete(database, kind, suffix, condition, &parameters).await?;
            if deleted > 0 {
                return Ok(deleted);
            }
        }
    }
    Ok(0)
}

async fn delete(
    database: &dyn Database,
    kind: RecordKind,
    suffix: &str,
    condition: &str,
    parameters: &[Value],
) -> Found<u64> {
    let lines = match kind {
        RecordKind::Traces => "traces",
        RecordKind::Audit => "audit_events",
    };
    let found = format!(
        "SELECT at_ns, id FROM {lines}{suffix} WHERE workspace = $1 AND {condition}
         ORDER BY at_ns, id LIMIT $4"
    );
    // Most of the time there is nothing, and then nobody has to wait for this.
    if database.row(&found, parameters).await?.is_none() {
        return Ok(0);
    }
    let mut transaction = database.begin().await?;
    if kind == RecordKind::Traces {
        let sql = format!(
            "DELETE FROM trace_details{suffix} WHERE workspace = $1 AND (id, at_ns) IN (
                SELECT id, at_ns FROM ({found}) found)"
        );
        transaction.execute(&sql, parameters).await?;
    }
    let sql =
        format!("DELETE FROM {lines}{suffix} WHERE workspace = $1 AND (at_ns, id) IN ({found})");
    let deleted = transaction.execute(&sql, parameters).await?;
    transaction.commit().await?;
    Ok(deleted)
}

/// Deletes some payloads of PostgreSQL's odd days whose lines had a table of their own, and went with that.
async fn delete_lone_details(database: &dyn Database, from_ns: i64) -> Found<u64> {
    let sql = "DELETE FROM trace_details_odd WHERE (workspace, id, at_ns) IN (
        SELECT workspace, id, at_ns FROM trace_details_odd WHERE at_ns < $1 LIMIT $2)";
    database.execute(sql, &values![from_ns, ROWS_MAX]).await
}

/// Deletes some of what sums up records that are no longer there.
async fn delete_sums(
    database: &dyn Database,
    kind: RecordKind,
    from_ns: i64,
) -> Result<u64, DbError> {
    let ahead_ns = partitions::now_ns().saturating_add(AHEAD_NS);
    // Of records that were ahead nothing is left but this.
    let old = "SELECT workspace, id FROM series WHERE kind = $1 AND (last_ns < $2
        OR last_ns >= $3 AND NOT EXISTS (SELECT 1 FROM {lines} t
            WHERE t.workspace = series.workspace AND t.series = series.id)) LIMIT $4";
    let old = old.replace("{lines}", partitions::tables(kind)[0]);
    let parameters = values![kind.as_str(), from_ns, ahead_ns, ROWS_MAX];
    let mut deleted = 0;
    if database.row(&old, &parameters).await?.is_some() {
        let sql = format!("DELETE FROM series WHERE (workspace, id) IN ({old})");
        deleted += database.execute(&sql, &parameters).await?;
    }
    if kind == RecordKind::Traces {
        let parameters = values![super::rollup::hour(from_ns), ROWS_MAX];
        for (table, last) in [("tool_usage", "name"), ("gateway_usage", "gateway")] {
            let key = format!("workspace, upstream, hour, {last}");
            let old = format!("SELECT {key} FROM {table} WHERE hour < $1 LIMIT $2");
            if database.row(&old, &parameters).await?.is_some() {
                let sql = format!("DELETE FROM {table} WHERE ({key}) IN ({old})");
                deleted += database.execute(&sql, &parameters).await?;
            }
        }
    }
    Ok(deleted)
}

/// Deletes some of what there is of a workspace; returns how many rows, none when nothing is left.
pub(super) async fn of_workspace(database: &dyn Database, workspace: WorkspaceId) -> Found<u64> {
    for (table, key) in RECORDED {
        let of = "WHERE workspace = $1 LIMIT";
        // In PostgreSQL rows are in the tables of their days.
        let part = match database.dialect() {
            Dialect::Postgres => "CAST(CAST(tableoid AS regclass) AS TEXT)".to_owned(),
            Dialect::Sqlite => format!("'{table}'"),
        };
        let find = format!("SELECT {part} FROM {table} {of} 1");
        let Some(row) = database.row(&find, &values![workspace]).await? else { continue };
        let part: String = row.get(0)?;
        let delete = match database.dialect() {
            // By their places: no plan is shorter, whatever PostgreSQL knows of the table.
            Dialect::Postgres => format!(
                "DELETE FROM {part} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {part} {of} {ROWS_MAX}))"
            ),
            Dialect::Sqlite => format!(
                "DELETE FROM {part} WHERE ({key}) IN (SELECT {key} FROM {part} {of} {ROWS_MAX})"
            ),
        };
        // None, if another replica was quicker: that does not mean that nothing is left.
        return Ok(database.execute(&delete, &values![workspace]).await?.max(1));
    }
    Ok(0)
}

/// Returns the workspaces that have records.
async fn workspaces(database: &dyn Database) -> Found<Vec<i64>> {
    let rows = database.rows("SELECT DISTINCT workspace FROM series", &[]).await?;
    super::row_ids(&rows)
}
