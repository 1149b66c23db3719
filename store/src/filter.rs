//! What can be asked of a store, and the rows it answers with.
//!
//! Rows are what `--json` prints: their field names are stable.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::record::{AuditOutcome, MetricValue, Severity, Status};

/// Which traces. Every field narrows; the default takes the newest 50.
#[derive(Debug, Clone)]
pub struct TraceFilter {
    /// Upstream, by its exact name.
    pub upstream: Option<String>,
    /// Tool, prompt or URI, by its exact name.
    pub name: Option<String>,
    /// `tool_call`, `resource_read`, …
    pub operation: Option<String>,
    /// How it ended.
    pub status: Option<Status>,
    /// One trace, by its id in hex or the record's id.
    pub id: Option<String>,
    /// MCP client, as `name/version`.
    pub principal: Option<String>,
    /// MCP session.
    pub session_id: Option<String>,
    /// Started at or after, in nanoseconds since 1970 UTC.
    pub since_unix_ns: Option<i64>,
    /// Started before.
    pub until_unix_ns: Option<i64>,
    /// Only rows stored after this one ([`TraceRow::seq`]), for following: the first of them, up to
    /// the limit, so that none is missed.
    pub after_seq: Option<i64>,
    /// Only rows stored before this one, for leafing through older ones.
    pub before_seq: Option<i64>,
    /// Without it rows come without [`TraceRow::request`] and [`TraceRow::response`], and sooner.
    pub payloads: bool,
    /// At most so many.
    pub limit: usize,
}

/// Which audit events. Every field narrows; the default takes the newest 50.
#[derive(Debug, Clone)]
pub struct AuditFilter {
    /// Upstream, by its exact name.
    pub upstream: Option<String>,
    /// Tool, prompt or URI, by its exact name.
    pub name: Option<String>,
    /// `tool_call`, `policy_deny`, …
    pub event_type: Option<String>,
    /// How it ended.
    pub outcome: Option<AuditOutcome>,
    /// How much it matters.
    pub severity: Option<Severity>,
    /// One event, by the id of the record.
    pub id: Option<String>,
    /// MCP client, as `name/version`.
    pub principal: Option<String>,
    /// MCP session.
    pub session_id: Option<String>,
    /// At or after, in nanoseconds since 1970 UTC.
    pub since_unix_ns: Option<i64>,
    /// Before.
    pub until_unix_ns: Option<i64>,
    /// Only rows stored after this one ([`AuditRow::seq`]), for following: the first of them, up to
    /// the limit, so that none is missed.
    pub after_seq: Option<i64>,
    /// Only rows stored before this one, for leafing through older ones.
    pub before_seq: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

/// Which measurements. Every field narrows.
#[derive(Debug, Clone, Default)]
pub struct MetricFilter {
    /// Instrument, by its exact name.
    pub instrument: Option<String>,
    /// Upstream, by its exact name.
    pub upstream: Option<String>,
    /// Tool, prompt or URI, by its exact name.
    pub name: Option<String>,
    /// At or after, in nanoseconds since 1970 UTC; rounded down to the minute.
    pub since_unix_ns: Option<i64>,
    /// Before; rounded down to the minute.
    pub until_unix_ns: Option<i64>,
}

impl Default for TraceFilter {
    fn default() -> Self {
        Self {
            upstream: None,
            name: None,
            operation: None,
            status: None,
            id: None,
            principal: None,
            session_id: None,
            since_unix_ns: None,
            until_unix_ns: None,
            after_seq: None,
            before_seq: None,
            payloads: true,
            limit: 50,
        }
    }
}

impl Default for AuditFilter {
    fn default() -> Self {
        Self {
            upstream: None,
            name: None,
            event_type: None,
            outcome: None,
            severity: None,
            id: None,
            principal: None,
            session_id: None,
            since_unix_ns: None,
            until_unix_ns: None,
            after_seq: None,
            before_seq: None,
            limit: 50,
        }
    }
}

/// Records that follow each other, by their numbers ([`TraceRow::seq`], [`AuditRow::seq`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The lowest number; the first record there is from it on is always taken.
    pub first: i64,
    /// The highest number.
    pub last: i64,
    /// At most so many records.
    pub records_max: usize,
    /// At most so many bytes of payloads and other texts of any length, but for the first record.
    pub bytes_max: usize,
}

/// Numbers of the records there are. A number between them that is not there was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The lowest and the highest of the traces; nothing if there are none.
    pub traces: Option<(i64, i64)>,
    /// Likewise of the audit events.
    pub audit_events: Option<(i64, i64)>,
}

/// A place in the order of storing: a number of a trace, and one of an audit event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Of traces.
    pub trace: i64,
    /// Of audit events.
    pub audit_event: i64,
}

/// A stored trace.
#[derive(Debug, Serialize)]
pub struct TraceRow {
    /// Order of storing, within this database.
    pub seq: i64,
    /// Record id.
    pub id: String,
    /// W3C trace id, in hex.
    pub trace_id: String,
    /// W3C span id, in hex.
    pub span_id: String,
    /// Span of the caller, in hex.
    pub parent_span_id: Option<String>,
    /// `tool_call`, `resource_read`, …
    pub operation: String,
    /// JSON-RPC method.
    pub method: String,
    /// Upstream by its name in the config.
    pub upstream: Option<String>,
    /// Tool, prompt or resource URI.
    pub name: Option<String>,
    /// Request `params`: JSON, or a JSON string with the beginning when it was cut.
    pub request: Option<Box<RawValue>>,
    /// Result or error, likewise.
    pub response: Option<Box<RawValue>>,
    /// Size of the request before it was cut.
    pub request_bytes: u64,
    /// Size of the response before it was cut.
    pub response_bytes: u64,
    /// How it ended.
    pub status: Status,
    /// Why there was no result.
    pub error: Option<String>,
    /// Nanoseconds.
    pub duration: u64,
    /// RFC 3339, UTC, in nanoseconds.
    pub timestamp: String,
    /// MCP client, as `name/version`.
    pub principal: String,
    /// MCP session.
    pub session_id: String,
    /// JSON object: what the trace component added, and `transport`.
    pub metadata: Box<RawValue>,
}

/// A stored audit event.
#[derive(Debug, Serialize)]
pub struct AuditRow {
    /// Order of storing, within this database.
    pub seq: i64,
    /// Record id.
    pub id: String,
    /// W3C trace id of the call, in hex.
    pub trace_id: Option<String>,
    /// What kind of event.
    pub event_type: String,
    /// How much it matters.
    pub severity: Severity,
    /// Upstream by its name in the config.
    pub upstream: Option<String>,
    /// Tool, prompt or resource URI.
    pub action: Option<String>,
    /// MCP client, as `name/version`.
    pub principal: String,
    /// MCP session.
    pub session_id: Option<String>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// Why it was denied or failed.
    pub reason: Option<String>,
    /// JSON object.
    pub details: Box<RawValue>,
    /// RFC 3339, UTC, in nanoseconds.
    pub timestamp: String,
}

/// Measurements of one instrument for one tool, added up.
#[derive(Debug, Clone, Serialize)]
pub struct MetricRow {
    /// Instrument, such as `mcp.calls`.
    pub instrument: String,
    /// UCUM unit.
    pub unit: String,
    /// `tool_call`, `resource_read`, …
    pub operation: String,
    /// Upstream by its name in the config.
    pub upstream: Option<String>,
    /// Tool, prompt or resource URI.
    pub name: Option<String>,
    /// What was measured.
    #[serde(flatten)]
    pub value: MetricValue,
}
