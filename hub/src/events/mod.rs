//! The records of a fleet: taken from gateways, never changed, read by people.
//!
//! [`Records`] is what pages read: from the Hub's database, or from one gateway's own. [`EventStore`] is
//! where gateways' records go; a database made for events can take the place of the one in `sql`.

mod labels;
mod lines;
pub(crate) mod removal;
pub(crate) mod retention;
pub(crate) mod sql;

use async_trait::async_trait;
use serde::Serialize;
use ultra_store::{AuditOutcome, Severity, Status};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::DbError;
use crate::id::{GatewayId, OrganizationId, UserId, WorkspaceId};
use crate::wire::{Acknowledgement, BatchHead, Span, StreamState};

/// What people read. Everything is of one workspace, and of no other.
#[async_trait]
pub(crate) trait Records: Send + Sync {
    /// Returns traces without their payloads, newest first.
    async fn traces(&self, workspace: WorkspaceId, query: &TraceQuery) -> Found<Page<TraceLine>>;

    /// Returns one trace with everything that is known of it.
    async fn trace(&self, workspace: WorkspaceId, id: Uuid) -> Found<Option<TraceDetail>>;

    /// Returns the calls of a session, oldest first, at most `limit` of them.
    async fn session(
        &self,
        workspace: WorkspaceId,
        of: &SessionKey,
        limit: u32,
    ) -> Found<Vec<TraceLine>>;

    /// Returns audit events, newest first.
    async fn audit_events(
        &self,
        workspace: WorkspaceId,
        query: &AuditQuery,
    ) -> Found<Page<AuditLine>>;

    /// Returns one audit event.
    async fn audit_event(&self, workspace: WorkspaceId, id: Uuid) -> Found<Option<AuditLine>>;

    /// Returns what there is to filter by since then, most used first, a bounded number of each.
    async fn choices(&self, workspace: WorkspaceId, since_ns: i64) -> Found<Choices>;

    /// Returns the servers that were used since then, by name.
    async fn servers(&self, workspace: WorkspaceId, since_ns: i64) -> Found<Vec<ServerUse>>;

    /// Returns how one server was used since then.
    async fn server(
        &self,
        workspace: WorkspaceId,
        upstream: &str,
        since_ns: i64,
    ) -> Found<Option<ServerDetail>>;

    /// Returns the clients that used a gateway, last active first.
    async fn clients(&self, workspace: WorkspaceId, gateway: GatewayId) -> Found<Vec<ClientUse>>;

    /// Returns a number that is another one when there are new records. For pages that follow.
    async fn revision(&self, workspace: WorkspaceId) -> Found<i64>;
}

/// Where gateways' records go.
#[async_trait]
pub(crate) trait EventStore: Records {
    /// Stores what of a batch is not there yet. When this returns, it is durable.
    async fn append(&self, origin: Origin, batch: Batch) -> Result<Acknowledgement, AppendError>;

    /// Returns what was taken and is not durable yet.
    fn waiting(&self) -> Vec<Waiting>;

    /// Returns what is there of a gateway's streams; of one database only, if it is named.
    async fn streams(&self, gateway: GatewayId, database: Option<&str>) -> Found<Vec<StreamState>>;

    /// Notes that a gateway keeps these records to itself.
    async fn leave_out(&self, origin: Origin, before: &[StreamState]) -> Found<()>;

    /// Deletes traces and audit events from before these times; returns how many, at most a bounded
    /// number at a time (call again while it returns more than none).
    async fn retain(&self, traces_from_ns: i64, audit_from_ns: i64) -> Found<u64>;

    /// Deletes what there is of a workspace that is no longer there, likewise.
    async fn remove(&self, workspace: WorkspaceId) -> Found<u64>;

    /// Returns, for each stream of a gateway, the numbers that are missing below its last one, and those
    /// that the gateway declared as lost.
    async fn verify(&self, gateway: GatewayId) -> Found<Vec<Gaps>>;
}

/// What a reading returns.
pub(crate) type Found<T> = Result<T, DbError>;

/// Whose records a batch has: from the gateway's secret, never from the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) organization: OrganizationId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) gateway: GatewayId,
}

/// A batch as it came, no longer compressed: its head, and the lines behind it.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) head: BatchHead,
    pub(crate) lines: bytes::Bytes,
    pub(crate) received_ms: i64,
}

/// Batches of one lane that wait to be stored, or are being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) lane: &'static str,
    pub(crate) batches: u64,
    pub(crate) records: u64,
}

/// Why a batch was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// The head makes no sense, or says another number of lines than there are.
    #[error("the batch makes no sense: {reason}")]
    Invalid { reason: &'static str },
    /// It would make more spans than are kept for a stream.
    #[error("gaps must be filled first")]
    GapsFirst { spans: Vec<Span> },
    /// More waits to be stored than the Hub takes; or its disk is nearly full.
    #[error("the Hub takes no more records for now")]
    Full,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// What is missing of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Gaps {
    pub(crate) stream: StreamState,
    /// Numbers below the last one that did not come yet.
    #[schema(value_type = Vec<Vec<i64>>)]
    pub(crate) missing: Vec<Span>,
    /// Numbers that will never come, because the gateway has them no more.
    #[schema(value_type = Vec<Vec<i64>>)]
    pub(crate) lost: Vec<Span>,
}

/// A session, as its gateway names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionKey {
    pub(crate) gateway: GatewayId,
    pub(crate) session: String,
}

/// A page of something, and where the next one begins.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) next: Option<Cursor>,
}

/// A place in a list that is ordered by time: rows behind it are older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) at_ns: i64,
    pub(crate) id: Uuid,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at_ns, self.id.simple())
    }
}

impl std::str::FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let (at_ns, id) = text.split_once('.').ok_or(BadCursor)?;
        let at_ns = at_ns.parse().map_err(|_| BadCursor)?;
        Ok(Self { at_ns, id: id.parse().map_err(|_| BadCursor)? })
    }
}

/// A text that is no cursor.
#[derive(Debug, thiserror::Error)]
#[error("not a place in this list")]
pub(crate) struct BadCursor;

/// Which traces. Every field narrows.
#[derive(Debug, Clone, Default)]
pub(crate) struct TraceQuery {
    pub(crate) operation: Option<String>,
    pub(crate) upstream: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) status: Option<Status>,
    /// MCP client, as `name/version`.
    pub(crate) client: Option<String>,
    /// Owner of the gateway.
    pub(crate) user: Option<UserId>,
    pub(crate) gateway: Option<GatewayId>,
    pub(crate) session: Option<String>,
    /// W3C trace id in hex, or the id of a record.
    pub(crate) id: Option<String>,
    /// Started at or after.
    pub(crate) since_ns: Option<i64>,
    /// Started before.
    pub(crate) until_ns: Option<i64>,
    pub(crate) after: Option<Cursor>,
    pub(crate) limit: u32,
}

/// Which audit events. Every field narrows.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditQuery {
    pub(crate) event_type: Option<String>,
    pub(crate) outcome: Option<AuditOutcome>,
    pub(crate) severity: Option<Severity>,
    pub(crate) upstream: Option<String>,
    pub(crate) action: Option<String>,
    /// MCP client, as `name/version`.
    pub(crate) client: Option<String>,
    /// Owner of the gateway.
    pub(crate) user: Option<UserId>,
    pub(crate) gateway: Option<GatewayId>,
    pub(crate) session: Option<String>,
    pub(crate) since_ns: Option<i64>,
    pub(crate) until_ns: Option<i64>,
    pub(crate) after: Option<Cursor>,
    pub(crate) limit: u32,
}

/// Which gateway, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct GatewayLabel {
    #[schema(value_type = String)]
    pub(crate) id: GatewayId,
    pub(crate) name: String,
    /// Name of its owner, or else the address; nothing if a deploy key linked it.
    pub(crate) owner: Option<String>,
}

/// Whose gateways they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct UserLabel {
    #[schema(value_type = String)]
    pub(crate) id: UserId,
    /// The name, or else the address.
    pub(crate) name: String,
}

/// A trace in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TraceLine {
    #[schema(value_type = String)]
    pub(crate) id: Uuid,
    pub(crate) gateway: GatewayLabel,
    pub(crate) started_ns: i64,
    pub(crate) duration_ns: i64,
    pub(crate) operation: String,
    pub(crate) method: String,
    pub(crate) upstream: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) client: String,
    pub(crate) session: String,
    /// W3C trace id, in hex.
    pub(crate) trace_id: Option<String>,
    #[schema(value_type = String)]
    pub(crate) status: Status,
    pub(crate) error: Option<String>,
    pub(crate) request_bytes: i64,
    pub(crate) response_bytes: i64,
}

/// A trace with everything.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TraceDetail {
    #[serde(flatten)]
    pub(crate) line: TraceLine,
    /// W3C span id, in hex.
    pub(crate) span_id: String,
    pub(crate) parent_span_id: Option<String>,
    /// JSON, or a JSON string with the beginning.
    pub(crate) request: Option<String>,
    /// Likewise.
    pub(crate) response: Option<String>,
    /// JSON object.
    pub(crate) metadata: String,
    /// When the Hub took it; nothing in a gateway's own database.
    pub(crate) received_ms: Option<i64>,
}

/// An audit event.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct AuditLine {
    #[schema(value_type = String)]
    pub(crate) id: Uuid,
    pub(crate) gateway: GatewayLabel,
    pub(crate) at_ns: i64,
    pub(crate) event_type: String,
    #[schema(value_type = String)]
    pub(crate) severity: Severity,
    #[schema(value_type = String)]
    pub(crate) outcome: AuditOutcome,
    pub(crate) upstream: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) client: String,
    pub(crate) session: Option<String>,
    pub(crate) trace_id: Option<String>,
    pub(crate) reason: Option<String>,
    /// JSON object.
    pub(crate) details: String,
}

/// What there is to filter by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choices {
    pub(crate) operations: Vec<String>,
    pub(crate) upstreams: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) clients: Vec<String>,
    pub(crate) gateways: Vec<GatewayLabel>,
    /// Owners of gateways, with their names.
    pub(crate) users: Vec<(UserId, String)>,
}

/// How a server, or something of it, was used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct Usage {
    pub(crate) calls: i64,
    pub(crate) errors: i64,
    /// Of all calls together.
    pub(crate) duration_ns: i64,
    pub(crate) last_ns: i64,
}

/// A server, in the list of servers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ServerUse {
    pub(crate) upstream: String,
    /// Of the newest call; nothing if that did not say.
    pub(crate) transport: Option<String>,
    pub(crate) usage: Usage,
    pub(crate) tools: i64,
    pub(crate) gateways: i64,
    pub(crate) users: i64,
}

/// A server, with what of it was used and by whom.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ServerDetail {
    pub(crate) server: ServerUse,
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    pub(crate) tools: Vec<(String, Usage)>,
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    pub(crate) gateways: Vec<(GatewayLabel, Usage)>,
    /// Owners of the gateways.
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    pub(crate) users: Vec<(UserLabel, Usage)>,
}

/// A client that used a gateway.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ClientUse {
    /// As `name/version`.
    pub(crate) client: String,
    pub(crate) usage: Usage,
}

#[cfg(test)]
mod bench;
#[cfg(test)]
pub(crate) mod tests;
