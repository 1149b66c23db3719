//! Records by their numbers, for whoever sends them elsewhere.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::read::{audit_row, trace_row};
use crate::filter::{AuditRow, Mark, Numbers, Run, TraceRow};

/// Returns the id of the database.
pub(super) fn database_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.prepare_cached("SELECT database_id FROM sending")?.query_row([], |row| row.get(0))
}

/// Returns the lowest and the highest numbers, all as of one moment.
pub(super) fn numbers(connection: &Connection) -> rusqlite::Result<Numbers> {
    // Only alone in its SELECT does SQLite find a minimum without leafing.
    let mut statement = connection.prepare_cached(
        "SELECT (SELECT min(seq) FROM traces), (SELECT max(seq) FROM traces),
             (SELECT min(seq) FROM audit_events), (SELECT max(seq) FROM audit_events)",
    )?;
    statement.query_row([], |row| {
        let pair = |index| {
            let (first, last): (Option<i64>, Option<i64>) = (row.get(index)?, row.get(index + 1)?);
            Ok::<_, rusqlite::Error>(first.zip(last))
        };
        Ok(Numbers { traces: pair(0)?, audit_events: pair(2)? })
    })
}

/// Returns the last numbers from before a time.
pub(super) fn numbers_before(connection: &Connection, unix_ns: i64) -> rusqlite::Result<Mark> {
    let numbers = numbers(connection)?;
    let last = |table, time, numbers: Option<(i64, i64)>| match numbers {
        Some(numbers) => last_before(connection, table, time, numbers, unix_ns),
        None => Ok(0),
    };
    Ok(Mark {
        trace: last("traces", "started", numbers.traces)?,
        audit_event: last("audit_events", "at", numbers.audit_events)?,
    })
}

/// Halves the numbers again and again: times are not indexed.
fn last_before(
    connection: &Connection,
    table: &str,
    time: &str,
    (first, last): (i64, i64),
    unix_ns: i64,
) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {time} FROM {table} WHERE seq >= ? ORDER BY seq LIMIT 1"
    ))?;
    // What is below `low` is before, what is from `high` on is not.
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let at: Option<i64> = statement.query_row([middle], |row| row.get(0)).optional()?;
        if at.is_some_and(|at| at < unix_ns) { low = middle + 1 } else { high = middle }
    }
    Ok(low - 1)
}

/// Returns the traces of a run.
pub(super) fn traces(connection: &Connection, run: Run) -> rusqlite::Result<Vec<TraceRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT t.seq, t.id, t.trace_id, t.span_id, t.parent_span_id, t.operation, t.method,
             t.upstream, t.name, p.request, p.response, t.request_bytes, t.response_bytes,
             t.status, t.error, t.duration, t.started, t.principal, t.session_id, t.metadata
         FROM traces t LEFT JOIN trace_payloads p ON p.seq = t.seq
         WHERE t.seq >= ? AND t.seq <= ? ORDER BY t.seq LIMIT ?",
    )?;
    let mut rows = statement.query(params![run.first, run.last, records(run)])?;
    let mut taken = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        bytes += [9, 10, 14, 19].iter().map(|index| length(row, *index)).sum::<usize>();
        if bytes > run.bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(trace_row(row)?);
    }
    Ok(taken)
}

/// Returns the audit events of a run.
pub(super) fn audit_events(connection: &Connection, run: Run) -> rusqlite::Result<Vec<AuditRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, id, trace_id, event_type, severity, upstream, action, principal, session_id,
             outcome, reason, details, at
         FROM audit_events
         WHERE seq >= ? AND seq <= ? ORDER BY seq LIMIT ?",
    )?;
    let mut rows = statement.query(params![run.first, run.last, records(run)])?;
    let mut taken = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        bytes += [6, 10, 11].iter().map(|index| length(row, *index)).sum::<usize>();
        if bytes > run.bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(audit_row(row)?);
    }
    Ok(taken)
}

fn records(run: Run) -> i64 {
    i64::try_from(run.records_max).unwrap_or(i64::MAX)
}

/// Returns how long a text is; nothing of it is copied.
fn length(row: &Row<'_>, index: usize) -> usize {
    row.get_ref(index).ok().and_then(|value| value.as_str().ok()).map_or(0, str::len)
}
