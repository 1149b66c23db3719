//! What the Hub has of each stream: a row each.

use crate::db::{Database, DbError, Row, Transaction, values};
use crate::events::{Found, Gaps, Origin};
use crate::id::{GatewayId, WorkspaceId};
use crate::spans::Spans;
use crate::wire::{BatchHead, RecordKind, StreamState};

/// A stream, as its row has it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) spans: Spans,
    pub(super) lost: Spans,
    pub(super) rejected: i64,
}

const KINDS: [RecordKind; 2] = [RecordKind::Traces, RecordKind::Audit];

/// Databases of one gateway: it gets another one when the file was deleted, or restored from a backup.
const DATABASES_MAX: i64 = 64;

/// Whether this is the id of a gateway's database.
pub(super) fn is_database_id(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 32 && text.bytes().all(hex)
}

/// Returns a stream that nobody else changes until the transaction ends; makes it, if it is new. Nothing, if
/// its gateway has too many databases.
pub(super) async fn lock(
    transaction: &mut dyn Transaction,
    for_update: &str,
    origin: Origin,
    head: &BatchHead,
) -> Result<Option<Stream>, DbError> {
    let gateway = origin.gateway;
    let key = values![gateway, &head.database, head.kind.as_str()];
    let find = format!(
        "SELECT spans, lost, rejected FROM streams
         WHERE gateway = $1 AND database_id = $2 AND kind = $3{for_update}"
    );
    if let Some(row) = transaction.row(&find, &key).await? {
        return stream(&row).map(Some);
    }
    let others = "SELECT count(DISTINCT database_id) FROM streams
        WHERE gateway = $1 AND database_id <> $2";
    let others = transaction.row(others, &values![gateway, &head.database]).await?;
    if others.map_or(Ok(0), |row| row.get::<i64>(0))? >= DATABASES_MAX {
        return Ok(None);
    }
    let make = "INSERT INTO streams
            (workspace, gateway, database_id, kind, spans, lost, batches, rejected, changed_ms)
        VALUES ($1, $2, $3, $4, '[]', '[]', 0, 0, 0) ON CONFLICT DO NOTHING";
    let row = values![origin.workspace, gateway, &head.database, head.kind.as_str()];
    transaction.execute(make, &row).await?;
    let row = transaction.row(&find, &key).await?;
    stream(&row.ok_or(DbError::Column { column: 0 })?).map(Some)
}

/// Writes a stream back; `rejected` more could not be read.
pub(super) async fn save(
    transaction: &mut dyn Transaction,
    gateway: GatewayId,
    head: &BatchHead,
    stream: &Stream,
    rejected: u64,
    changed_ms: i64,
) -> Result<(), DbError> {
    let sql = "UPDATE streams SET spans = $1, lost = $2, batches = batches + 1,
            rejected = rejected + $3, changed_ms = $4
        WHERE gateway = $5 AND database_id = $6 AND kind = $7";
    let parameters = values![
        stream.spans.to_json(),
        stream.lost.to_json(),
        rejected as i64,
        changed_ms,
        gateway,
        &head.database,
        head.kind.as_str(),
    ];
    transaction.execute(sql, &parameters).await.map(drop)
}

/// Adds to streams what their gateway keeps to itself.
pub(super) async fn leave_out(
    database: &dyn Database,
    origin: Origin,
    before: &[StreamState],
) -> Found<()> {
    let mut transaction = database.begin().await?;
    for state in before.iter().filter(|state| is_database_id(&state.database)) {
        let head = BatchHead {
            database: state.database.clone(),
            kind: state.kind,
            first: 1,
            count: 0,
            lost: Vec::new(),
        };
        let for_update = database.dialect().for_update();
        let stream = lock(&mut *transaction, for_update, origin, &head).await?;
        let Some(mut stream) = stream else { break };
        for span in &state.spans {
            stream.spans.add((span.0.max(1), span.1));
        }
        save(&mut *transaction, origin.gateway, &head, &stream, 0, 0).await?;
    }
    transaction.commit().await
}

/// Returns what is there of a gateway's streams.
pub(super) async fn states(
    database: &dyn Database,
    gateway: GatewayId,
    of: Option<&str>,
) -> Found<Vec<StreamState>> {
    let found = all(database, gateway, of).await?;
    Ok(found.into_iter().map(|(state, _)| state).collect())
}

/// Returns what is missing of a gateway's streams.
pub(super) async fn verify(database: &dyn Database, gateway: GatewayId) -> Found<Vec<Gaps>> {
    let found = all(database, gateway, None).await?;
    let gaps = |(stream, lost): (StreamState, Spans)| {
        let missing = stream.spans.iter().copied().collect::<Spans>().gaps();
        Gaps { stream, missing, lost: lost.into_vec() }
    };
    Ok(found.into_iter().map(gaps).collect())
}

/// Returns a number that grows with each batch of any gateway of a workspace.
pub(super) async fn revision(database: &dyn Database, workspace: WorkspaceId) -> Found<i64> {
    let sql = "SELECT CAST(COALESCE(SUM(s.batches), 0) AS BIGINT)
        FROM gateways g JOIN streams s ON s.gateway = g.id WHERE g.workspace = $1";
    let row = database.row(sql, &values![workspace]).await?;
    row.map_or(Ok(0), |row| row.get(0))
}

async fn all(
    database: &dyn Database,
    gateway: GatewayId,
    of: Option<&str>,
) -> Found<Vec<(StreamState, Spans)>> {
    let sql = "SELECT spans, lost, rejected, database_id, kind FROM streams
        WHERE gateway = $1 AND (CAST($2 AS TEXT) IS NULL OR database_id = $2)
        ORDER BY database_id, kind";
    let rows = database.rows(sql, &values![gateway, of]).await?;
    rows.iter().map(state).collect()
}

fn state(row: &Row) -> Found<(StreamState, Spans)> {
    let Stream { spans, lost, .. } = stream(row)?;
    let kind: String = row.get(4)?;
    let kind = KINDS.into_iter().find(|known| known.as_str() == kind);
    let kind = kind.ok_or(DbError::Column { column: 4 })?;
    Ok((StreamState { database: row.get(3)?, kind, spans: spans.into_vec() }, lost))
}

fn stream(row: &Row) -> Found<Stream> {
    let spans = |column: usize| {
        let json: String = row.get(column)?;
        Spans::parse(&json).ok_or(DbError::Column { column })
    };
    Ok(Stream { spans: spans(0)?, lost: spans(1)?, rejected: row.get(2)? })
}
