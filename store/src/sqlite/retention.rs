//! Deletes what is too old or too much, a little at a time.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::commit::Upstreams;
use crate::{HELD_FACTOR, metrics};

/// Old rows deleted at a time: a few milliseconds, which a call may have to wait.
pub(super) const CHUNK_ROWS: u64 = 500;

/// A gateway not heard of for a day is gone.
const GATEWAY_SILENCE_MAX_NS: i64 = 24 * 60 * 60 * 1_000_000_000;

/// Deletes some of what is too old or too much; returns how many rows of the table with most.
pub(super) fn delete_chunk(
    connection: &mut Connection,
    oldest_unix_ns: i64,
    rows_max: i64,
    now_unix_ns: i64,
    upstreams: &Upstreams,
) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let unsent: (Option<i64>, Option<i64>) = transaction
        .prepare_cached("SELECT unsent_trace, unsent_audit_event FROM sending")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let keep = Keep { oldest: oldest_unix_ns, rows_max };
    let traces = delete_rows(&transaction, "traces", "started", keep, unsent.0)?;
    let audit_events = delete_rows(&transaction, "audit_events", "at", keep, unsent.1)?;
    // Every figure of the oldest hour there is, if it is too old.
    let figures = transaction
        .prepare_cached(
            "DELETE FROM metrics
             WHERE minute < min(?, (SELECT min(minute) + 60 FROM metrics))",
        )?
        .execute([metrics::minute(oldest_unix_ns)])? as u64;
    for (upstream, gateway_pid) in upstreams.keys() {
        transaction
            .prepare_cached("UPDATE upstreams SET seen = ? WHERE upstream = ? AND gateway_pid = ?")?
            .execute(params![now_unix_ns, upstream, gateway_pid])?;
    }
    transaction
        .prepare_cached("DELETE FROM upstreams WHERE seen < ?")?
        .execute([now_unix_ns - GATEWAY_SILENCE_MAX_NS])?;
    transaction.commit()?;
    Ok(traces.max(audit_events).max(figures))
}

/// What stays.
#[derive(Clone, Copy)]
struct Keep {
    /// What is older goes, in nanoseconds since 1970 UTC.
    oldest: i64,
    rows_max: i64,
}

/// Looks at the first rows of a table only. The last row always stays, for its number.
fn delete_rows(
    transaction: &Transaction<'_>,
    table: &str,
    time: &str,
    keep: Keep,
    unsent: Option<i64>,
) -> rusqlite::Result<u64> {
    let last: Option<i64> = transaction
        .prepare_cached(&format!("SELECT max(seq) FROM {table}"))?
        .query_row([], |row| row.get(0))?;
    let Some(last) = last else { return Ok(0) };
    let first_of = |rows: i64| last.saturating_sub(rows).saturating_add(1).min(last);
    let first_kept = match unsent {
        Some(unsent) => {
            let first_held = first_of(keep.rows_max.saturating_mul(HELD_FACTOR as i64));
            first_of(keep.rows_max).min(unsent.max(first_held))
        }
        None => first_of(keep.rows_max),
    };
    let outdated = format!(
        "SELECT seq FROM (SELECT seq, {time} FROM {table} ORDER BY seq LIMIT {CHUNK_ROWS})
         WHERE (seq < ?1 OR {time} < ?2) AND seq < ?3"
    );
    let limits = params![first_kept, keep.oldest, last];
    if table == "traces" {
        transaction
            .prepare_cached(&format!("DELETE FROM trace_payloads WHERE seq IN ({outdated})"))?
            .execute(limits)?;
    }
    let deleted = transaction
        .prepare_cached(&format!("DELETE FROM {table} WHERE seq IN ({outdated})"))?
        .execute(limits)?;
    Ok(deleted as u64)
}
