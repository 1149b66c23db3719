//! The contract of an [`EventStore`]. Each test runs on both databases.

mod append;
mod query;
mod tenancy;
mod torture;
mod usage;

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::sql::{Options, SqlEvents};
use super::{AppendError, Batch, EventStore, Origin, Records, TraceLine, TraceQuery};
use crate::db::testing::TestDatabase;
use crate::db::{Database, values};
use crate::id::{GatewayId, OrganizationId, UserId, WorkspaceId};
use crate::wire::{Acknowledgement, BatchHead, RecordKind, Span};

/// Of a gateway whose database has been there from the beginning.
pub(crate) const DATABASE: &str = "0123456789abcdef0123456789abcdef";

/// 2026-07-25T17:20:00Z
pub(super) const NOON_NS: i64 = 1_785_000_000_000_000_000;

pub(super) const MINUTE_NS: i64 = 60 * 1_000_000_000;

/// A store with an organization in it: two workspaces, two people, four gateways.
pub(super) struct Fixture {
    pub(super) database: Arc<dyn Database>,
    pub(super) events: Arc<SqlEvents>,
    _test: TestDatabase,
}

/// `gw_1` and `gw_2` are in the first workspace and belong to Ada and Bob; `gw_3` is there and belongs to
/// nobody; `gw_4` is in the second workspace and belongs to Ada.
pub(super) fn origin(gateway: i64) -> Origin {
    Origin {
        organization: OrganizationId::from_number(1),
        workspace: WorkspaceId::from_number(if gateway == 4 { 2 } else { 1 }),
        gateway: GatewayId::from_number(gateway),
    }
}

pub(super) fn workspace() -> WorkspaceId {
    WorkspaceId::from_number(1)
}

impl Fixture {
    pub(super) async fn each() -> Vec<Self> {
        let mut fixtures = Vec::new();
        for test in TestDatabase::each().await {
            fixtures.push(Self::over(test).await);
        }
        fixtures
    }

    pub(super) async fn over(test: TestDatabase) -> Self {
        let database = Arc::clone(&test.database);
        people(&*database).await;
        for (id, workspace, owner) in
            [(1, 1, Some(1)), (2, 1, Some(2)), (3, 1, None), (4, 2, Some(1))]
        {
            gateway(&*database, id, workspace, owner).await;
        }
        let tasks = TaskTracker::new();
        let events = SqlEvents::open(Arc::clone(&database), Options::default(), &tasks).await;
        Self { database, events: Arc::new(events.unwrap()), _test: test }
    }

    /// Sends a run of records, the first of which has the number `first`.
    pub(super) async fn send(
        &self,
        gateway: i64,
        first: i64,
        records: &[Value],
    ) -> Result<Acknowledgement, AppendError> {
        let kind = match records.first() {
            Some(record) if record.get("event_type").is_some() => RecordKind::Audit,
            Some(_) | None => RecordKind::Traces,
        };
        self.events.append(origin(gateway), batch(kind, first, records)).await
    }

    pub(super) async fn traces(&self, query: &TraceQuery) -> Vec<TraceLine> {
        self.events.traces(workspace(), query).await.unwrap().rows
    }

    pub(super) async fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT CAST(count(*) AS BIGINT) FROM {table}");
        self.database.row(&sql, &[]).await.unwrap().unwrap().get(0).unwrap()
    }
}

async fn people(database: &dyn Database) {
    for sql in [
        "INSERT INTO organizations (id, name, slug, created_ms) VALUES (1, 'Acme', 'acme', 0)",
        "INSERT INTO teams (id, organization, name, created_ms) VALUES (1, 1, 'Core', 0)",
        "INSERT INTO workspaces (id, organization, team, name, created_ms)
            VALUES (1, 1, 1, 'dev', 0), (2, 1, 1, 'prod', 0)",
        "INSERT INTO users (id, email, name, created_ms)
            VALUES (1, 'ada@example.com', 'Ada', 0), (2, 'bob@example.com', '', 0)",
    ] {
        database.execute(sql, &[]).await.unwrap();
    }
}

pub(super) async fn gateway(database: &dyn Database, id: i64, workspace: i64, owner: Option<i64>) {
    let sql = "INSERT INTO gateways (id, organization, workspace, name, owner, lookup, hash,
            created_ms, os, arch, hostname, version, kind, environment)
        VALUES ($1, 1, $2, $3, $4, $5, $6, 0, 'linux', 'x86_64', 'host', '0.1.0', 'personal', 'dev')";
    let name = format!("gateway {id}");
    let parameters = values![id, workspace, name, owner, id, [0_u8; 32]];
    database.execute(sql, &parameters).await.unwrap();
}

pub(super) fn user(id: i64) -> UserId {
    UserId::from_number(id)
}

/// The lines of a batch. Records get the numbers of their places.
pub(crate) fn batch(kind: RecordKind, first: i64, records: &[Value]) -> Batch {
    batch_of(DATABASE, kind, first, records, &[])
}

pub(super) fn batch_of(
    database: &str,
    kind: RecordKind,
    first: i64,
    records: &[Value],
    lost: &[Span],
) -> Batch {
    let mut lines = String::new();
    for (seq, record) in (first..).zip(records) {
        let mut record = record.clone();
        record["seq"] = seq.into();
        lines.push_str(&format!("{record}\n"));
    }
    let head = BatchHead {
        database: database.to_owned(),
        kind,
        first,
        count: records.len() as u64,
        lost: lost.to_vec(),
    };
    Batch { head, lines: lines.into(), received_ms: NOON_NS / 1_000_000 }
}

pub(crate) fn timestamp(at_ns: i64) -> String {
    format!("{:.9}", jiff::Timestamp::from_nanosecond(at_ns.into()).unwrap())
}

/// The id of the record with this number: the same each time.
pub(crate) fn id(number: i64) -> Uuid {
    Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 | number as u128)
}

/// A trace as a gateway sends it, `number` minutes after noon.
pub(crate) fn trace(number: i64) -> Value {
    json!({
        "seq": 0,
        "id": id(number),
        "trace_id": format!("{:032x}", 0xabc_0000 + number),
        "span_id": format!("{:016x}", u64::MAX - number as u64),
        "parent_span_id": null,
        "operation": "tool_call",
        "method": "tools/call",
        "upstream": "files",
        "name": "read",
        "request": {"name": "read", "arguments": {"path": format!("/{number}")}},
        "response": {"content": [{"type": "text", "text": "x".repeat(300)}]},
        "request_bytes": 50,
        "response_bytes": 340,
        "status": "success",
        "error": null,
        "duration": 1_000_000 + number,
        "timestamp": timestamp(NOON_NS + number * MINUTE_NS),
        "principal": "claude/1.0",
        "session_id": "session-1",
        "metadata": {"transport": "stdio", "k": 1},
    })
}

/// An audit event as a gateway sends it, `number` minutes after noon.
pub(crate) fn event(number: i64) -> Value {
    json!({
        "seq": 0,
        "id": id(number),
        "trace_id": format!("{:032x}", 0xabc_0000 + number),
        "event_type": "tool_call",
        "severity": "info",
        "upstream": "files",
        "action": "read",
        "principal": "claude/1.0",
        "session_id": "session-1",
        "outcome": "success",
        "reason": null,
        "details": {"transport": "stdio"},
        "timestamp": timestamp(NOON_NS + number * MINUTE_NS),
    })
}

/// `record` with other values for some members.
pub(crate) fn with(mut record: Value, changes: Value) -> Value {
    for (member, value) in changes.as_object().unwrap() {
        record[member] = value.clone();
    }
    record
}

/// The first `limit` of all.
pub(super) fn all(limit: u32) -> TraceQuery {
    TraceQuery { limit, ..TraceQuery::default() }
}
