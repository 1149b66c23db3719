//! Reading traces.

use ultra_store::Status;
use uuid::Uuid;

use super::search::{LABELLED, Listing, Search, made_about};
use super::uuid;
use crate::db::{Database, DbError, Row, values};
use crate::events::{
    Found, GatewayLabel, Page, SessionKey, TraceDetail, TraceLine, TraceQuery, labels, lines,
};
use crate::id::{GatewayId, WorkspaceId};
use crate::wire::RecordKind;

/// Calls of a session that are read at most.
const SESSION_MAX: u32 = 10_000;

const LISTING: Listing = Listing { table: "traces", columns: COLUMNS };

const COLUMNS: &str = "t.at_ns, t.id, s.gateway, g.name, COALESCE(NULLIF(u.name, ''), u.email),
    t.duration_ns, s.operation, s.method, s.upstream, COALESCE(t.name, s.name), s.client,
    t.session, s.outcome, t.error, t.request_bytes, t.response_bytes, t.trace_id, t.received_ms";

/// Columns of a line.
const LINE_COLUMNS: usize = 18;

/// Returns traces, newest first.
pub(super) async fn page(
    database: &dyn Database,
    workspace: WorkspaceId,
    query: &TraceQuery,
) -> Found<Page<TraceLine>> {
    let id = query.id.as_deref().map(|text| Uuid::try_parse(text.trim()));
    let Ok(id) = id.transpose() else { return Ok(Page { rows: Vec::new(), next: None }) };
    let search = Search {
        workspace,
        kind: RecordKind::Traces,
        operation: query.operation.clone(),
        severity: None,
        outcome: query.status.map(lines::word),
        upstream: query.upstream.clone(),
        name: query.name.clone(),
        client: query.client.clone(),
        user: query.user,
        gateway: query.gateway,
        session: query.session.clone(),
        id: id.map(Uuid::into_bytes),
        since_ns: query.since_ns,
        until_ns: query.until_ns,
        after: query.after,
        limit: query.limit,
    };
    let found = search.run(database, &LISTING).await?;
    let rows = found.rows.iter().map(line).collect::<Found<_>>()?;
    Ok(Page { rows, next: found.next })
}

/// Returns one trace.
pub(super) async fn detail(
    database: &dyn Database,
    workspace: WorkspaceId,
    id: Uuid,
) -> Found<Option<TraceDetail>> {
    let sql = format!(
        "SELECT {COLUMNS}, d.span_id, d.parent_span_id, d.payload
         FROM trace_details d CROSS JOIN traces t {LABELLED}
         WHERE d.workspace = $1 AND d.id = $2 AND d.at_ns BETWEEN $3 AND $4
         AND t.workspace = $1 AND t.at_ns = d.at_ns AND t.id = d.id AND t.at_ns BETWEEN $3 AND $4
         ORDER BY d.at_ns DESC LIMIT 1"
    );
    by_id(database, &sql, workspace, id)
        .await?
        .map(|row| {
            let payload: Vec<u8> = row.get(LINE_COLUMNS + 2)?;
            let payload =
                lines::payload(&payload).ok_or(DbError::Column { column: LINE_COLUMNS + 2 })?;
            let hex = |bits: i64| format!("{:016x}", bits as u64);
            let text = |json: Box<serde_json::value::RawValue>| json.get().to_owned();
            Ok(TraceDetail {
                line: line(&row)?,
                span_id: hex(row.get(LINE_COLUMNS)?),
                parent_span_id: row.get::<Option<i64>>(LINE_COLUMNS + 1)?.map(hex),
                request: payload.request.map(text),
                response: payload.response.map(text),
                metadata: text(payload.metadata),
                received_ms: Some(row.get(LINE_COLUMNS - 1)?),
            })
        })
        .transpose()
}

/// Returns the row of a record; $1 and $2 of the statement are its workspace and id, $3 and $4 the first and
/// the last time that it may have.
pub(super) async fn by_id(
    database: &dyn Database,
    sql: &str,
    workspace: WorkspaceId,
    id: Uuid,
) -> Found<Option<Row>> {
    // Most ids say in which of PostgreSQL's days to look.
    for (from_ns, to_ns) in made_about(id).into_iter().chain([(i64::MIN, i64::MAX)]) {
        let parameters = values![workspace, id.into_bytes(), from_ns, to_ns];
        if let Some(row) = database.row(sql, &parameters).await? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Returns the calls of a session, oldest first.
pub(super) async fn session(
    database: &dyn Database,
    workspace: WorkspaceId,
    of: &SessionKey,
    limit: u32,
) -> Found<Vec<TraceLine>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM traces t {LABELLED}
         WHERE t.workspace = $1 AND t.session_key = $2 AND t.session = $3 AND s.gateway = $4
         ORDER BY t.at_ns, t.id LIMIT $5"
    );
    let session = lines::label(&of.session);
    let key = labels::session_key(&session);
    let limit = limit.clamp(1, SESSION_MAX);
    let parameters = values![workspace, key, session, of.gateway, limit];
    let rows = database.rows(&sql, &parameters).await?;
    rows.iter().map(line).collect()
}

/// Returns a gateway as lines name it.
pub(super) fn gateway(row: &Row, column: usize) -> Found<GatewayLabel> {
    let id: GatewayId = row.get(column)?;
    let name: Option<String> = row.get(column + 1)?;
    let name = name.unwrap_or_else(|| id.to_string());
    Ok(GatewayLabel { id, name, owner: row.get(column + 2)? })
}

fn line(row: &Row) -> Found<TraceLine> {
    let status: String = row.get(12)?;
    let status = match &*status {
        "success" => Status::Success,
        "error" => Status::Error,
        _ => return Err(DbError::Column { column: 12 }),
    };
    let trace_id: Option<Vec<u8>> = row.get(16)?;
    let trace_id = trace_id.map(|bytes| Uuid::from_slice(&bytes)).transpose();
    let trace_id = trace_id.map_err(|_| DbError::Column { column: 16 })?;
    Ok(TraceLine {
        id: uuid(row, 1)?,
        gateway: gateway(row, 2)?,
        started_ns: row.get(0)?,
        duration_ns: row.get(5)?,
        operation: row.get(6)?,
        method: row.get(7)?,
        upstream: row.get(8)?,
        name: row.get(9)?,
        client: row.get(10)?,
        session: row.get(11)?,
        trace_id: trace_id.map(|id| id.simple().to_string()),
        status,
        error: row.get(13)?,
        request_bytes: row.get(14)?,
        response_bytes: row.get(15)?,
    })
}
