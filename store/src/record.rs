//! The records a gateway keeps. Plain values: how they are stored is the business of the [`Store`]s.
//!
//! Field names are those of `ultra traces --json` and of the Hub's wire; they are stable.
//!
//! [`Store`]: crate::Store

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A record on its way to the store.
#[derive(Debug, Clone)]
pub enum Record {
    /// What one call did.
    Trace(Box<Trace>),
    /// What must not be forgotten about it.
    Audit(Box<AuditEvent>),
}

/// One call, with the ids of its OpenTelemetry span.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Record id, ordered by time (UUID version 7).
    pub id: Uuid,
    /// W3C trace id.
    pub trace_id: u128,
    /// W3C span id.
    pub span_id: u64,
    /// Span the caller named in `_meta.traceparent`.
    pub parent_span_id: Option<u64>,
    /// `tool_call`, `resource_read`, …
    pub operation: &'static str,
    /// JSON-RPC method.
    pub method: Arc<str>,
    /// Upstream by its name in the config.
    pub upstream: Option<Arc<str>>,
    /// Tool, prompt or resource URI, as the upstream knows it.
    pub name: Option<Arc<str>>,
    /// `params`, as raw JSON; redacted and cut when it is stored.
    pub request: Option<Bytes>,
    /// Result or error, as raw JSON; redacted and cut when it is stored.
    pub response: Option<Bytes>,
    /// Success or error.
    pub status: Status,
    /// Why there was no result.
    pub error: Option<String>,
    /// Nanoseconds from reading the call to its outcome.
    pub duration_ns: u64,
    /// When the call was read, in nanoseconds since 1970 UTC.
    pub started_unix_ns: i64,
    /// MCP client, as `name/version`.
    pub principal: Arc<str>,
    /// MCP session.
    pub session_id: Arc<str>,
    /// How the upstream is reached: `stdio`, `http`, `sse`.
    pub transport: Option<&'static str>,
    /// What the trace component added.
    pub metadata: Vec<(String, FieldValue)>,
}

/// How a call ended, as a trace knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There was a result, and the tool did not call it an error.
    Success,
    /// Everything else.
    Error,
}

/// Something that happened and must be answerable for.
#[derive(Debug, Clone)]
pub struct AuditEvent {
    /// Record id, ordered by time (UUID version 7).
    pub id: Uuid,
    /// W3C trace id of the call, if the event is about one.
    pub trace_id: Option<u128>,
    /// What kind of event.
    pub event_type: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// Upstream by its name in the config.
    pub upstream: Option<Arc<str>>,
    /// Tool, prompt or resource URI.
    pub action: Option<Arc<str>>,
    /// MCP client, as `name/version`.
    pub principal: Arc<str>,
    /// MCP session.
    pub session_id: Option<Arc<str>>,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// Why it was denied or failed.
    pub reason: Option<String>,
    /// Free keys and values.
    pub details: Vec<(String, FieldValue)>,
    /// Nanoseconds since 1970 UTC.
    pub unix_ns: i64,
}

/// How much an audit event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A normal call.
    Info,
    /// Worth a look.
    Warning,
    /// An upstream or a tool failed.
    Error,
    /// A refusal or a failed authentication.
    Critical,
}

/// How an audited operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// There was a result.
    Success,
    /// The tool ran and reported an error of its own.
    Failure,
    /// There is no result.
    Error,
    /// An interceptor refused.
    Deny,
    /// The client withdrew the call.
    Canceled,
}

/// A value in metadata and details.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FieldValue {
    /// Text.
    Text(String),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// True or false.
    Bool(bool),
}

/// What one instrument gathered for one tool since it was last handed in.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricDelta {
    /// Instrument, such as `mcp.calls`.
    pub instrument: Arc<str>,
    /// UCUM unit: `{call}`, `s`, `By`.
    pub unit: Arc<str>,
    /// `tool_call`, `resource_read`, …
    pub operation: &'static str,
    /// Upstream by its name in the config.
    pub upstream: Option<Arc<str>>,
    /// Tool, prompt or resource URI.
    pub name: Option<Arc<str>>,
    /// What was measured.
    pub value: MetricValue,
}

/// The figures of a [`MetricDelta`]; two of the same shape add up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricValue {
    /// A sum.
    Counter(u64),
    /// A distribution over explicit bounds.
    Histogram {
        /// Number of samples.
        count: u64,
        /// Their sum, in the instrument's unit.
        sum: f64,
        /// Upper bounds, rising.
        bounds: Arc<[f64]>,
        /// Samples per bucket; one more than there are bounds.
        buckets: Vec<u64>,
    },
}

/// Where an upstream stands, as the gateway that runs it last saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Name in the config.
    pub upstream: String,
    /// Process id of the gateway.
    pub gateway_pid: u32,
    /// `starting`, `ready`, `waiting`, `stopped`.
    pub state: String,
    /// Name and version from its `serverInfo`.
    pub server: Option<String>,
    /// Tools, resources and prompts it lists.
    pub tools: u64,
    /// See `tools`.
    pub resources: u64,
    /// See `tools`.
    pub prompts: u64,
    /// Why it is not ready.
    pub error: Option<String>,
    /// The last lines it wrote to stderr, redacted.
    pub stderr: Option<String>,
    /// Nanoseconds since 1970 UTC.
    pub unix_ns: i64,
}
