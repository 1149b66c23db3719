//! Sums: how servers, tools, gateways and clients were used. From the tables that grow with what there is,
//! never from the records.

use std::collections::HashMap;

use super::rollup::hour;
use super::traces::gateway;
use crate::db::{Database, DbError, Row, Value, values};
use crate::events::{
    Choices, ClientUse, Found, GatewayLabel, ServerDetail, ServerUse, Usage, UserLabel,
};
use crate::id::{GatewayId, WorkspaceId};

/// Values of one filter that are offered.
const CHOICES_MAX: i64 = 200;

/// Servers, and rows of each table about one. Pages list fewer of them, and say how many more there are.
const ROWS_MAX: i64 = 5_000;

/// Sums of a table's rows; of durations as floating point, which does not overflow.
const SUMS: &str = "CAST(SUM(h.calls) AS BIGINT), CAST(SUM(h.errors) AS BIGINT),
    SUM(CAST(h.duration_ns AS DOUBLE PRECISION)), MAX(h.last_ns)";

const HOUR_NS: i64 = 3600 * 1_000_000_000;

/// Returns what there is to filter by.
pub(super) async fn choices(
    database: &dyn Database,
    workspace: WorkspaceId,
    since_ns: i64,
) -> Found<Choices> {
    let of_traces = |column: &str| distinct(column, "AND kind = 'traces'");
    let of_both = |column: &str| distinct(column, "");
    let since = values![workspace, since_ns, CHOICES_MAX];
    let gateways = database.rows(GATEWAY_CHOICES, &since).await?;
    let users = database.rows(USER_CHOICES, &since).await?;
    Ok(Choices {
        operations: texts(database, &of_traces("operation"), &since).await?,
        upstreams: texts(database, &of_both("upstream"), &since).await?,
        names: texts(database, &of_traces("name"), &since).await?,
        clients: texts(database, &of_both("client"), &since).await?,
        gateways: gateways.iter().map(|row| gateway(row, 0)).collect::<Found<_>>()?,
        users: users.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect::<Found<_>>()?,
    })
}

/// Returns the servers that were used since then, by name; since the hour in which that is.
pub(super) async fn servers(
    database: &dyn Database,
    workspace: WorkspaceId,
    since_ns: i64,
) -> Found<Vec<ServerUse>> {
    server_uses(database, workspace, None, since_ns).await
}

/// Returns how one server was used since then; since the hour in which that is.
pub(super) async fn server(
    database: &dyn Database,
    workspace: WorkspaceId,
    upstream: &str,
    since_ns: i64,
) -> Found<Option<ServerDetail>> {
    let upstream = crate::events::lines::label(upstream);
    let found = server_uses(database, workspace, Some(&upstream), since_ns).await?;
    let Some(server) = found.into_iter().next() else { return Ok(None) };
    let parameters = values![workspace, &upstream, hour(since_ns), ROWS_MAX];
    let tools = format!(
        "SELECT h.name, {SUMS} FROM tool_usage h
         WHERE h.workspace = $1 AND h.upstream = $2 AND h.hour >= $3 AND h.name <> ''
         GROUP BY h.name ORDER BY 2 DESC, h.name LIMIT $4"
    );
    let tools = database.rows(&tools, &parameters).await?;
    let gateways = format!(
        "SELECT h.gateway, g.name, COALESCE(NULLIF(u.name, ''), u.email), {SUMS}
         FROM gateway_usage h
         LEFT JOIN gateways g ON g.id = h.gateway LEFT JOIN users u ON u.id = g.owner
         WHERE h.workspace = $1 AND h.upstream = $2 AND h.hour >= $3
         GROUP BY h.gateway, g.name, u.name, u.email ORDER BY 4 DESC, h.gateway LIMIT $4"
    );
    let gateways = database.rows(&gateways, &parameters).await?;
    let users = format!(
        "SELECT u.id, COALESCE(NULLIF(u.name, ''), u.email), {SUMS} FROM gateway_usage h
         JOIN gateways g ON g.id = h.gateway JOIN users u ON u.id = g.owner
         WHERE h.workspace = $1 AND h.upstream = $2 AND h.hour >= $3
         GROUP BY u.id, u.name, u.email ORDER BY 2, u.id LIMIT $4"
    );
    let users = database.rows(&users, &parameters).await?;
    let named = |row: &Row| Ok((row.get::<String>(0)?, usage(row, 1)?));
    let of_gateway = |row: &Row| Ok::<(GatewayLabel, Usage), _>((gateway(row, 0)?, usage(row, 3)?));
    let of_user = |row: &Row| {
        Ok::<_, DbError>((UserLabel { id: row.get(0)?, name: row.get(1)? }, usage(row, 2)?))
    };
    Ok(Some(ServerDetail {
        server,
        tools: tools.iter().map(named).collect::<Found<_>>()?,
        gateways: gateways.iter().map(of_gateway).collect::<Found<_>>()?,
        users: users.iter().map(of_user).collect::<Found<_>>()?,
    }))
}

/// Returns the clients that used a gateway, last active first.
pub(super) async fn clients(
    database: &dyn Database,
    workspace: WorkspaceId,
    gateway: GatewayId,
) -> Found<Vec<ClientUse>> {
    let sql = "SELECT client, CAST(SUM(calls) AS BIGINT),
            CAST(SUM(CASE WHEN outcome = 'success' THEN 0 ELSE calls END) AS BIGINT),
            SUM(CAST(duration_ns AS DOUBLE PRECISION)), MAX(last_ns)
        FROM series WHERE workspace = $1 AND gateway = $2 AND kind = 'traces'
        GROUP BY client ORDER BY 5 DESC, client LIMIT $3";
    let rows = database.rows(sql, &values![workspace, gateway, ROWS_MAX]).await?;
    let client = |row: &Row| Ok(ClientUse { client: row.get(0)?, usage: usage(row, 1)? });
    rows.iter().map(client).collect()
}

async fn server_uses(
    database: &dyn Database,
    workspace: WorkspaceId,
    upstream: Option<&str>,
    since_ns: i64,
) -> Found<Vec<ServerUse>> {
    let since_hour = hour(since_ns);
    let parameters =
        values![workspace, upstream, since_hour.saturating_mul(HOUR_NS), since_hour, ROWS_MAX];
    // What a server has, from series; how much it was used, by hour.
    let sql = format!(
        "WITH used AS (
            SELECT s.upstream AS upstream,
                COUNT(DISTINCT CASE WHEN s.operation = 'tool_call' THEN s.name END) AS tools,
                COUNT(DISTINCT s.gateway) AS gateways, COUNT(DISTINCT g.owner) AS users
            FROM series s LEFT JOIN gateways g ON g.id = s.gateway
            WHERE s.workspace = $1 AND s.kind = 'traces' AND s.upstream IS NOT NULL
            AND (CAST($2 AS TEXT) IS NULL OR s.upstream = $2) AND s.last_ns >= $3
            GROUP BY s.upstream)
         SELECT n.upstream, {SUMS}, n.tools, n.gateways, n.users
         FROM used n JOIN tool_usage h
         ON h.workspace = $1 AND h.upstream = n.upstream AND h.hour >= $4
         GROUP BY n.upstream, n.tools, n.gateways, n.users ORDER BY n.upstream LIMIT $5"
    );
    let rows = database.rows(&sql, &parameters).await?;
    let mut transports = transports(database, workspace, &parameters[1]).await?;
    let server = |row: &Row| {
        let upstream: String = row.get(0)?;
        Ok(ServerUse {
            transport: transports.remove(&upstream).flatten(),
            upstream,
            usage: usage(row, 1)?,
            tools: row.get(5)?,
            gateways: row.get(6)?,
            users: row.get(7)?,
        })
    };
    rows.iter().map(server).collect()
}

/// Returns how servers were reached by their newest calls.
async fn transports(
    database: &dyn Database,
    workspace: WorkspaceId,
    upstream: &Value,
) -> Found<HashMap<String, Option<String>>> {
    let sql = "SELECT s.upstream, MAX(s.transport) FROM series s JOIN (
            SELECT upstream, MAX(last_ns) AS last_ns FROM series
            WHERE workspace = $1 AND kind = 'traces'
            AND (CAST($2 AS TEXT) IS NULL OR upstream = $2) GROUP BY upstream) newest
        ON newest.upstream = s.upstream AND newest.last_ns = s.last_ns
        WHERE s.workspace = $1 AND s.kind = 'traces' GROUP BY s.upstream";
    let rows = database.rows(sql, &[workspace.into(), upstream.clone()]).await?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

fn distinct(column: &str, and: &str) -> String {
    format!(
        "SELECT {column} FROM series WHERE workspace = $1 AND last_ns >= $2 {and}
         AND {column} IS NOT NULL AND {column} <> ''
         GROUP BY {column} ORDER BY SUM(calls) DESC, {column} LIMIT $3"
    )
}

const GATEWAY_CHOICES: &str =
    "SELECT n.gateway, g.name, COALESCE(NULLIF(u.name, ''), u.email) FROM (
        SELECT gateway, SUM(calls) AS calls FROM series WHERE workspace = $1 AND last_ns >= $2
        GROUP BY gateway ORDER BY 2 DESC LIMIT $3) n
     LEFT JOIN gateways g ON g.id = n.gateway LEFT JOIN users u ON u.id = g.owner
     ORDER BY n.calls DESC, n.gateway";

const USER_CHOICES: &str = "SELECT u.id, COALESCE(NULLIF(u.name, ''), u.email)
    FROM series s JOIN gateways g ON g.id = s.gateway JOIN users u ON u.id = g.owner
    WHERE s.workspace = $1 AND s.last_ns >= $2
    GROUP BY u.id, u.name, u.email ORDER BY SUM(s.calls) DESC, u.id LIMIT $3";

async fn texts(database: &dyn Database, sql: &str, parameters: &[Value]) -> Found<Vec<String>> {
    let rows = database.rows(sql, parameters).await?;
    rows.iter().map(|row| row.get(0)).collect()
}

fn usage(row: &Row, column: usize) -> Found<Usage> {
    Ok(Usage {
        calls: row.get(column)?,
        errors: row.get(column + 1)?,
        // Below 2^53 it is exact, and above nobody counts nanoseconds.
        duration_ns: row.get::<f64>(column + 2)? as i64,
        last_ns: row.get(column + 3)?,
    })
}
