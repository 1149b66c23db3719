//! Reading audit events.

use uuid::Uuid;

use super::search::{LABELLED, Listing, Search};
use super::traces::{by_id, gateway};
use super::uuid;
use crate::db::{Database, DbError, Row};
use crate::events::{AuditLine, AuditQuery, Found, Page, lines};
use crate::id::WorkspaceId;
use crate::wire::RecordKind;

const LISTING: Listing = Listing { table: "audit_events", columns: COLUMNS };

const COLUMNS: &str = "t.at_ns, t.id, s.gateway, g.name, COALESCE(NULLIF(u.name, ''), u.email),
    s.operation, s.severity, s.outcome, s.upstream, COALESCE(t.name, s.name), s.client,
    t.session, t.trace_id, t.reason, t.details";

/// Returns audit events, newest first.
pub(super) async fn page(
    database: &dyn Database,
    workspace: WorkspaceId,
    query: &AuditQuery,
) -> Found<Page<AuditLine>> {
    let search = Search {
        workspace,
        kind: RecordKind::Audit,
        operation: query.event_type.clone(),
        severity: query.severity.map(lines::word),
        outcome: query.outcome.map(lines::word),
        upstream: query.upstream.clone(),
        name: query.action.clone(),
        client: query.client.clone(),
        user: query.user,
        gateway: query.gateway,
        session: query.session.clone(),
        id: None,
        since_ns: query.since_ns,
        until_ns: query.until_ns,
        after: query.after,
        limit: query.limit,
    };
    let found = search.run(database, &LISTING).await?;
    let rows = found.rows.iter().map(line).collect::<Found<_>>()?;
    Ok(Page { rows, next: found.next })
}

/// Returns one audit event.
pub(super) async fn event(
    database: &dyn Database,
    workspace: WorkspaceId,
    id: Uuid,
) -> Found<Option<AuditLine>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM audit_events t {LABELLED}
         WHERE t.workspace = $1 AND t.id = $2 AND t.at_ns BETWEEN $3 AND $4
         ORDER BY t.at_ns DESC LIMIT 1"
    );
    let row = by_id(database, &sql, workspace, id).await?;
    row.as_ref().map(line).transpose()
}

fn line(row: &Row) -> Found<AuditLine> {
    let trace_id: Option<Vec<u8>> = row.get(12)?;
    Ok(AuditLine {
        id: uuid(row, 1)?,
        gateway: gateway(row, 2)?,
        at_ns: row.get(0)?,
        event_type: row.get(5)?,
        severity: parse(row, 6)?,
        outcome: parse(row, 7)?,
        upstream: row.get(8)?,
        action: row.get(9)?,
        client: row.get(10)?,
        session: row.get(11)?,
        trace_id: trace_id.map(|_| uuid(row, 12)).transpose()?.map(|id| id.simple().to_string()),
        reason: row.get(13)?,
        details: row.get(14)?,
    })
}

/// Reads a word as serde wrote it.
fn parse<T: serde::de::DeserializeOwned>(row: &Row, column: usize) -> Found<T> {
    let word: String = row.get(column)?;
    serde_json::from_value(word.into()).map_err(|_| DbError::Column { column })
}
